"""When training does what: epochs of the classifier, updates of prompts and generator."""

from dataclasses import dataclass
from typing import NamedTuple

from geniu_lightning.errors import SettingError
from geniu_lightning.settings.checked import PositiveInt, checked
from geniu_lightning.training.settings import ProxySettings


class Updates(NamedTuple):
    """Numbers of updates."""

    prompts: int
    generator: int


@dataclass(frozen=True)
class UpdateSchedule:
    """Updates of prompts and generator, spread evenly over a range of training steps."""

    first_step: int  # batches, counted from 0 through all epochs
    steps: int
    total: Updates

    def at(self, step: int) -> Updates:
        """Return the updates that fall on a step; over the range they add up to `total`."""
        done = step - self.first_step
        if not 0 <= done < self.steps:
            return Updates(0, 0)
        return Updates(*((done + 1) * n // self.steps - done * n // self.steps for n in self.total))

    def left(self, step: int) -> Updates:
        """Return the updates from a step on, that step's included."""
        done = min(max(step - self.first_step, 0), self.steps)
        return Updates(*(n - done * n // self.steps for n in self.total))


@checked
@dataclass(frozen=True)
class TrainingSchedule:
    """Epochs of the classifier, and the updates of prompts and generator among or after them.

    Updates need exemplars, which the first epoch chooses: they begin with the second epoch
    (`during`), or fill one more epoch in which the classifier rests (`after`).
    """

    settings: ProxySettings
    steps_per_epoch: PositiveInt
    epochs: PositiveInt  # of the classifier
    with_generator: bool = True

    def __post_init__(self) -> None:
        if self.with_generator and self.settings.when == "during" and self.epochs < 2:
            raise SettingError(
                f"must be at least 2, got {self.epochs}: a generator trained during the"
                " classifier's epochs learns from exemplars that an epoch before chose",
                key="epochs",
            )

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.epochs + (self.with_generator and self.settings.when == "after")

    @property
    def updates(self) -> UpdateSchedule:
        """Updates of prompts and generator.

        The generator gets one every `every_n_steps`, but at least `min_generator_steps` in all;
        prompts get an `every_n_steps`-th of those, but at least one in all and at most one a step.
        """
        if not self.with_generator:
            return UpdateSchedule(0, 0, Updates(0, 0))
        first = self.steps_per_epoch * (1 if self.settings.when == "during" else self.epochs)
        steps = self.steps_per_epoch * self.max_epochs - first
        usual = steps // self.settings.every_n_steps
        generator = max(self.settings.min_generator_steps, usual)
        prompts = max(min(steps, generator // self.settings.every_n_steps), usual, 1)
        return UpdateSchedule(first, steps, Updates(prompts, generator))

    def chooses_exemplars(self, epoch: int) -> bool:
        """Whether exemplars are chosen at the end of an epoch; the first one always does."""
        return epoch < max(1, round(self.settings.exemplars_until * self.epochs))
