"""The guard against losses that are no finite numbers."""

import torch
from torch import Tensor

from geniu_lightning.errors import TrainingDivergedError


class NonFiniteGuard:
    """Records the first step whose loss was no finite number.

    The record stays on the loss's device. Reading it synchronises the device, so it is read now and
    then, and before anything is saved. The error ends with `remedy`.
    """

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        self._first: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Note the loss of a step, a scalar."""
        bad = torch.where(loss.detach().isfinite(), torch.inf, float(step))
        self._first = bad if self._first is None else torch.minimum(self._first, bad)

    def stop_if_bad(self) -> None:
        """Raise `TrainingDivergedError` with the number of the first bad step, if there is one."""
        if self._first is not None and self._first.isfinite():
            raise TrainingDivergedError(
                f"the loss stopped being a finite number at step {int(self._first)}; {self.remedy}"
            )
