"""Base of methods that first impair and then repair."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from geniu_lightning.errors import SettingError
from geniu_lightning.settings.checked import NonNegativeInt, Positive
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch


class TwoPhases(Unlearner):
    """Takes all steps of one phase, then all of another, each with its own learning rate.

    The optimizer's state is cleared before the second phase, as if it were new. With `Tuning` as a
    second base this class comes first.

    Args:
        impair_steps: Steps of the first phase, at the optimizer's own rate.
        repair_steps: Steps of the second phase.
        repair_rate: Learning rate of the second phase.
        **settings: Those of the base, without `steps` and `schedule`.
    """

    def __init__(
        self,
        *,
        impair_steps: NonNegativeInt,
        repair_steps: NonNegativeInt,
        repair_rate: Positive,
        **settings: Any,
    ) -> None:
        # the two rates are the schedule
        super().__init__(steps=impair_steps + repair_steps, schedule="none", **settings)
        self.impair_steps = impair_steps
        self.repair_steps = repair_steps
        self.repair_rate = repair_rate

    def lr_schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Return the optimizer's own rate in the first phase and `repair_rate` in the second."""
        rate = optimizer.param_groups[0]["lr"]
        if not rate > 0:
            raise SettingError(f"must be greater than 0, got {rate}", key="unlearner.optimizer.lr")
        return LambdaLR(
            optimizer, lambda step: 1.0 if step < self.impair_steps else self.repair_rate / rate
        )

    def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
        """Clear the optimizer's state between the phases."""
        if self.global_step == self.impair_steps:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
