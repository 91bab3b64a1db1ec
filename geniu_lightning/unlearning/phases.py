"""What methods share that first damage and then repair."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import UnlearnBatch


class TwoPhases(Unlearner):
    """Takes all steps of one phase, then all of another, each with its own learning rate.

    The optimizer is of one kind, and what it remembers of the first phase is cleared before the
    second, as if it were new. A method lays its batches in turn (see
    `ChainBatches`); beside
    `Tuning` this class comes first.

    Args:
        impair_steps: Steps of the first phase, at the optimizer's own rate; may be 0.
        repair_steps: Steps of the second; may be 0.
        repair_rate: Learning rate of the second.
        **settings: Those of the base, without ``steps`` and ``schedule``.

    Raises:
        UserError: If a number of steps is negative, or a rate is not above 0.
    """

    def __init__(
        self,
        *,
        impair_steps: int,
        repair_steps: int,
        repair_rate: float,
        **settings: object,
    ) -> None:
        for name, count in (("impair_steps", impair_steps), ("repair_steps", repair_steps)):
            if count < 0:
                raise UserError(f"unlearner.{name} must be at least 0, got {count}")
        if not repair_rate > 0:
            raise UserError(f"unlearner.repair_rate must be above 0, got {repair_rate}")
        super().__init__(
            steps=impair_steps + repair_steps,
            schedule="none",  # the two rates are the schedule
            **settings,  # type: ignore[arg-type]  # the base checks them
        )
        self.impair_steps = impair_steps
        self.repair_steps = repair_steps
        self.repair_rate = repair_rate

    def course(self, optimizer: Optimizer) -> LambdaLR:
        """Return the optimizer's own rate in the first phase and ``repair_rate`` in the second.

        Raises:
            UserError: If the optimizer's rate is not above 0.
        """
        rate = optimizer.param_groups[0]["lr"]
        if not rate > 0:
            raise UserError(f"unlearner.optimizer.lr must be above 0, got {rate}")
        return LambdaLR(
            optimizer, lambda step: 1.0 if step < self.impair_steps else self.repair_rate / rate
        )

    def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
        """Let the optimizer forget the first phase before the second begins."""
        if self.global_step == self.impair_steps:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
