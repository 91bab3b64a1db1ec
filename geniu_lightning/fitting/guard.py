"""The guard against losses that are no finite numbers, and a fit that Ctrl-C can end."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from geniu_lightning.errors import TrainingDivergedError


def fit(trainer: Trainer, module: LightningModule, *what: Any, **how: Any) -> None:
    """Fit as Lightning does, but let an interruption be one: Lightning turns it into an exit.

    Raises:
        KeyboardInterrupt: If Ctrl-C ended the fit.
    """
    try:
        trainer.fit(module, *what, **how)
    except SystemExit as ending:
        # a job that is queued again ends by an exit of its own, whose status its cluster reads
        if isinstance(ending.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ending
        raise


class NonFiniteGuard:
    """Records the first step whose loss was no finite number.

    The record stays on the loss's device. Reading it synchronises the device, so it is read now and
    then, and before anything is saved.

    Args:
        remedy: What the reader of the error can do.
    """

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        self._first: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Note the loss of a step, a scalar."""
        bad = torch.where(loss.detach().isfinite(), torch.inf, float(step))
        self._first = bad if self._first is None else torch.minimum(self._first, bad)

    def stop_if_bad(self) -> None:
        """Raise if a step was bad.

        Raises:
            TrainingDivergedError: Naming the first such step.
        """
        if self._first is not None and self._first.isfinite():
            raise TrainingDivergedError(
                f"the loss stopped being a finite number at step {int(self._first)}; {self.remedy}"
            )
