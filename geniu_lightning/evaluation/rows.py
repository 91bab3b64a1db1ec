"""The values of all networks of a comparison, and of each with any of the oracles left out."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geniu_lightning.evaluation.metric import Absent, Metric, Value, Values


@dataclass(frozen=True)
class Rows:
    """Measured values, by network and family of metrics.

    Attributes:
        metrics: By family.
        measured: Values of each network in each family: one row for all, or, of a pairwise metric,
            one row for each oracle, by its number.
        kin: Of a network, the number of the oracle that it is or was made of.
    """

    metrics: Mapping[str, Metric]
    measured: Mapping[str, Mapping[str, Mapping[int | None, Values]]]
    kin: Mapping[str, int]
    oracles: int

    def of(self, who: str, without: Collection[int] = ()) -> Values:
        """Return a network's values by full names, compared with all oracles but some.

        It is never compared with the oracle that it is or was made of.
        """
        excluded = {*without, self.kin.get(who, -1)}
        against = [k for k in range(self.oracles) if k not in excluded]
        direct: Values = {}
        derived: Values = {}
        for family, rows in self.measured[who].items():
            own = rows[None] if None in rows else _mean([rows[k] for k in against if k in rows])
            theirs = [
                row
                for k in against
                if (row := self.measured[f"oracle {k + 1}"].get(family, {}).get(None)) is not None
            ]
            direct |= {f"{family}.{name}": value for name, value in own.items()}
            more = self.metrics[family].compared(own, theirs)
            derived |= {f"{family}.{name}": finite(value) for name, value in more.items()}
        return direct | derived

    def peers(self, number: int) -> list[Values]:
        """Return the other oracles' values, compared with one another without this one."""
        others = (k for k in range(self.oracles) if k != number)
        return [self.of(f"oracle {k + 1}", without=[number]) for k in others]


def _mean(rows: Sequence[Values]) -> Values:
    """Return the mean of values measured with one oracle each; what one lacks is absent."""
    if not rows:
        return {}
    return {name: _mean_value([row[name] for row in rows]) for name in rows[0]}


def _mean_value(values: Sequence[Value | Absent]) -> Value | Absent:
    absent = [value for value in values if isinstance(value, Absent)]
    if absent:
        return absent[0]
    if isinstance(values[0], list):
        return mean_of_lists(list(values)) or Absent("oracles have lists of different lengths")
    return statistics.fmean(value for value in values if isinstance(value, float))


def mean_of_lists(lists: list[Any]) -> list[float | None] | None:
    """Return the mean at each place; `None` unless all are lists of one length."""
    if not lists or not all(isinstance(x, list) and len(x) == len(lists[0]) for x in lists):
        return None
    return [
        None if any(x is None for x in column) else statistics.fmean(column)
        for column in zip(*lists, strict=True)
    ]


def finite(value: Value | Absent) -> Value | Absent:
    """Return a value as a float or list; `Absent` for NaN and infinity."""
    if isinstance(value, float | int) and not math.isfinite(value):
        return Absent(f"the value is {value}")
    if isinstance(value, list) and not all(v is None or math.isfinite(v) for v in value):
        return Absent("some of the values are not finite numbers")
    return float(value) if isinstance(value, int) else value
