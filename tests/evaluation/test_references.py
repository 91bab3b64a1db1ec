"""Bands and z against scipy, and by drawing oracles of a known law."""

import math

import numpy as np
import pytest
from scipy import stats

from geniu_lightning.evaluation.references import half_band, position, resolution, z_score


def test_z_is_students_t_of_one_more_oracle() -> None:
    oracles = [0.1, 0.4, 0.3, 0.6, 0.2]
    expected = (0.9 - np.mean(oracles)) / (np.std(oracles, ddof=1) * math.sqrt(1.2))
    assert z_score(0.9, oracles, 0.01) == pytest.approx(expected)
    assert z_score(0.9, [0.5], 0.01) is None
    assert z_score(0.52, [0.5, 0.5], 0.01) == pytest.approx(2 / math.sqrt(1.5))


@pytest.mark.parametrize(("count", "naive"), [(3, 4.97), (4, 3.56), (5, 3.04), (8, 2.51)])
def test_the_band_has_the_known_limits(count: int, naive: float) -> None:
    oracles = [math.sqrt((count - 1) / 2), -math.sqrt((count - 1) / 2), *[0.0] * (count - 2)]
    assert np.std(oracles, ddof=1) == pytest.approx(1)
    assert half_band(oracles, 0.01) == pytest.approx(naive, abs=0.01)


@pytest.mark.parametrize("tests", [1, 10])
def test_one_of_twenty_true_oracles_is_outside(tests: int) -> None:
    draws = np.random.default_rng(0).normal(size=(4000, tests, 6))
    outside = [
        any(abs(m[5] - np.mean(m[:5])) > half_band(list(m[:5]), 0.0, tests) for m in model)
        for model in draws[: 4000 // tests]
    ]
    expected = 0.05 if tests == 1 else 1 - (1 - 0.05 / tests) ** tests
    spread = math.sqrt(expected * (1 - expected) / len(outside))
    assert np.mean(outside) == pytest.approx(expected, abs=4 * spread)


def test_the_band_is_never_narrower_than_what_means_anything() -> None:
    assert half_band([0.5, 0.5, 0.5], 0.02) == 0.02


def test_the_band_widens_with_the_number_of_tests() -> None:
    limit = stats.t.ppf(1 - 0.025 / 7, 2)
    assert half_band([0.0, 1.0, 2.0], 0.0, 7) == pytest.approx(limit * math.sqrt(4 / 3))


def test_position_is_0_at_the_oracles_and_1_at_the_original() -> None:
    oracles = [0.1, 0.2, 0.3]
    assert position(0.2, oracles, 0.9, 0.01) == pytest.approx(0)
    assert position(0.9, oracles, 0.9, 0.01) == pytest.approx(1)
    assert position(0.1, oracles, 0.9, 0.01) < 0
    # nearer than two deviations, or than what means anything: nothing to tell apart
    assert position(0.9, oracles, 0.39, 0.01) is None
    assert position(0.9, [0.5], 0.505, 0.01) is None


@pytest.mark.parametrize(
    ("share", "images", "expected"),
    [(0.5, 100, 0.05), (0.0, 100, 0.0099**0.5 / 10), (1.0, 100, 0.0099**0.5 / 10)],
)
def test_a_share_of_images_is_no_finer_than_they_are(
    share: float, images: int, expected: float
) -> None:
    assert resolution(share, images) == pytest.approx(expected)


def test_oracles_that_agree_have_the_least_spread_that_can_be_believed() -> None:
    alike = [0.8, 0.8, 0.8]
    assert half_band(alike, 0.01) == 0.01
    limit = 4.302653 * 0.05 * (4 / 3) ** 0.5  # Student's, two degrees of freedom
    assert half_band(alike, 0.01, least=0.05) == pytest.approx(limit)
    assert half_band([0.7, 0.8, 0.9], 0.01, least=0.05) == half_band([0.7, 0.8, 0.9], 0.01)
