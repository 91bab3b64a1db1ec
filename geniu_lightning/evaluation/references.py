"""Comparison of one value with those of other networks: z-score, tolerance and position."""

import math
import statistics
from collections.abc import Sequence

# smallest meaningful differences, for networks that do not spread
EPSILON_SHARE = 0.01  # accuracies and recalls
EPSILON_AREA = 0.02  # areas under curves
PRIOR_WEIGHT = 4  # degrees of freedom that a spread known from elsewhere counts as


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


def tolerance(values: Sequence[float], least: float, level: float) -> float:
    """Return the distance from the mean that one more network exceeds on one side by chance.

    t s sqrt(1 + 1/S) of S ≥ 2 values, t Student's with S - 1 degrees of freedom; at least what
    follows from `least`, a standard deviation that is known, for a few networks agree easily.
    """
    own = _quantile(len(values) - 1, level) * statistics.stdev(values)
    known = _quantile(len(values) - 1 + PRIOR_WEIGHT, level) * least
    return max(own, known) * math.sqrt(1 + 1 / len(values))


def moderated(values: Sequence[float], prior: float, level: float) -> float:
    """Return the same distance where it is known about how far such networks spread.

    s² is the mean of their own variance and of `prior` squared, weighted by S - 1 and by
    `PRIOR_WEIGHT`, and t has as many degrees of freedom as both together; S ≥ 1.

    Source:
        Moderated t: Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004.
        Departure: prior and weight are fixed, found on other data, not estimated on these.
    """
    own, freedom = len(values) - 1, len(values) - 1 + PRIOR_WEIGHT
    variance = statistics.variance(values) if own else 0.0
    spread = math.sqrt((own * variance + PRIOR_WEIGHT * prior**2) / freedom)
    return _quantile(freedom, level) * spread * math.sqrt(1 + 1 / len(values))


def _quantile(freedom: int, level: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes a hundred times as long

    return float(stdtrit(freedom, 1 - level))


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
