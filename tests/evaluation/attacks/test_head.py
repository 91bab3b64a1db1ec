"""The attack on the last layer: the rigged world, independent arithmetic, and edges."""

import json
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.head import (
    Head,
    accuracies,
    alignment,
    bias_anomaly,
    repair,
    row_norm,
    rows_of,
    transplant,
)
from geniu_lightning.evaluation.context import Context, Outputs, Split, outputs_of
from geniu_lightning.evaluation.evaluator import run
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.rigged import CLASSES, SUNK, T, context_of, rigged, split

some = settings(max_examples=20, deadline=None)
ALIKE = Absent("a forgotten class has a row of zeros, or features like those of all others")
FLAT = Absent("the biases of retained classes do not differ")
NO_ROWS = Absent("the rows of retained classes are zero")


def measured(context: Context) -> dict[str, Any]:
    """What the metric says when it sees only what it declared."""
    return Head()(context.showing(Head.needs))


class Linear(nn.Module):
    """Features are the image itself, then a linear head."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weight.shape[1], len(weight))
        self.head.weight.data, self.head.bias.data = weight.clone(), bias.clone()
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int, classes: int = 5, size: int = 4) -> Linear:
    return Linear(draw(seed, classes, size), draw(seed + 1, classes))


def world(forget: tuple[int, ...], seed: int = 0, **more: Any) -> Context:
    labels = torch.cat([torch.arange(5), torch.arange(95) ** 2 % 5])
    images = (draw(99, 5, 4)[labels] + draw(seed, 100, 4))[:, None, None]
    shown = {
        "original": network(seed + 10),
        "unlearned": network(seed + 20),
        "splits": {"test": Split(labels, lambda positions: images[positions])},
    }
    return Context(forget=forget, class_names=tuple("abcde"), class_counts=(9,) * 5, **shown | more)


# ---- the rigged world ------------------------------------------------------------------------

# columns: A_f and A_r after repair, A_f and A_r after the transplant
KNOWN = {
    "original": (1.0, 1.0, 1.0, 1.0),
    "oracle": (0.0, 1.0, 0.0, 1.0),
    "mask": (1.0, 1.0, 1.0, 1.0),
    "uniform": (0.1, 0.1, 0.1, 0.1),
    "memoriser": (0.0, 1.0, 0.0, 1.0),
    "collapsed": (0.0, 1 / 9, 0.0, 1 / 9),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_are_repaired_as_is_known(name: str) -> None:
    found = measured(context_of(rigged()[name]))
    names = ("repair", "repair_retain", "transplant", "transplant_retain")
    assert [found[one] for one in names] == pytest.approx(KNOWN[name], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "norm", "centred"),
    [
        ("original", 1.0, 0.9 / np.sqrt(0.9)),  # e_0 from a mean of a tenth of every class
        ("oracle", 3 / T, 0.0),
        ("mask", 1.0, 0.9 / np.sqrt(0.9)),
        ("uniform", NO_ROWS, ALIKE),
        ("memoriser", np.sqrt(9 + (T - SUNK) ** 2) / T, 0.0),
        ("collapsed", 1.0, ALIKE),
    ],
)
def test_rigged_rows_have_their_known_norms_and_directions(
    name: str, norm: Any, centred: Any
) -> None:
    found = measured(context_of(rigged()[name]))
    for value, expected in ((found["row_norm"], norm), (found["alignment"], centred)):
        assert value == (
            expected
            if isinstance(expected, Absent)
            else pytest.approx(expected, rel=1e-5, abs=1e-6)
        )
    assert found["bias_anomaly"] == FLAT  # all retained biases of rigged models are 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("original", 1.0),
        ("oracle", -1 / 3),
        ("mask", 1.0),
        ("uniform", None),
        ("memoriser", -1 / 3),
        ("collapsed", 0.0),
    ],
)
def test_rigged_rows_have_their_known_direction_without_a_centre(
    name: str, expected: float | None
) -> None:
    features = outputs_of(rigged()[name], split("test")).of((0,)).features.double()
    row = rows_of(rigged()[name])[0][0]
    row[-1] = 0.0  # what the memoriser adds to an oracle's row only training images show
    found = alignment(row, features, torch.zeros(CLASSES + 1))
    assert found == pytest.approx(np.nan if expected is None else expected, abs=1e-4, nan_ok=True)


def test_a_sunk_bias_is_many_deviations_down_whatever_the_sign_of_the_others() -> None:
    bias = torch.tensor([SUNK, 1.0, -1.0, 0.0], dtype=torch.float64)
    assert bias_anomaly(bias, 0, (1, 2, 3)) == pytest.approx(SUNK)


# ---- masks of our kind -----------------------------------------------------------------------


@pytest.mark.parametrize("sunk", [-1e4, -torch.inf])
def test_a_mask_that_also_clears_the_row_falls_to_the_transplant_alone(sunk: float) -> None:
    mask = rigged()["original"]
    mask.head.weight.data[0] = 0.0
    mask.head.bias.data[0] = sunk
    mask.head.bias.data[1:] = torch.linspace(-1, 1, 9)
    found = measured(context_of(mask))
    # with a row of zeros and the mean bias of 0, the class's images go to the largest bias
    assert found["repair"] == 0.0
    assert found["repair_retain"] == 1.0
    assert found["transplant"] == found["transplant_retain"] == 1.0
    assert found["row_norm"] == 0.0
    assert found["alignment"] == ALIKE
    spread = statistics.stdev(torch.linspace(-1, 1, 9).tolist())
    assert found["bias_anomaly"] == pytest.approx(-1e4 / spread, rel=1e-5)


def test_a_row_of_zeros_stays_zero_and_equal_logits_are_shared() -> None:
    outputs = Outputs(torch.zeros(4, 10), torch.ones(4, 3), torch.tensor([0, 0, 5, 9]))
    for row in (torch.zeros(3), *draw(0, 8, 3)):
        weight, bias = row.double().repeat(10, 1), torch.full((10,), 0.1).double()
        weight, bias = repair(weight, bias, (0,), tuple(range(1, 10)))
        assert weight.any() == row.any()
        # a row that is scaled to its own norm is off by rounding, which must not decide
        assert accuracies(outputs, weight, bias)[[0, 5, 9]].tolist() == pytest.approx([0.1] * 3)


# ---- against independent arithmetic ----------------------------------------------------------


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
    assert measured(context) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@some
@given(seed=st.integers(0, 2**16))
def test_with_its_own_rows_a_model_answers_as_it_does(seed: int) -> None:
    context = world((2,), seed)
    outputs = context.outputs(context.unlearned, "test")
    found = accuracies(outputs, *rows_of(context.unlearned))
    right = outputs.logits.argmax(dim=1) == outputs.labels
    for k in range(5):
        assert found[k].item() == pytest.approx(right[outputs.labels == k].double().mean().item())


def test_the_original_judged_by_itself_keeps_its_answers_after_the_transplant() -> None:
    context = world((0, 2))
    itself = replace(context, unlearned=context.original)
    each = accuracies(context.outputs(context.original, "test"), *rows_of(context.original))
    assert measured(itself)["transplant"] == pytest.approx(each[[0, 2]].mean().item())
    assert measured(itself)["transplant_retain"] == pytest.approx(each[[1, 3, 4]].mean().item())


def test_the_transplant_moves_all_forgotten_rows_at_once_and_no_other() -> None:
    rows = [rows_of(network(seed)) for seed in (0, 5)]
    before = [x.clone() for pair in rows for x in pair]
    weight, bias = transplant(*rows[0], *rows[1], (1, 4))
    for k in range(5):
        source = rows[1] if k in (1, 4) else rows[0]
        assert torch.equal(weight[k], source[0][k])
        assert bias[k] == source[1][k]
    assert all(torch.equal(a, b) for a, b in zip(before, [*rows[0], *rows[1]], strict=True))


@some
@given(seed=st.integers(0, 2**16), factor=st.sampled_from([1e-3, 3.0]))
def test_what_the_repair_undoes_changes_nothing_after_it(seed: int, factor: float) -> None:
    context = world((1, 3), seed)
    hidden = network(seed + 20)
    hidden.head.bias.data[[1, 3]] -= 50.0
    hidden.head.weight.data[[1, 3]] *= factor
    found, plain = measured(replace(context, unlearned=hidden)), measured(context)
    for name in ("repair", "repair_retain", "transplant", "transplant_retain", "alignment"):
        assert found[name] == pytest.approx(plain[name], abs=1e-5), name
    assert found["row_norm"] == pytest.approx(factor * plain["row_norm"], rel=1e-4)
    assert found["bias_anomaly"] < plain["bias_anomaly"] - 1


# ---- edges and rules -------------------------------------------------------------------------


def test_one_forgotten_class_that_has_no_value_makes_the_mean_absent() -> None:
    cleared = network(20)
    cleared.head.weight.data[1] = 0.0
    found = measured(world((1, 3), unlearned=cleared))
    assert found["alignment"] == ALIKE
    assert isinstance(found["row_norm"], float)
    assert isinstance(found["repair"], float)


def test_no_number_is_made_up_where_there_is_nothing_to_compare_with() -> None:
    none = Absent("no class is retained")
    assert set(measured(world((0, 1, 2, 3, 4))).values()) == {none}
    assert all(isinstance(v, Absent) for v in measured(world(())).values())
    assert set(measured(world((0,), splits={})).values()) == {Absent("the run has no test images")}
    assert measured(world((0, 1, 2, 3)))["bias_anomaly"] == FLAT  # one bias does not spread
    assert np.isnan(row_norm(torch.eye(3, 2) * torch.tensor([1.0, 0.0]), 0, (1, 2)))
    constant = torch.full((7, 2), 0.1).double()
    centre = torch.full((9, 2), 0.1).double().sum(dim=0) / 9 + 1e-12
    assert np.isnan(alignment(torch.ones(2).double(), constant, centre))


def test_nothing_is_changed_drawn_or_different_the_second_time() -> None:
    context = world((1, 3), oracles=(network(40), network(50)))
    state = torch.get_rng_state()
    first = run(context, {"head": Head()})
    assert run(world((1, 3), oracles=(network(40), network(50))), {"head": Head()}) == first
    assert first.unlearned.keys() == {f"head.{name}" for name in Head.readings}
    assert all(reading.direction == "oracle" for reading in first.readings.values())
    assert json.dumps(vars(Head())) == "{}"
    torch.set_rng_state(state)
    run(context, {"head": Head()})
    assert torch.equal(torch.get_rng_state(), state)
