"""What a person sees while they wait, and when they are done."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from geniu_lightning.cli.command import say
from geniu_lightning.cli.sweeps import Note
from geniu_lightning.evaluation.verdict import Decision

console = Console(highlight=False)
SECONDS_BETWEEN_LINES = 5.0
TALKATIVE = {  # loggers, and from which level they are heard
    "pytorch_lightning": logging.WARNING,
    "lightning_fabric": logging.WARNING,
    "lightning": logging.WARNING,
    "torch.distributed": logging.WARNING,
    "matplotlib": logging.WARNING,
    "pytorch_lightning.utilities.rank_zero": logging.ERROR,
}


def quiet() -> None:
    """Silence what other packages say on every run and nobody can act on."""
    for name, level in TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    for message in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*`srun` command is available.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*Experiment logs directory.*",
        ".*no pre-optimization state was saved.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quietly() -> Iterator[None]:
    """Be `quiet` for a while, in a process that is somebody else's."""
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def progress_of(label: str) -> Callback:
    """Return a progress bar for a screen, and lines now and then for a file or pipe."""
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=10, leave=False)
    return ProgressLines(label)


class ProgressLines(ProgressBar):
    """A line for the first, the last and, every few seconds, another epoch or step.

    Args:
        label: What is going on.
    """

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self._last = 0.0

    def disable(self) -> None:
        """Do nothing: Lightning calls this on all ranks but the first."""
        self.label = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say nothing of what takes no time."""
        if trainer.max_steps > 0:
            self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Print where a training by steps is."""
        if trainer.max_steps > 0:
            self._say(trainer, pl_module, f"step {trainer.global_step}/{trainer.max_steps}", False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print where a training by epochs is."""
        if trainer.max_steps <= 0:
            of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
            last = trainer.current_epoch + 1 == trainer.max_epochs
            self._say(trainer, pl_module, f"epoch {trainer.current_epoch + 1}{of}", last)

    def _say(self, trainer: Trainer, module: LightningModule, where: str, always: bool) -> None:
        now = time.monotonic()
        if not self.label or not (always or now - self._last > SECONDS_BETWEEN_LINES):
            return
        self._last = now
        metrics = self.get_metrics(trainer, module)
        said = "  ".join(
            f"{name.split('/', 1)[-1]} {value:.3f}"
            for name, value in metrics.items()
            if isinstance(value, float)
        )
        say(f"{self.label}  {where}  {said}")


def decoding_progress() -> Callable[[str, int, int], None]:
    """Return a reporter of how many pictures are decoded, silent when it takes no time."""
    start = time.monotonic()
    last = [start]

    def report(split: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] > SECONDS_BETWEEN_LINES:
            last[0] = now
            say(f"reading {split} images  {done}/{total}")

    return report


def sweep(
    notes: Sequence[Note], heads: list[str], cells: Callable[[Path], list[object] | None]
) -> None:
    """Print what the runs of a sweep found, a row each, and why one found nothing.

    Args:
        notes: Of the jobs.
        heads: Of the columns; a last one, of folders and reasons, has none.
        cells: Returns a run's row but for that one; ``None`` leaves it out.
    """
    rows: list[list[object]] = []
    common = set.intersection(*(set(note.words) for note in notes)) if len(notes) > 1 else set()
    for note in notes:
        if note.failed:
            own = ", ".join(word for word in note.words if word not in common)
            rows.append([Path(note.folder).name or own, *["-"] * (len(heads) - 1), note.failed])
        elif (found := cells(Path(note.folder))) is not None:
            rows.append([*found, note.folder])
    if rows:
        table("runs of this sweep", [*heads, ""], rows)
    count = sum(bool(note.failed) for note in notes)
    if count:
        say(f"{count} of {len(notes)} failed; the same command tries these again")


def waiting(seconds: float) -> Callable[[str], None]:
    """Say how long an evaluation will take if that is long, and return a reporter of its parts.

    Args:
        seconds: An estimate.
    """
    start = time.monotonic()
    last = [start]
    if seconds > 2 * SECONDS_BETWEEN_LINES:
        about = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        say(f"evaluation will take about {about}")

    def report(text: str) -> None:
        now = time.monotonic()
        if now - last[0] > SECONDS_BETWEEN_LINES:
            last[0] = now
            say(f"evaluating {text}  {now - start:.0f} s of about {max(seconds, now - start):.0f}")

    return report


def verdict(decision: Decision, oracles: int) -> None:
    """Print the verdict, its findings, and the verdicts on oracles and controls."""
    if decision.verdict is None:
        say(f"no verdict: {decision.ruling.reason}")
        return
    console.print(f"[bold]{decision.verdict}[/bold]: {decision.ruling.reason}", soft_wrap=True)
    if decision.ruling.deciding:
        rows = [
            [f.name, f.value, f.oracles, f.allowed, "-" if f.original is None else f.original]
            for f in decision.ruling.deciding
        ]
        columns = ["deciding", "model", f"{oracles} oracles", "allowed ±", "original"]
        table("", columns, rows)
    counts = ", ".join(f"{verdict} {count}" for verdict, count in decision.oracles.items())
    controls = ", ".join(f"{name} {verdict}" for name, verdict in decision.controls.items())
    say(f"verdicts of the same rule on the oracles: {counts}; on the controls: {controls}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: numbers to the right, fractions with four digits.

    Text stands in the first column and may stand in the last; there it is folded, not cut.
    """
    made = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for k, column in enumerate(columns):
        if (k == len(columns) - 1 and all(isinstance(row[k], str) for row in rows)) or k == 0:
            made.add_column(column, overflow="fold")
        else:
            made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row))
    console.print(made)
