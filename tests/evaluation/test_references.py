"""Tolerances and z-scores against scipy, and by drawing oracles of a known law."""

import math

import numpy as np
import pytest
from scipy import stats

from geniu_lightning.evaluation.references import position, resolution, tolerance, z_score


def test_z_is_students_t_of_one_more_oracle() -> None:
    oracles = [0.1, 0.4, 0.3, 0.6, 0.2]
    expected = (0.9 - np.mean(oracles)) / (np.std(oracles, ddof=1) * math.sqrt(1.2))
    assert z_score(0.9, oracles, 0.01) == pytest.approx(expected)
    assert z_score(0.9, [0.5], 0.01) is None
    assert z_score(0.52, [0.5, 0.5], 0.01) == pytest.approx(2 / math.sqrt(1.5))


def test_a_tolerance_is_a_prediction_interval_by_bonferroni() -> None:
    limit = stats.t.ppf(1 - 0.025 / 7, 2) * math.sqrt(4 / 3)
    assert tolerance([0.0, 1.0, 2.0], 0.0, 7) == pytest.approx(limit)
    alike = [0.8, 0.8, 0.8]
    assert tolerance(alike, 0.02) == 0.02
    least = stats.t.ppf(0.975, 2) * 0.05 * math.sqrt(4 / 3)
    assert tolerance(alike, 0.01, least=0.05) == pytest.approx(least)
    assert tolerance([0.7, 0.8, 0.9], 0.01, least=0.05) == tolerance([0.7, 0.8, 0.9], 0.01)


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
