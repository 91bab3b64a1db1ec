"""SCRUB: away from the teacher on forgotten images, towards it on retained ones, in turns."""

from collections.abc import Iterator

from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.losses import cross_entropy, divergence
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, Batches, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning


class Scrub(Tuning):
    """Alternates max steps on forgotten images and min steps on retained ones.

    With ``d = T² KL(softmax(z_T/T) ‖ softmax(z/T))``, z_T the original's logits: a max step
    minimises −d, a min step ``α d + γ CE``. Each of the first ``max_rounds`` rounds begins with
    ``max_steps`` max steps; every round ends with ``min_steps`` min steps, so that repair comes
    last.

    −d has no lower bound: keep the gradient's bound of 1. In the first max step the student is its
    teacher, so with frozen batch norm the gradient is rounding alone; Adam gets away from there in
    a step, plain SGD takes several. Which way, towards less sure answers or surer ones, is
    rounding's too: two kinds of processor may part here.

    Args:
        rounds: How many.
        max_rounds: How many of them have max steps.
        max_steps: Max steps in such a round.
        min_steps: Min steps in each round.
        alpha: α.
        gamma: γ.
        temperature: T.
        **settings: Those of `Tuning`, without ``steps``.

    Raises:
        UserError: If a setting is out of range.

    Source:
        Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880. Its small-scale
        notebook has T 2, α 0.5, γ 1, 3 of 10 epochs with max steps, Adam 5e-4 cut after epochs 5, 8
        and 9, decay 0.1. Departures: rounds of steps for epochs, batch norm frozen, no decay and a
        constant rate, a bound of the gradient; the rewound variant is left out, since it chooses
        by an oracle, and so is the form of some ports that subtracts both in one loss.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        rounds: int = 5,
        max_rounds: int = 3,
        max_steps: int = 10,
        min_steps: int = 20,
        alpha: float = 0.5,
        gamma: float = 1.0,
        temperature: float = 2.0,
        **settings: object,
    ) -> None:
        if rounds < 1 or not 0 <= max_rounds <= rounds or max_steps < 1 or min_steps < 1:
            raise UserError(
                "unlearner.rounds, max_steps and min_steps must be at least 1 and max_rounds lie in"
                f" [0, rounds], got {rounds}, {max_steps}, {min_steps} and {max_rounds}"
            )
        if not temperature > 0:
            raise UserError(f"unlearner.temperature must be above 0, got {temperature}")
        steps = max_rounds * max_steps + rounds * min_steps
        super().__init__(steps=steps, **settings)  # type: ignore[arg-type]  # the base checks them
        self.order = [
            gone
            for number in range(rounds)
            for gone in [True] * max_steps * (number < max_rounds) + [False] * min_steps
        ]
        self.alpha = alpha
        self.gamma = gamma
        self.temperature = temperature

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the original to move away from, and open both sides."""
        self.teacher = Teacher(kit.classifier)
        super().prepare(kit, sources)

    def stream(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return batches of one side each, in the order of the rounds."""
        gone = sum(self.order)
        forget = super().stream(kit, sources, Access.FORGET, gone)
        return _Rounds(
            forget, super().stream(kit, sources, Access.RETAIN, steps - gone), self.order
        )

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


class _Rounds:
    """Goes on with one of two streams or the other, as an order says; True is the first."""

    def __init__(self, first: Batches, second: Batches, order: list[bool]) -> None:
        self.streams = (first, second)
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        first, second = (iter(stream) for stream in self.streams)
        for from_first in self.order:
            yield next(first if from_first else second)

    def shard(self, rank: int, world: int) -> None:
        for stream in self.streams:
            stream.shard(rank, world)
