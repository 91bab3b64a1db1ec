"""Tolerances and z-scores against scipy, and by drawing networks of a known law."""

import math

import numpy as np
import pytest
from scipy import stats

from geniu_lightning.evaluation.references import (
    moderated,
    position,
    resolution,
    tolerance,
    z_score,
)


def test_z_is_students_t_of_one_more_oracle() -> None:
    oracles = [0.1, 0.4, 0.3, 0.6, 0.2]
    expected = (0.9 - np.mean(oracles)) / (np.std(oracles, ddof=1) * math.sqrt(1.2))
    assert z_score(0.9, oracles, 0.01) == pytest.approx(expected)
    assert z_score(0.9, [0.5], 0.01) is None
    assert z_score(0.52, [0.5, 0.5], 0.01) == pytest.approx(2 / math.sqrt(1.5))


def test_a_tolerance_is_a_prediction_limit_with_a_known_least_spread() -> None:
    own = stats.t.ppf(0.99, 2) * math.sqrt(4 / 3)
    assert tolerance([0.0, 1.0, 2.0], 0.5, 0.01) == pytest.approx(own)
    known = stats.t.ppf(0.99, 6) * 0.5 * math.sqrt(4 / 3)
    assert tolerance([1.0, 1.0, 1.0], 0.5, 0.01) == pytest.approx(known)


def test_a_moderated_spread_is_the_mean_of_two_variances() -> None:
    # of own spread 1 with 2 degrees of freedom and prior spread 2 with 4
    limit = stats.t.ppf(0.99, 6) * math.sqrt((2 * 1 + 4 * 4) / 6) * math.sqrt(4 / 3)
    assert moderated([0.0, 1.0, 2.0], 2.0, 0.01) == pytest.approx(limit)
    alone = stats.t.ppf(0.95, 4) * 0.1 * math.sqrt(2)
    assert moderated([0.7], 0.1, 0.05) == pytest.approx(alone)


def test_one_more_network_of_the_same_law_exceeds_a_tolerance_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    for count in (3, 5, 10):
        seen = draws.normal(size=(2000, count + 1))
        for limit, known in ((moderated, 1.0), (tolerance, 0.1)):
            beyond = [row[-1] - row[:-1].mean() > limit([*row[:-1]], known, 0.05) for row in seen]
            assert 0.02 < np.mean(beyond) < 0.065


def test_position_is_0_at_the_oracles_and_1_at_the_original() -> None:
    oracles = [0.1, 0.2, 0.3]
    assert position(0.2, oracles, 0.9, 0.01) == pytest.approx(0)
    assert position(0.9, oracles, 0.9, 0.01) == pytest.approx(1)
    assert position(0.1, oracles, 0.9, 0.01) < 0
    # nearer than two deviations or than epsilon, the value cannot tell them apart
    assert position(0.9, oracles, 0.39, 0.01) is None
    assert position(0.9, [0.5], 0.505, 0.01) is None


def test_a_share_is_no_finer_than_its_images() -> None:
    assert resolution(0.5, 100) == pytest.approx(0.05)
    assert resolution(0.0, 100) == pytest.approx(0.0099**0.5 / 10)
    assert resolution(1.0, 100) == pytest.approx(0.0099**0.5 / 10)
