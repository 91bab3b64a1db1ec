"""Loggers: files of our own, and wandb so that a sweep reads well."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from geniu_lightning.app.build import plain


def loggers_of(
    config: DictConfig, folder: Path, job: str, facts: Mapping[str, Any], tags: Sequence[str]
) -> list[Logger]:
    """Return the loggers that the configuration names.

    Args:
        config: ``csv`` and ``wandb``, each a mapping of settings or null.
        folder: The run's folder: its name is the run's, its path is wandb's id, so that a resumed
            run goes on.
        job: ``train`` or ``unlearn``, wandb's job type.
        facts: The run's configuration and what else says what it is.
        tags: Words to find it by.
    """
    loggers: list[Logger] = []
    if config.get("csv") is not None:
        loggers.append(CSVLogger(str(folder), name="log"))
    if config.get("wandb") is not None:
        loggers.append(_wandb(plain(config.wandb), folder, job, facts, tags))
    return loggers


def _wandb(
    settings: dict[str, Any], folder: Path, job: str, facts: Mapping[str, Any], tags: Sequence[str]
) -> WandbLogger:
    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    logger = WandbLogger(
        project=settings["project"],
        entity=settings["entity"],
        group=settings["group"],
        job_type=job,
        name=folder.name,
        id=wandb_id(folder),
        tags=[*tags, *settings["tags"]],
        save_dir=str(folder),
        offline=mode == "offline",
        mode=mode,
        config=dict(facts),
        resume="allow",
    )
    _ = logger.experiment  # begins the run here, in the first process, not in the midst of training
    return logger


def wandb_id(folder: Path) -> str:
    """Return the id of a folder's run: drawn once and kept there, so that it is resumed."""
    kept = folder / ".wandb_id"
    if not kept.is_file():
        kept.write_text(secrets.token_hex(8))
    return kept.read_text()


def log_pictures(loggers: Sequence[Logger], pictures: Mapping[str, Path]) -> None:
    """Send pictures to the loggers that show them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for key, path in pictures.items():
                logger.log_image(key, [str(path)])


def log_summary(loggers: Sequence[Logger], values: Mapping[str, float | str]) -> None:
    """Write final values where a table of runs shows them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(values))


def close(loggers: Sequence[Logger], failed: bool = False) -> None:
    """End the run here, in the job, not when the process ends: a sweep runs many in one."""
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
