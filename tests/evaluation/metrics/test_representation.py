"""CKA: known models, a transcription, and features that do not vary."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.representation import CKA, cka_debiased, u_centred
from tests.evaluation.clouds import Plain, draw, points, split_of
from tests.evaluation.worlds import NO_ORACLE, measured


def test_the_estimate_matches_a_transcription() -> None:
    def estimate(k: Any, m: Any) -> float:
        """HSIC_1, with its three terms written out."""
        n, ones = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    for seed, rows, sizes, related in (
        (0, 4, (1, 3), True),
        (1, 9, (8, 40), False),
        (2, 30, (5, 7), True),
        (3, 30, (3, 20), False),
    ):
        first, second = draw(seed, rows, sizes[0]), draw(seed + 50, rows, sizes[1])
        if related:
            second[:, 0] += 3 * first[:, 0]
        a, b = first.double().numpy(), second.double().numpy()
        k, m = a @ a.T, b @ b.T
        expected = estimate(k, m) / math.sqrt(estimate(k, k) * estimate(m, m))
        assert cka_debiased(first, second) == pytest.approx(expected, abs=1e-5)
    turn = torch.linalg.qr(draw(9, 5, 5).double())[0]
    first, second = draw(7, 30, 5).double(), draw(8, 30, 5).double()
    moved = cka_debiased(1e6 * (first @ turn + 3.0), second)  # rotation, scale and offset
    assert moved == pytest.approx(cka_debiased(first, second), abs=1e-9)
    assert cka_debiased(first, 1e6 * first @ turn) == pytest.approx(1.0)
    pairs = [(draw(2 * k, 40, 200), draw(2 * k + 1, 40, 200)) for k in range(20)]
    assert abs(np.mean([cka_debiased(*pair) for pair in pairs])) < 0.03  # unrelated features
    matrix = draw(0, 9, 4).double() @ draw(0, 9, 4).double().T
    assert u_centred(matrix).sum(dim=0).abs().max() < 1e-12
    assert u_centred(matrix).diagonal().tolist() == [0.0] * 9


def test_values_are_means_over_classes_and_oracles() -> None:
    other = points(original=Plain(power=2))
    alone = [measured(CKA(), replace(other, forget=(k,)))["test_forget.original"] for k in (0, 2)]
    both = measured(CKA(), replace(other, forget=(0, 2)))["test_forget.original"]
    assert alone[0] != alone[1]
    assert both == pytest.approx(np.mean(alone))
    oracles = [Plain(power=power) for power in (2, 3)]
    each = [measured(CKA(), points(oracles=(o,)))["test_retain.oracle"] for o in oracles]
    found = measured(CKA(), points(oracles=tuple(oracles)))
    assert found["test_retain.oracle"] == pytest.approx(np.mean(each))
    assert found["test_retain.original"] == pytest.approx(1.0)  # the same features
    assert measured(CKA(), points(original=oracles[1]))["test_retain.original"] == each[1] < 0.99
    assert measured(CKA(), points())["test_retain.oracle"] == NO_ORACLE
    sizes = [measured(CKA(n), points(oracles=(oracles[1],))) for n in (6, 12, 20, 1000)]
    values = [row["test_forget.oracle"] for row in sizes]
    assert len(set(values)) == 3
    assert values[2] == values[3]  # there are twenty images


def test_too_few_images_or_features_that_do_not_vary_are_absent() -> None:
    for rows in range(4):
        assert math.isnan(cka_debiased(draw(0, rows, 3), draw(1, rows, 3)))
        splits = {"test": split_of(0, torch.tensor([1] * rows + [0, 2] * 5))}
        found = measured(CKA(), points((1,), 3, splits=splits))
        assert found["test_forget.original"] == Absent("a class has fewer than 4 test images")
        assert found["test_retain.original"] == pytest.approx(1.0)
    assert isinstance(measured(CKA(), points(()))["test_forget.original"], Absent)
    constant = torch.full((20, 3), 0.1) + 1e-9 * draw(0, 20, 3).double()  # rounding
    assert math.isnan(cka_debiased(draw(1, 20, 3), constant))
