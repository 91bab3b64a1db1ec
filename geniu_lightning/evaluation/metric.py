"""What every metric is: named values of a model, and how each is read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from geniu_lightning.evaluation.context import Context, Part
from geniu_lightning.evaluation.references import EPSILON_SHARE

Direction = Literal["lower", "higher", "oracle"]


@dataclass(frozen=True)
class MetricInfo:
    """How a value is to be read.

    Args:
        direction: Which way is better; ``oracle`` is towards the retrained models' value.
        ideal: The best value; ``None`` is the oracles' own.
        epsilon: The smallest difference that means anything.
    """

    direction: Direction
    ideal: float | None = None
    epsilon: float = EPSILON_SHARE


@dataclass(frozen=True)
class Absent:
    """A metric that cannot be computed, and why."""

    reason: str


Value = float | list[float | None]
Values = dict[str, Value | Absent]


class Metric(ABC):
    """One family of measurements: a function of the context, with how its values are read.

    Attributes:
        needs: What it looks at beside the model, the images and the settings; the rest is hidden
            from it. What oracles show is remembered as long as these are the same.
        about: What the values describe; of proxies they are the same whichever model is judged.
        readings: By the last part of a value's name.
    """

    needs: ClassVar[frozenset[Part]] = frozenset()
    about: ClassVar[Literal["model", "proxies"]] = "model"
    readings: ClassVar[Mapping[str, MetricInfo]] = {}

    def reading(self, name: str) -> MetricInfo:
        """Return how the value ``name`` is to be read."""
        return self.readings[name.rpartition(".")[2]]

    def work(self, context: Context) -> int:
        """Return about how many images it pushes through a network, one to train on as three."""
        return 0

    @abstractmethod
    def __call__(self, context: Context) -> Values:
        """Measure, with names whose parts are divided by dots, such as ``test.forget``."""

    def conclude(self, own: Values, oracles: Sequence[Values]) -> Values:
        """Return further values, which follow from the model's own and from the oracles'."""
        return {}
