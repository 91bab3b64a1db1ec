"""Comparison of one value with those of the oracles: z-score, tolerance and position."""

import math
import statistics
from collections.abc import Sequence

# smallest meaningful differences, for oracles that do not spread
EPSILON_SHARE = 0.01  # accuracies and recalls
EPSILON_AREA = 0.02  # areas under curves


def z_score(value: float, oracles: Sequence[float], epsilon: float) -> float | None:
    """Return the distance of a value from the oracles' mean in standard deviations.

    (m - mean) / (s sqrt(1 + 1/S)), with s of divisor S - 1: Student's t with S - 1 degrees of
    freedom if the model is one more oracle. Without spread s is `epsilon`.

    Args:
        value: Of the model.
        oracles: Values of S oracles.
        epsilon: Smallest meaningful difference.

    Returns:
        `None` with fewer than two oracles.
    """
    if len(oracles) < 2:
        return None
    spread = statistics.stdev(oracles) or epsilon
    return (value - statistics.fmean(oracles)) / (spread * math.sqrt(1 + 1 / len(oracles)))


def resolution(share: float, images: int) -> float:
    """Return the standard deviation of a share that is measured on some images.

    sqrt(v (1 - v) / n), v clamped to [1/n, 1 - 1/n].

    Args:
        share: In [0, 1].
        images: n, above 1.
    """
    within = min(max(share, 1 / images), 1 - 1 / images)
    return math.sqrt(within * (1 - within) / images)


def tolerance(
    oracles: Sequence[float], epsilon: float, tests: int = 1, least: float = 0.0
) -> float:
    """Return the half-width of the 95 % prediction interval for one more oracle (Bonferroni).

    t s sqrt(1 + 1/S), at least `epsilon`. With several tests each level is divided by their
    number, so that a true oracle passes all of them in 95 % of cases.

    Args:
        oracles: Values of at least two oracles.
        epsilon: Smallest meaningful difference.
        tests: Number of values that one question looks at.
        least: Lower bound of s: a few oracles may agree by chance.
    """
    from scipy.stats import t

    count = len(oracles)
    limit = float(t.ppf(1 - 0.025 / tests, count - 1))
    spread = max(statistics.stdev(oracles), least)
    return max(limit * spread * math.sqrt(1 + 1 / count), epsilon)


def position(
    value: float, oracles: Sequence[float], original: float, epsilon: float
) -> float | None:
    """Return the position of a value on the line from the oracles' mean, 0, to the original, 1.

    Returns:
        `None` where the original is nearer to the oracles' mean than two standard deviations or
        `epsilon`: there the metric cannot tell original and oracles apart.
    """
    mean = statistics.fmean(oracles)
    reach = original - mean
    spread = statistics.stdev(oracles) if len(oracles) > 1 else 0.0
    if abs(reach) < max(2 * spread, epsilon):
        return None
    return (value - mean) / reach
