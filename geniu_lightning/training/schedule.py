"""When what is trained: the calendar of classifier, prompts and generator."""

from dataclasses import dataclass
from typing import Literal, get_args

from geniu_lightning.errors import UserError

When = Literal["beside", "after"]


@dataclass(frozen=True)
class UpdateSchedule:
    """Spreads the updates of prompts and generator over the steps of the classifier.

    A tick is a batch read; ticks are counted through all epochs. Updates begin where there are
    exemplars: with the second epoch, or, ``after``, with one more epoch in which the classifier
    rests.

    Args:
        steps_per_epoch: Ticks in an epoch.
        epochs: Epochs of the classifier.
        with_generator: Whether there are prompts and a generator at all.
        when: ``beside`` or ``after`` the classifier.
        exemplars_until: Share of the classifier's epochs in which exemplars are chosen, in (0, 1].
        every_n_steps: Ticks for each update of prompts and generator.
        min_generator_steps: Updates of the generator, at least.

    Raises:
        UserError: If a setting is out of range or contradicts another.
    """

    steps_per_epoch: int
    epochs: int
    with_generator: bool
    when: When = "beside"
    exemplars_until: float = 0.5
    every_n_steps: int = 4
    min_generator_steps: int = 1000

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.every_n_steps < 1 or self.min_generator_steps < 0:
            raise UserError(
                "training.epochs and training.every_n_steps must be at least 1 and"
                f" training.min_generator_steps 0, got {self.epochs}, {self.every_n_steps} and"
                f" {self.min_generator_steps}"
            )
        if self.when not in get_args(When):
            raise UserError(
                f"training.when must be one of {', '.join(get_args(When))}, got {self.when!r}"
            )
        if not 0 < self.exemplars_until <= 1:
            raise UserError(
                f"training.exemplars_until must lie in (0, 1], got {self.exemplars_until}"
            )
        if self.with_generator and self.when == "beside" and self.epochs < 2:
            raise UserError(
                "a generator beside the classifier needs training.epochs of at least 2: its"
                " exemplars are chosen in the epoch before"
            )

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole training, the post-hoc one included."""
        return self.epochs + (self.with_generator and self.when == "after")

    @property
    def first_tick(self) -> int:
        """Tick from which prompts and generator are updated."""
        return self.steps_per_epoch * (1 if self.when == "beside" else self.epochs)

    @property
    def ticks(self) -> int:
        """Ticks over which their updates are spread."""
        return self.steps_per_epoch * self.max_epochs - self.first_tick

    @property
    def generator_steps(self) -> int:
        """Updates of the generator in all."""
        if not self.with_generator:
            return 0
        return max(self.min_generator_steps, self.ticks // self.every_n_steps)

    @property
    def prompt_steps(self) -> int:
        """Updates of the prompts in all: at most one a tick."""
        if not self.with_generator:
            return 0
        least = min(self.ticks, self.generator_steps // self.every_n_steps)
        return max(least, self.ticks // self.every_n_steps, 1)

    def chooses_exemplars(self, epoch: int) -> bool:
        """Whether an epoch's scores decide; the first epoch's do in any case."""
        return epoch < max(1, round(self.exemplars_until * self.epochs))

    def due(self, tick: int, steps: int) -> int:
        """Return how many of ``steps`` updates fall on a tick; over all ticks they add up to it."""
        done = tick - self.first_tick
        if done < 0 or not steps:
            return 0
        return (done + 1) * steps // self.ticks - done * steps // self.ticks
