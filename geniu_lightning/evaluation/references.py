"""Comparison of one value with those of the oracles: z-score, tolerance and position."""

import math
import statistics
from collections.abc import Sequence

# smallest meaningful differences, for oracles that do not spread
EPSILON_SHARE = 0.01  # accuracies and recalls
EPSILON_AREA = 0.02  # areas under curves


def z_score(value: float, oracles: Sequence[float], epsilon: float) -> float | None:
    """Return the distance from the mean of S oracles in standard deviations; `None` for S < 2.

    (m - mean) / (s sqrt(1 + 1/S)), s with divisor S - 1: Student's t with S - 1 degrees of freedom
    if the model is one more oracle. Without spread s is `epsilon`.
    """
    if len(oracles) < 2:
        return None
    spread = statistics.stdev(oracles) or epsilon
    return (value - statistics.fmean(oracles)) / (spread * math.sqrt(1 + 1 / len(oracles)))


def resolution(share: float, images: int) -> float:
    """Return sqrt(v (1 - v) / n), the deviation of a share of n > 1 images; v in [1/n, 1 - 1/n]."""
    within = min(max(share, 1 / images), 1 - 1 / images)
    return math.sqrt(within * (1 - within) / images)


def tolerance(
    oracles: Sequence[float], epsilon: float, tests: int = 1, least: float = 0.0
) -> float:
    """Return the half-width t s sqrt(1 + 1/S) of the 95 % prediction interval for one more oracle.

    Args:
        oracles: Values of S ≥ 2 oracles.
        epsilon: Lower bound of the result.
        tests: Number of values of a question; the level is divided by it (Bonferroni), so that a
            true oracle passes all of them in 95 % of cases.
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

    `None` where the original is nearer to the oracles' mean than two standard deviations or
    `epsilon`: there the metric cannot tell original and oracles apart.
    """
    mean = statistics.fmean(oracles)
    reach = original - mean
    spread = statistics.stdev(oracles) if len(oracles) > 1 else 0.0
    if abs(reach) < max(2 * spread, epsilon):
        return None
    return (value - mean) / reach
