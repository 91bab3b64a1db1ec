"""The Lightning trainer of commands and of the Python interface, and its fit."""

import atexit
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.compile import CompileAndMemoryFormat
from geniu_lightning.fitting.distributed import leave_group
from geniu_lightning.fitting.precision import FULL, HALF
from geniu_lightning.fitting.progress import progress_bar


def make_trainer(
    label: str,
    *,
    precision: str | None = None,
    channels_last: bool | Literal["auto"] = "auto",
    compile: bool = False,
    folder: Path | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    **lightning: Any,  # further arguments of Lightning's trainer
) -> Trainer:
    """Return a trainer that draws no summary, checks no batch beforehand and shares out no data.

    `label` names the fit in its progress bar, and Lightning may write to `folder`. `precision` is
    `32-true`, also for `None`, or `bf16-mixed`, with which `channels_last`, the memory layout of
    the classifier, is true where it is `auto`.
    """
    precision = precision or FULL
    if channels_last == "auto":
        channels_last = precision == HALF
    if lightning.get("max_steps", -1) != -1:
        lightning.setdefault("max_epochs", -1)  # else Lightning stops after 1000 epochs
    form = CompileAndMemoryFormat(channels_last=channels_last, compiled=compile)
    try:
        return Trainer(
            precision=precision,  # type: ignore[arg-type]  # one of Lightning's names
            default_root_dir=None if folder is None else str(folder),
            logger=list(loggers) or False,
            callbacks=[*callbacks, form, progress_bar(label)],
            enable_progress_bar=True,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our loader shares out its batches itself
            **{"log_every_n_steps": 1} | lightning,  # our modules choose the steps that they log
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the trainer cannot be made of these settings: {error}") from error


def fit(trainer: Trainer, module: LightningModule, *what: Any, **how: Any) -> None:
    """Fit as Lightning does, but raise `KeyboardInterrupt` again: Lightning would exit."""
    atexit.unregister(leave_group)
    atexit.register(leave_group)
    try:
        trainer.fit(module, *what, **how)
    except SystemExit as ending:
        # a job that is queued again ends by an exit of its own, whose status its cluster reads
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise ending.__context__ from ending
        raise
