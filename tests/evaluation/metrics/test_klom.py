"""KLoM: exact divergences, numpy's histogram, and the floor of equal laws."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from geniu_lightning.evaluation.metrics.klom import gaussian_kl, histogram_kl, klom
from tests.evaluation.attacks.test_u_lira import normal


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_a_gaussian_divergence_has_its_value_and_direction() -> None:
    narrow, wide = column(-0.5, 0.5), column(-1.0, 3.0)  # variances ½ and 8, means 0 and 1
    forward = math.log(4) + (0.5 + 1) / 16 - 0.5
    assert gaussian_kl(narrow, wide).item() == pytest.approx(forward)
    assert gaussian_kl(wide, narrow).item() == pytest.approx(-math.log(4) + 9 - 0.5)
    assert klom(narrow, wide).item() == pytest.approx(forward)  # unlearned first
    draws = normal(1, 30, 4)
    for shift in (0.0, 1.0, -3.0):
        moved = draws + shift * draws.std(dim=0)
        assert gaussian_kl(draws, moved).tolist() == pytest.approx([shift**2 / 2] * 4)


def test_constants_are_far_apart_both_ways_or_not_at_all() -> None:
    for models, expected in ((20, 1 / (2 * 0.05**2)), (100, 100 / 110 * math.log(201))):
        pair = torch.zeros(models, 1), torch.ones(models, 1)
        assert klom(*pair).item() == pytest.approx(expected)
        assert klom(*pair[::-1]).item() == pytest.approx(expected)
        same = torch.full((models, 2), 7.5)
        assert klom(same, same.clone()).tolist() == [0.0, 0.0]
    deep, deeper = torch.full((20, 1), -150.0), torch.full((20, 1), -1e4)  # clipped at 100
    assert klom(deep, deeper).item() == klom(-deep, -deeper).item() == 0.0
    assert klom(torch.full((20, 1), -99.0), deeper).item() == pytest.approx(1 / (2 * 0.05**2))


def test_the_histogram_is_that_of_numpy() -> None:
    for first, second in ((1, 80), (50, 50), (33, 7)):
        ours, theirs = normal(1, first, 3), 2 * normal(2, second, 3) + 0.5
        expected = []
        for k in range(3):
            pooled = torch.cat([ours[:, k], theirs[:, k]])
            limits = pooled.min().item(), pooled.max().item()
            p, q = (
                np.histogram(side[:, k].numpy(), bins=20, range=limits)[0] + 0.5
                for side in (ours, theirs)
            )
            p, q = p / p.sum(), q / q.sum()
            expected.append((p * np.log(p / q)).sum())
        np.testing.assert_allclose(histogram_kl(ours, theirs).numpy(), expected, atol=1e-12)


def test_the_estimate_follows_the_smaller_side() -> None:
    for ours, theirs, estimate in (
        (50, 50, histogram_kl),
        (49, 80, gaussian_kl),
        (80, 49, gaussian_kl),
    ):
        first, second = normal(1, ours, 3), normal(2, theirs, 3)
        assert torch.equal(klom(first, second), estimate(first, second))
