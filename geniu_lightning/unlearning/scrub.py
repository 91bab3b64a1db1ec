"""SCRUB: away from the teacher on the forget set, towards it on the retain set, alternating."""

from typing import Any

from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.checked import NonNegative, NonNegativeInt, Positive, PositiveInt
from geniu_lightning.unlearning.batches import Batches, CombinedBatches, UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy, divergence
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning


class Scrub(Tuning):
    """Alternates max steps on the forget set and min steps on the retain set.

    With `d = T² KL(softmax(z_T/T) ‖ softmax(z/T))`, z_T the original's logits: a max step
    minimises −d, a min step `α d + γ CE`. Each of the first `max_rounds` rounds begins with
    `max_steps` max steps; every round ends with `min_steps` min steps, so that repair comes
    last.

    −d is unbounded below: keep the bound of the gradient at 1. In the first max step the student
    equals its teacher, so with frozen batch norm the gradient is rounding error alone, and results
    may differ between two kinds of processor. Adam leaves this point in a step, plain SGD takes
    several.

    Args:
        **settings: Those of `Tuning`, without `steps`.

    Source:
        Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880. Its small-scale
        notebook has T 2, α 0.5, γ 1, 3 of 10 epochs with max steps, Adam 5e-4 cut after epochs 5, 8
        and 9, decay 0.1. Departures: no decay and a constant rate; the rewound variant is left out,
        since it chooses by an oracle, and so is the form of some ports that subtracts both in one
        loss.
    """

    sides = Access.FORGET | Access.RETAIN
    distils = True

    def __init__(
        self,
        *,
        rounds: PositiveInt = 5,
        max_rounds: NonNegativeInt = 3,
        max_steps: PositiveInt = 10,
        min_steps: PositiveInt = 20,
        alpha: NonNegative = 0.5,
        gamma: NonNegative = 1.0,
        temperature: Positive = 2.0,
        **settings: Any,
    ) -> None:
        if max_rounds > rounds:
            raise SettingError(
                f"must be at most rounds, which is {rounds}, got {max_rounds}", key="max_rounds"
            )
        steps = max_rounds * max_steps + rounds * min_steps
        super().__init__(steps=steps, **settings)
        # of each step: part 0 is a max step's batches, part 1 a min step's
        with_max = [(0,)] * max_steps + [(1,)] * min_steps
        self.plan = with_max * max_rounds + [(1,)] * min_steps * (rounds - max_rounds)
        self.alpha = alpha
        self.gamma = gamma
        self.temperature = temperature

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return batches of one set each, in the order of the rounds."""
        make = super().make_batches
        parts = [make(kit, sources, side, steps) for side in sides]
        return CombinedBatches(parts, self.plan)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the term of a max step or those of a min step, in nats."""
        logits = self.classifier(batch.images).float()
        target = (self.teacher(batch.images) / self.temperature).softmax(dim=1)
        distance = self.temperature**2 * divergence(target, logits / self.temperature)
        if batch.forget.any():
            return {"forget": -batch.forget_mean(distance)}
        loss = cross_entropy(logits, batch.labels)
        return {
            "retain_distance": self.alpha * batch.retain_mean(distance),
            "retain": self.gamma * batch.retain_mean(loss),
        }
