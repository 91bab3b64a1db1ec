"""How far a value is from those of retrained models, and how far is too far."""

import math
import statistics
from collections.abc import Sequence

# what a difference has to exceed to mean anything, where the oracles do not spread
EPSILON_SHARE = 0.01  # accuracies and recalls
EPSILON_AREA = 0.02  # areas under curves


def z_score(value: float, oracles: Sequence[float], epsilon: float) -> float | None:
    """Return how many deviations a value is from the oracles' mean.

    (m - mean) / (s sqrt(1 + 1/S)), with s of divisor S - 1: Student's t with S - 1 degrees of
    freedom if the model is one more oracle. Without spread s is ``epsilon``.

    Args:
        value: Of the model.
        oracles: Of S oracles.
        epsilon: Smallest difference that means anything.

    Returns:
        ``None`` with fewer than two oracles.
    """
    if len(oracles) < 2:
        return None
    spread = statistics.stdev(oracles) or epsilon
    return (value - statistics.fmean(oracles)) / (spread * math.sqrt(1 + 1 / len(oracles)))


def resolution(share: float, images: int) -> float:
    """Return the deviation of a share of so many images, of at least one: what they can tell.

    sqrt(v (1 - v) / n), v at least 1/n and at most 1 - 1/n.

    Args:
        share: In [0, 1].
        images: n, above 1.
    """
    within = min(max(share, 1 / images), 1 - 1 / images)
    return math.sqrt(within * (1 - within) / images)


def half_band(
    oracles: Sequence[float], epsilon: float, tests: int = 1, least: float = 0.0
) -> float:
    """Return how far from the oracles' mean one more oracle may be.

    t s sqrt(1 + 1/S), at least ``epsilon``; outside it lies one of twenty true oracles. With
    several tests each is made stricter by Bonferroni's rule, so that a true oracle passes all of
    them as often.

    Args:
        oracles: Values of at least two oracles.
        epsilon: Smallest difference that means anything.
        tests: How many values one question looks at.
        least: Smallest deviation to believe in: a few oracles may agree by chance.
    """
    from scipy.stats import t

    count = len(oracles)
    limit = float(t.ppf(1 - 0.025 / tests, count - 1))
    spread = max(statistics.stdev(oracles), least)
    return max(limit * spread * math.sqrt(1 + 1 / count), epsilon)


def position(
    value: float, oracles: Sequence[float], original: float, epsilon: float
) -> float | None:
    """Return where a value lies between the oracles' mean, 0, and the original's, 1.

    Returns:
        ``None`` where original and oracles are nearer than two deviations or ``epsilon``: there
        the metric tells nothing apart.
    """
    mean = statistics.fmean(oracles)
    reach = original - mean
    spread = statistics.stdev(oracles) if len(oracles) > 1 else 0.0
    if abs(reach) < max(2 * spread, epsilon):
        return None
    return (value - mean) / reach
