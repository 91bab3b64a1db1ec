"""The interface of metrics: named values of a model, with the direction and ideal of each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from geniu_lightning.evaluation.context import Context, Part
from geniu_lightning.evaluation.references import EPSILON_SHARE


@dataclass(frozen=True)
class MetricInfo:
    """Direction of improvement, best value (`None`: the oracles') and smallest difference."""

    direction: Literal["lower", "higher", "oracle"]
    ideal: float | None = None
    epsilon: float = EPSILON_SHARE


@dataclass(frozen=True)
class Absent:
    """Takes the place of a value that cannot be computed, with the reason."""

    reason: str


Value = float | list[float | None]
Values = dict[str, Value | Absent]


class Metric(ABC):
    """One family of measurements: a function of the context.

    Attributes:
        needs: Parts of the context that it looks at besides model, images and settings; all others
            raise an error. Cached values follow from these.
        pairwise: All values that look at oracles are means over them: the metric is measured with
            one oracle at a time.
        subject: Values of `proxies` do not depend on the model, so oracles and controls have none.
        infos: By a value's name, or by the last part of it.
    """

    needs: ClassVar[frozenset[Part]] = frozenset()
    pairwise: ClassVar[bool] = False
    subject: ClassVar[Literal["model", "proxies"]] = "model"
    infos: ClassVar[Mapping[str, MetricInfo]] = {}

    def info(self, name: str) -> MetricInfo:
        """Return direction and ideal of the value `name`."""
        return self.infos.get(name) or self.infos[name.rpartition(".")[2]]

    def images_processed(self, context: Context) -> int:
        """Return about how many images go through a network; a training image counts as three."""
        return 0

    @property
    def variants(self) -> "Sequence[Metric]":
        """The metric at each of its strengths, the strongest first."""
        return [self]

    def too_strong(self, oracles: Sequence[Values]) -> bool:
        """Whether the metric breaks oracles, by their values, and a weaker one is to be used."""
        return False

    @property
    def curve_steps(self) -> list[int]:
        """Fine-tuning steps of the values that are curves."""
        return []

    @abstractmethod
    def __call__(self, context: Context) -> Values:
        """Return the values by dotted names, such as `test.forget`."""

    def compared(self, own: Values, oracles: Sequence[Values]) -> Values:
        """Return further values, computed from the model's own and from the oracles'."""
        return {}
