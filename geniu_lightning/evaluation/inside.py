"""Is the class inside a model? Attacks on it, compared with networks that never saw the class."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from geniu_lightning.evaluation.checks import INSIDE, Family
from geniu_lightning.evaluation.metric import Values
from geniu_lightning.evaluation.references import EPSILON_AREA, PRIOR_WEIGHT, moderated, resolution

LEVEL = 0.05  # chance that a network that never saw the class shows it in any family
POWER = 1.0  # a value has power if it would have shown this share of what the original holds
BROKEN = 0.15  # of retained accuracy: an attack that costs more finds no class in what it leaves


@dataclass(frozen=True)
class Attack:
    """What one value, or the mean of a family's values, tells of the class.

    `detects` is the share of the way from the references to the original from which on a model
    fails, `position` the model's own place on that way.
    """

    family: Family
    name: str  # of the value, or of the family
    value: float  # the model's
    mean: float  # of the references
    allowed: float  # largest distance from it, towards the original, that passes
    original: float
    loss: float = 0.0  # of A_r under it, the model's or the references' mean, the larger

    @property
    def reach(self) -> float:
        """The original's distance from the references."""
        return self.original - self.mean

    @property
    def detects(self) -> float:
        """Return `allowed` as a share of the reach; infinite where the original shows no more."""
        return self.allowed / self.reach if self.reach > EPSILON_AREA else math.inf

    @property
    def position(self) -> float:
        """The model's place between the references, 0, and the original, 1."""
        return (self.value - self.mean) / self.reach

    @property
    def has_power(self) -> bool:
        """Whether the original would have failed, and the attack left the networks whole."""
        return self.detects <= POWER and self.loss <= BROKEN

    @property
    def finds_class(self) -> bool:
        """Whether the model shows more of the class than the references do."""
        return self.detects < 1 and self.position > self.detects

    @property
    def may_show_class(self) -> bool:
        """Whether the model is nearer to the original, by a value without power."""
        powerless = self.reach > EPSILON_AREA and not self.has_power
        return powerless and self.family.name != "membership" and self.position > 0.5

    @property
    def opposite(self) -> bool:
        """Whether the model lies beyond the references, on the side away from the original."""
        return self.detects < 1 and self.position < -self.detects


def attacks(
    model: Values,
    references: Sequence[Values],
    original: Values,
    images: int,
) -> list[Attack]:
    """Return what each family and each of its values tells, as far as model and original have them.

    A reference without one of a family's values is left out of it.

    A family errs with a chance of `LEVEL` divided by the number of families; its mean and its
    values together share that. Spreads are moderated by what is usual for the family.

    Args:
        model: Values of the model that is judged.
        references: Of each network that never saw the class.
        original: Of the original.
        images: Test images of the forgotten class that has fewest.
    """
    comparable = {
        family: (names, usable)
        for family in INSIDE
        if (names := [n for n in family.checks if _has(model, [n]) and _has(original, [n])])
        and (usable := [row for row in references if _has(row, names)])
    }
    found = []
    for family, (names, usable) in comparable.items():
        level = LEVEL / len(comparable)
        share = level / 2 if len(names) > 1 else level
        found += [
            _attack(family, name, [name], (model, usable, original), images, part)
            for name, part in ((n, share / len(names)) for n in names)
        ]
        if len(names) > 1:
            rest = (model, usable, original)
            found.append(_attack(family, family.name, names, rest, images, share))
    return found


def _attack(
    family: Family,
    name: str,
    names: Sequence[str],
    rows: tuple[Values, Sequence[Values], Values],
    images: int,
    level: float,
) -> Attack:
    model, references, original = rows
    values = [mean_of(row, names) for row in references]
    mean, known = statistics.fmean(values), mean_of(original, names)
    least = resolution(min(max(mean, 0.0), 1.0), min(images, family.scored))
    prior = math.hypot(family.spread * (known - mean), least)
    allowed = max(moderated(values, prior, level), EPSILON_AREA)
    loss = max(_loss(model, names), statistics.fmean(_loss(row, names) for row in references))
    return Attack(family, name, mean_of(model, names), mean, allowed, known, loss)


def without_power(tried: Sequence[Attack]) -> list[Attack]:
    """Return the best attack of each family of which none has power."""
    families: dict[Family, list[Attack]] = {}
    for attack in tried:
        families.setdefault(attack.family, []).append(attack)
    return [
        min(alike, key=lambda attack: attack.detects)
        for alike in families.values()
        if not any(attack.has_power for attack in alike)
    ]


def _loss(row: Values, names: Sequence[str]) -> float:
    """Return the largest loss of A_r that the attacks of some values cost; 0 of those with none."""
    losses = (row.get(f"{name.partition('.')[0]}.loss") for name in names)
    return max((loss for loss in losses if isinstance(loss, float)), default=0.0)


def _has(row: Values, names: Sequence[str]) -> bool:
    return all(isinstance(row.get(name), float) for name in names)


def mean_of(row: Values, names: Sequence[str]) -> float:
    """Return the mean of some of a network's numbers."""
    numbers = [value for name in names if isinstance(value := row.get(name), float)]
    return statistics.fmean(numbers)


def oracles_needed(attack: Attack, count: int) -> int | None:
    """Return with how many references an attack would have power; `None` beyond fifty."""
    from scipy.special import stdtrit

    def factor(number: int) -> float:
        freedom = number - 1 + PRIOR_WEIGHT
        return float(stdtrit(freedom, 0.995)) * math.sqrt(1 + 1 / number)

    for number in range(count + 1, 51):
        if attack.detects * factor(number) / factor(count) <= POWER:
            return number
    return None
