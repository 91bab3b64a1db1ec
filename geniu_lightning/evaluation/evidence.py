"""What a verdict rests on, and the verdicts that there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from geniu_lightning.evaluation.metric import MetricInfo, Values


class Verdict(StrEnum):
    """What unlearning did to a model."""

    RETAINED = "retained"
    SUPPRESSED = "suppressed"
    DAMAGED = "damaged"
    DAMAGED_AND_RETAINED = "damaged and retained"
    DISTINGUISHABLE = "distinguishable"
    FORGOTTEN = "forgotten"
    FORGOTTEN_IN_MODEL = "forgotten in the model only"
    UNTESTED = "untested"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Evidence:
    """The values that a verdict rests on, by full names such as `accuracy.test.forget`.

    Args:
        model: The model's.
        oracles: Of each oracle, compared with the others.
        peers: For each oracle the values of the others, compared with one another without it.
        controls: Of the `original` and of its `mask`.
        infos: Of all values.
        images: Test images by what is measured on them: `forget` (of the forgotten class that has
            fewest), `retain`, `minority` and `worst` (of the retained class that has fewest).
        nulls: Of each network that the model's method made of an oracle.
        matched: Whether oracles are made as the model was, so that they are its nulls.
        intact: Whether the original came from training. One that came from an earlier request may
            be damaged, and then to be no worse is not enough.
    """

    model: Values
    oracles: Sequence[Values]
    peers: Sequence[Sequence[Values]]
    controls: Mapping[str, Values]
    infos: Mapping[str, MetricInfo]
    images: Mapping[str, int]
    nulls: Sequence[Values] = ()
    matched: bool = False
    intact: bool = True
