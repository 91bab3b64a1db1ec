"""Lightning's loggers for a run: a csv file, and wandb."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from geniu_lightning.tracking.charts import Shown, charts_of

LONGEST_TAG = 64  # characters; wandb refuses more


def loggers_of(
    wanted: Mapping[str, Any] | None,
    folder: Path,
    job: str,
    config: Mapping[str, Any],
    tags: Sequence[str],
) -> list[Logger]:
    """Return the loggers of a run, which is named after its folder.

    `wanted` holds `csv` and `wandb`, each a mapping of settings or null; `None` is no logger.
    """
    wanted = wanted or {}
    loggers: list[Logger] = []
    if wanted.get("csv") is not None:
        loggers.append(CSVLogger(str(folder), name="log"))
    if (settings := wanted.get("wandb")) is not None:
        os.environ.setdefault("WANDB_SILENT", "true")
        first = getattr(rank_zero_only, "rank", 0) == 0  # the others open no run: no key, no id
        mode = os.environ.get("WANDB_MODE") or ("online" if first and _has_key() else "offline")
        logger = WandbLogger(
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
            config=dict(config),
            resume="allow",
        )
        _ = logger.experiment  # begins the run now, in the first process, not amid training
        loggers.append(logger)
    return loggers


def wandb_id(folder: Path) -> str:
    """Return wandb's id of the run in a folder, drawn once and stored in the folder."""
    file = folder / ".wandb_id"
    if not file.is_file():
        file.write_text(secrets.token_hex(8))
    return file.read_text()


@rank_zero_only
def show(loggers: Sequence[Logger], shown: Shown) -> None:
    """Show what was found at the end of a run in wandb, if that is among the loggers."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            pictures = {k: wandb.Image(str(path)) for k, path in shown.pictures.items()}
            if row := pictures | charts_of(shown):
                logger.experiment.log(row)
            logger.experiment.summary.update(dict(shown.summary))


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """End the logged run with the block, not with the process: a sweep runs many in one."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            logger.finalize("failed" if failed else "success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def _has_key() -> bool:
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error:  # a key, but no way to its server: what is written can be synced
        return False
