"""Loggers: files of our own, and wandb so that a sweep reads well."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from geniu_lightning.settings.configs import plain
from geniu_lightning.tracking.charts import Bars, Chart, Lines, Matrix, Sheet, Shown
from geniu_lightning.tracking.history import History, sent, set_aside

if TYPE_CHECKING:
    import wandb

LONGEST_TAG = 64  # which wandb refuses to go beyond


def loggers_of(
    config: DictConfig, folder: Path, job: str, facts: Mapping[str, Any], tags: Sequence[str]
) -> list[Logger]:
    """Return the loggers that the configuration names.

    Args:
        config: The run's. Its ``logger`` has ``csv`` and ``wandb``, each a mapping of settings or
            null.
        folder: The run's folder: its name is the run's, and wandb's id is kept in it, so that a
            resumed run goes on.
        job: ``train``, ``unlearn`` or ``evaluate``, wandb's job type.
        facts: What else says what the run is.
        tags: Words to find it by.
    """
    wanted = plain(config.get("logger")) or {}
    loggers: list[Logger] = []
    if wanted.get("csv") is not None:
        loggers.append(CSVLogger(str(folder), name="log"))
    if wanted.get("wandb") is not None:
        loggers.append(_wandb(wanted["wandb"], folder, job, plain(config) | facts, tags))
    return loggers


def _wandb(
    settings: dict[str, Any], folder: Path, job: str, facts: Mapping[str, Any], tags: Sequence[str]
) -> WandbLogger:
    os.environ.setdefault("WANDB_SILENT", "true")
    first = not getattr(
        rank_zero_only, "rank", 0
    )  # the others never open a run, so they need no key and no id
    mode = os.environ.get("WANDB_MODE") or ("online" if first and _has_key() else "offline")
    logger = WandbRun(
        History(folder),
        project=settings["project"],
        entity=settings["entity"],
        group=settings["group"],
        job_type=job,
        name=folder.name,
        id=wandb_id(folder) if first else None,
        tags=[str(tag)[:LONGEST_TAG] for tag in (*tags, *settings["tags"])],
        save_dir=str(folder),
        offline=mode in ("offline", "dryrun"),  # the latter is Lightning's word for it
        mode=mode,
        config=dict(facts),
        resume="allow",
    )
    _ = logger.experiment  # begins the run here, in the first process, not in the midst of training
    return logger


class WandbRun(WandbLogger):
    """Lightning's logger, with our steps as wandb's own.

    Lightning lets wandb count its calls. Without a network a resumed run counts from 0 again, and a
    killed one has lost its newest rows. So a row goes to the step that it is of, all that is logged
    at one step is one row, and a run that goes on first says again what was logged before its
    checkpoint; the files of the processes that were ended before it and were not synced are then
    set aside.

    Args:
        history: Of the rows that were sent.
        offline: Whether they go to a file. When that is synced, wandb adds to its steps those that
            the server has of the run, so they are counted from there.
        **settings: Of Lightning's logger.
    """

    def __init__(self, history: History, offline: bool = False, **settings: Any) -> None:
        super().__init__(offline=offline, **settings)
        self.history = history
        self.offline = offline
        self._at = 0
        self._sent = 0  # steps that are, or will be, at the server before this process's file

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a step."""
        if step is None:
            raise ValueError("numbers are of a step, got none")
        if not self.history.begun:
            self._go_on(step)
        # Lightning tells the values of an epoch after the first step of the next was counted
        self._at = max(step, self._at)
        self.history.add(self._at, metrics)
        self._send(metrics, self._at)

    @rank_zero_only
    def show(self, shown: Shown) -> None:
        """Log what there is at the end, in a row of its own."""
        import wandb

        end = self.history.last() + 1
        if not self.history.begun:  # killed between training and this, or judged anew
            self._go_on(end)
        pictures = {k: wandb.Image(str(path)) for k, path in shown.pictures.items()}
        charts = {k: _drawn(chart) for k, chart in shown.charts.items()}
        if pictures or charts:
            at = max(end, self._sent + self.experiment.step)
            self.history.add(at, {})
            self._send(pictures | charts, at)
        self.experiment.summary.update(shown.summary)

    def _go_on(self, step: int) -> None:
        """Say the rows before a step, of processes that were ended, unless the server has them."""
        folder, newest = self.history.folder, Path(self.experiment.dir).parent.name
        if self.offline:
            told = self.history.told()
            self._sent = max((told.get(file, -1) for file in sent(folder)), default=-1) + 1
        set_aside(folder, newest)
        for earlier, row in self.history.begin(step, newest).items():
            if row:  # what was shown at an end is shown anew, or stands at the server
                self._send(row, earlier)

    def _send(self, row: Mapping[str, Any], step: int) -> None:
        wandbs = step - self._sent
        if wandbs >= self.experiment.step:  # else the server has it, from before it was resumed
            self.experiment.log({**row, "trainer/global_step": step}, step=wandbs)


def wandb_id(folder: Path) -> str:
    """Return the id of a folder's run: drawn once and kept there, so that it is resumed."""
    kept = folder / ".wandb_id"
    if not kept.is_file():
        kept.write_text(secrets.token_hex(8))
    return kept.read_text()


def show(loggers: Sequence[Logger], shown: Shown) -> None:
    """Send what there is at the end to the loggers that show it."""
    for logger in _runs(loggers):
        logger.show(shown)


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """End the run with the job, not when the process ends: a sweep runs many in one."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            logger.finalize("failed" if failed else "success")
        for run in _runs(loggers):
            run.experiment.finish(exit_code=int(failed))


def _runs(loggers: Sequence[Logger]) -> Iterator[WandbRun]:
    return (logger for logger in loggers if isinstance(logger, WandbRun))


def _drawn(chart: Chart) -> Any:  # a table of wandb's, or one of its charts
    import wandb

    if isinstance(chart, Sheet):
        return _table(chart.columns, chart.rows)
    if isinstance(chart, Bars):
        table = _table(["class", "accuracy"], [[k, v] for k, v in chart.values.items()])
        return wandb.plot.bar(table, "class", "accuracy", title=chart.title)
    if isinstance(chart, Lines):
        return wandb.plot.line_series(
            chart.xs,
            list(chart.series.values()),
            keys=list(chart.series),
            title=chart.title,
            xname=chart.xname,
        )
    return _confusion(chart)


def _confusion(chart: Matrix) -> Any:  # a chart of wandb's
    """Return wandb's own chart; its ``confusion_matrix`` would count the answers one by one."""
    import wandb

    columns = ["Actual", "Predicted", "nPredictions"]
    rows = [
        [actual, predicted, count]
        for actual, counts in zip(chart.names, chart.counts.tolist(), strict=True)
        for predicted, count in zip(chart.names, counts, strict=True)
    ]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        _table(columns, rows),
        {name: name for name in columns},
        {"title": chart.title},
    )


def _table(columns: Sequence[str | int], rows: list[list[Any]]) -> wandb.Table:
    import wandb

    return wandb.Table(columns=list(columns), data=rows)


def _has_key() -> bool:
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error:  # a key, but no way to its server: what is written can be synced
        return False
