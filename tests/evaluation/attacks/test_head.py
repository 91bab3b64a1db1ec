"""The attack on the last layer: known rows, numpy's arithmetic, and rows without a direction."""

import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geniu_lightning.evaluation.attacks.head import (
    Head,
    accuracies,
    alignment,
    bias_anomaly,
    repair,
    row_norm,
)
from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.clouds import Plain, draw, points, split_of
from tests.evaluation.worlds import SUNK, context_of, measured, rigged

some = settings(max_examples=10, deadline=None)
ALIKE = Absent("a forgotten class has a row of zeros, or features like those of all others")
FLAT = Absent("the biases of retained classes do not differ")


def world(forget: tuple[int, ...], seed: int = 0, **more: Any) -> Context:
    labels = torch.cat([torch.arange(5), torch.arange(95) ** 2 % 5])
    shown = {
        "original": Plain(seed + 10, 5),
        "unlearned": Plain(seed + 20, 5),
        "splits": {"test": split_of(seed, labels)},
    }
    return points(forget, 5, **shown | more)


def test_a_mask_that_also_clears_the_row_is_undone_by_the_transplant_alone() -> None:
    for sunk in (-1e4, -torch.inf):
        mask = rigged()["original"]
        mask.head.weight.data[0] = 0.0
        mask.head.bias.data[0] = sunk
        mask.head.bias.data[1:] = torch.linspace(-1, 1, 9)
        found = measured(Head(), context_of(mask))
        # with a row of zeros and the mean bias of 0, the class's images go to the largest bias
        assert (found["repair"], found["repair_retain"]) == (0.0, 1.0)
        assert found["transplant"] == found["transplant_retain"] == 1.0
        assert found["row_norm"] == 0.0
        assert found["alignment"] == ALIKE
        spread = statistics.stdev(torch.linspace(-1, 1, 9).tolist())
        assert found["bias_anomaly"] == pytest.approx(-1e4 / spread, rel=1e-5)


@some
@given(seed=st.integers(0, 2**16), forget=st.sampled_from([(0,), (4,), (1, 3), (3, 1)]))
def test_all_values_match_numpy(seed: int, forget: tuple[int, ...]) -> None:
    context = world(forget, seed)
    model, old = context.unlearned.head, context.original.head
    weight, bias = (x.double().numpy().copy() for x in (model.weight, model.bias))
    outputs = context.outputs(context.unlearned, "test")
    features, labels = outputs.features.double().numpy(), outputs.labels.numpy()
    kept = [k for k in range(5) if k not in forget]
    norms = np.linalg.norm(weight, axis=1)
    cosines = []
    for k in forget:
        mean = features[labels == k].mean(0) - features.mean(0)
        cosines.append(mean @ weight[k] / norms[k] / np.linalg.norm(mean))
    deviation = bias[kept].std(ddof=1)
    expected = {
        "bias_anomaly": np.mean([(bias[k] - bias[kept].mean()) / deviation for k in forget]),
        "row_norm": np.mean([norms[k] / norms[kept].mean() for k in forget]),
        "alignment": np.mean(cosines),
    }
    mended, moved = (weight.copy(), bias.copy()), (weight.copy(), bias.copy())
    for k in forget:
        mended[0][k] *= norms[kept].mean() / norms[k]
        mended[1][k] = bias[kept].mean()
        moved[0][k], moved[1][k] = old.weight[k].numpy(), old.bias[k].numpy()
    for name, (rows, shifts) in (("repair", mended), ("transplant", moved)):
        answers = (features @ rows.T + shifts).argmax(1)
        for suffix, classes in (("", forget), ("_retain", kept)):
            recalls = [(answers[labels == k] == k).mean() for k in classes]
            expected[name + suffix] = np.mean(recalls)
    assert measured(Head(), context) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_rounding_decides_no_tie_between_equal_logits() -> None:
    outputs = Outputs(torch.zeros(4, 10), torch.ones(4, 3), torch.tensor([0, 0, 5, 9]))
    for row in (torch.zeros(3), *draw(0, 8, 3)):
        weight, bias = row.double().repeat(10, 1), torch.full((10,), 0.1).double()
        weight, bias = repair(weight, bias, (0,), tuple(range(1, 10)))
        assert weight.any() == row.any()  # a row of zeros stays one
        assert accuracies(outputs, weight, bias)[[0, 5, 9]].tolist() == pytest.approx([0.1] * 3)


def test_a_value_that_cannot_be_computed_is_absent() -> None:
    cleared = Plain(20, 5)
    cleared.head.weight.data[1] = 0.0
    found = measured(Head(), world((1, 3), unlearned=cleared))
    assert found["alignment"] == ALIKE  # one class without a value makes the mean another quantity
    assert isinstance(found["row_norm"], float)
    everything = measured(Head(), world((0, 1, 2, 3, 4)))
    assert set(everything.values()) == {Absent("no class is retained")}
    assert all(isinstance(v, Absent) for v in measured(Head(), world(())).values())
    no_test = measured(Head(), world((0,), splits={}))
    assert set(no_test.values()) == {Absent("the run has no test images")}
    assert measured(Head(), world((0, 1, 2, 3)))["bias_anomaly"] == FLAT  # one bias has no spread
    bias = torch.tensor([SUNK, 1.0, -1.0, 0.0], dtype=torch.float64)
    assert bias_anomaly(bias, 0, (1, 2, 3)) == pytest.approx(SUNK)
    assert np.isnan(row_norm(torch.eye(3, 2) * torch.tensor([1.0, 0.0]), 0, (1, 2)))
    constant = torch.full((7, 2), 0.1).double()
    centre = torch.full((9, 2), 0.1).double().sum(dim=0) / 9 + 1e-12
    assert np.isnan(alignment(torch.ones(2).double(), constant, centre))
