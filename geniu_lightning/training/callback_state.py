"""What `KitCallback` holds while a trainer fits, and what of it a checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.training.proxies import ProxyTrainer
from geniu_lightning.training.schedule import TrainingSchedule
from geniu_lightning.training.streamed_exemplars import StreamedExemplars

REMEDY = "lower the rates of generator_optimizer and prompt_optimizer"


@dataclass
class FitState:
    """What the callback holds while a trainer fits.

    Attributes:
        schedule: Its epoch 0 is the trainer's `first_epoch`, where the callback began.
        counts: Training images of each class in the first epoch, int64, on the CPU.
        step: Batches so far.
        latest: Terms of the last update that is not logged yet.
    """

    proxies: ProxyTrainer
    exemplars: StreamedExemplars
    schedule: TrainingSchedule
    first_epoch: int
    counts: Tensor
    step: int = 0
    guard: NonFiniteGuard = field(default_factory=lambda: NonFiniteGuard(REMEDY))
    latest: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values; all processes call it."""
        return {
            "step": self.step,
            "first_epoch": self.first_epoch,
            "counts": self.counts,
            "proxies": self.proxies.state_dict(),
            "exemplars": self.exemplars.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self.counts = state["step"], state["counts"].cpu()
        self.proxies.load_state_dict(state["proxies"], self.step)
        self.exemplars.load_state_dict(state["exemplars"])
