"""Where forgotten images go: on models whose answers are known, and against numpy and scipy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from scipy.stats import rankdata

from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.evaluator import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.metrics.confusion import (
    Confusion,
    answers,
    entropy,
    rank_correlation,
    total_variation,
)
from tests.evaluation.metrics.test_accuracy import draw, said, world
from tests.evaluation.rigged import CLASSES, context_of, rigged

some = settings(max_examples=20, deadline=None)
SHOWN = (Confusion().readings).keys()
LOG9, PEAK = math.log(9), 81 / 89  # of nine: nothing known, and the largest of the oracle
NARROW = -PEAK * math.log(PEAK) + 8 / 89 * math.log(89)

# columns: share of T_f in the largest class, distance to the oracle, the attractor on retained
# classes, Spearman's correlation (None: a flat profile), entropy and largest of what is retained
KNOWN = {
    "original": (0.0, 1.0, 0.0, None, LOG9, 1 / 9),
    "oracle": (0.0, 0.0, 0.0, -1 / 8, NARROW, PEAK),
    "mask": (0.1111, 8 / 9, 0.0, None, LOG9, 1 / 9),
    "uniform": (0.1, 0.9, 0.1, None, LOG9, 1 / 9),
    "memoriser": (0.0, 0.0, 0.0, -1 / 8, NARROW, PEAK),
    "collapsed": (1.0, 1.0, 1.0, 1.0, NARROW, PEAK),
}
FLAT = Absent("all retained classes get the same share of the answers")


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_send_forgotten_images_where_it_is_known(name: str) -> None:
    context = context_of(rigged()[name])
    found = Confusion()(context.showing(Confusion.needs))
    attractor, distance, retained, rank, width, peak = KNOWN[name]
    assert found["attractor"] == pytest.approx(attractor, abs=1e-4)
    assert found["distance"] == pytest.approx(distance, abs=1e-4)
    assert found["attractor_retained"] == pytest.approx(retained, abs=1e-4)
    assert found["rank_correlation"] == (FLAT if rank is None else pytest.approx(rank, abs=1e-4))
    assert found["retained_entropy"] == pytest.approx(width, abs=1e-4)
    assert found["retained_top1"] == pytest.approx(peak, abs=1e-4)
    assert found.keys() == SHOWN


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("original", [1.0, *[0.0] * 9]),
        ("oracle", [0.0, 0.0, 1.0, *[0.0] * 7]),
        ("mask", [0.0, *[1 / 9] * 9]),
        ("uniform", [0.1] * 10),
        ("collapsed", [0.0, 1.0, *[0.0] * 8]),
    ],
)
def test_a_profile_is_the_answers_of_forgotten_test_images(
    name: str, expected: list[float]
) -> None:
    assert Confusion()(context_of(rigged()[name]))["profile"] == pytest.approx(expected)


def test_training_images_may_be_looked_at_instead() -> None:
    context = context_of(rigged()["memoriser"])
    assert Confusion("train")(context)["distance"] == 1.0
    assert Confusion("train")(context)["profile"] == [1.0, *[0.0] * 9]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("original", 0.5448), ("oracle", 0.4892), ("mask", 2.1972), ("uniform", 2.3026)],
)
def test_the_entropy_of_all_probabilities_is_known_too(name: str, expected: float) -> None:
    context = context_of(rigged()[name])
    outputs = context.outputs(context.unlearned, "test").of((0,))
    assert entropy(outputs.log_probabilities).mean().item() == pytest.approx(expected, abs=1e-4)


def test_every_value_is_read_beside_the_oracles() -> None:
    for name in SHOWN:
        assert Confusion().reading(name) == MetricInfo("oracle")


# ---- on random answers -----------------------------------------------------------------------


@some
@given(seed=st.integers(0, 2**16), forget=st.sampled_from([(0,), (3,), (1, 4), (0, 2, 5)]))
def test_all_values_match_numpy(seed: int, forget: tuple[int, ...]) -> None:
    outputs, oracles = draw(seed, 90), [draw(seed + 1, 90), draw(seed + 2, 90)]
    counts = (40, 7, 30, 12, 5, 12)
    found = Confusion()(
        world({"test": outputs}, *({"test": o} for o in oracles), forget=forget, counts=counts)
    )
    kept = [k for k in range(6) if k not in forget]
    truth = outputs.labels.numpy()

    def table(of: Outputs) -> np.ndarray:
        answer = of.logits.argmax(dim=1).numpy()
        return np.array([[(answer[truth == k] == c).mean() for c in range(6)] for k in range(6)])

    rows = table(outputs)
    profile = rows[list(forget)].mean(axis=0)
    assert found["profile"] == pytest.approx(profile.tolist())
    assert found["distance"] == pytest.approx(
        np.mean([np.abs(rows - table(o))[list(forget)].sum(axis=1) / 2 for o in oracles])
    )
    largest = max(kept, key=lambda k: counts[k])
    others = [k for k in kept if k != largest]
    assert found["attractor"] == pytest.approx(profile[largest])
    assert found["attractor_retained"] == pytest.approx(rows[others, largest].mean())
    ranks = [rankdata(x) for x in (profile[kept].round(9), [counts[k] for k in kept])]
    constant = np.ptp(ranks[0]) == 0  # now and then, of few images
    expected = FLAT if constant else pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["rank_correlation"] == expected
    shape = softmax(outputs.logits.double().numpy()[:, kept], axis=1)
    for name, each in (
        ("retained_entropy", scipy_entropy(shape, axis=1)),
        ("retained_top1", shape.max(axis=1)),
    ):
        assert found[name] == pytest.approx(np.mean([each[truth == k].mean() for k in forget]))


@some
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 8))
def test_a_distance_of_distributions_is_that_of_their_largest_disagreement(
    seed: int, classes: int
) -> None:
    one, other = np.random.default_rng(seed).dirichlet(np.ones(classes), size=2)
    found = total_variation(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx((one - other)[one > other].sum())


# ---- several classes -------------------------------------------------------------------------


def test_a_rare_forgotten_class_counts_as_much_as_a_frequent_one() -> None:
    # nine images of class 0 go to class 2, one of class 1 to class 3
    outputs = said(torch.eye(4)[[2] * 9 + [3]], [0] * 9 + [1])
    found = Confusion()(world({"test": outputs}, forget=(0, 1), counts=(9, 1, 5, 3)))
    assert found["profile"] == [0.0, 0.0, 0.5, 0.5]
    assert found["attractor"] == 0.5


def test_two_classes_that_changed_places_are_far_from_the_oracle() -> None:
    labels = [0, 0, 1, 1]
    oracle, model = (
        said(torch.eye(4)[[2, 2, 3, 3]], labels),
        said(torch.eye(4)[[3, 3, 2, 2]], labels),
    )
    context = world({"test": model}, {"test": oracle}, forget=(0, 1), counts=(1, 1, 2, 1))
    assert Confusion()(context)["distance"] == 1.0


def test_a_distance_is_the_mean_of_those_to_each_oracle() -> None:
    model, same, other = (said(torch.eye(3)[[k, k]], [0, 0]) for k in (1, 1, 2))
    context = world({"test": model}, {"test": same}, {"test": other}, counts=(1, 2, 1))
    assert Confusion()(context)["distance"] == 0.5


def test_several_largest_classes_attract_together() -> None:
    outputs = said(torch.eye(5)[[1, 1, 2, 3, 1, 2, 4, 3]], [0, 0, 0, 0, 3, 3, 3, 4])
    found = Confusion()(world({"test": outputs}, counts=(1, 7, 7, 2, 3)))
    assert found["attractor"] == 0.75
    assert found["attractor_retained"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_larger_forgotten_class_attracts_nothing() -> None:
    outputs = said(torch.eye(4)[[0, 0, 1, 2]], [0, 0, 0, 0])
    found = Confusion()(world({"test": outputs}, counts=(900, 7, 5, 5)))
    assert found["attractor"] == 0.25


# ---- edges -----------------------------------------------------------------------------------


def test_the_shape_of_what_is_retained_survives_probabilities_that_underflow() -> None:
    logits = torch.tensor([[1e4, 0.0, math.log(3), -1e4], [1e4, -1e4, -1e4, -1e4]])
    found = Confusion()(world({"test": said(logits, [0, 0])}, counts=(1, 2, 1, 1)))
    expected = (scipy_entropy([0.25, 0.75]) + math.log(3)) / 2
    assert found["retained_entropy"] == pytest.approx(expected)
    assert found["retained_top1"] == pytest.approx((0.75 + 1 / 3) / 2)


def test_an_entropy_of_certainty_is_zero() -> None:
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    assert entropy(certain).tolist() == [0.0]


def test_rounding_makes_no_ranks() -> None:
    third = torch.tensor([0.1 + 0.2, 0.3, 0.3], dtype=torch.float64)
    assert rank_correlation(third, [1, 2, 3]) == FLAT
    assert rank_correlation(torch.tensor([0.1, 0.2, 0.7]), [1, 20, 300]) == pytest.approx(1.0)


def test_equal_counts_have_no_largest_class_and_no_ranks() -> None:
    outputs = said(torch.eye(3)[[1, 1]], [0, 0])
    found = Confusion()(world({"test": outputs}, counts=(9, 5, 5)))
    none = Absent("no retained class has more training images than another")
    assert found["attractor"] == found["attractor_retained"] == none
    equal = "all retained classes have the same number of training images"
    assert found["rank_correlation"] == Absent(equal)
    assert found["profile"] == [0.0, 1.0, 0.0]


def test_without_images_of_smaller_classes_their_attraction_is_absent() -> None:
    outputs = said(torch.eye(3)[[1, 1]], [0, 1])
    found = Confusion()(world({"test": outputs}, counts=(9, 5, 4)))
    reason = "the split has no image of the smaller retained classes"
    assert found["attractor_retained"] == Absent(reason)
    assert found["attractor"] == 1.0


def test_without_oracles_only_the_distance_is_absent() -> None:
    context = dataclasses.replace(context_of(rigged()["collapsed"]), oracles=())
    found = Confusion()(context)
    absent = {name: value for name, value in found.items() if isinstance(value, Absent)}
    assert absent == {"distance": Absent("there is no oracle to compare with")}


def test_what_has_no_images_is_absent_with_its_reason() -> None:
    context = context_of(rigged()["mask"], splits=("test",))
    none = Absent("the split has no image of such a class")
    for metric, about, reason in (
        (Confusion("train"), context, Absent("the run has no train images")),
        (Confusion(), dataclasses.replace(context, forget=()), none),
        (Confusion(), world({"test": said(torch.eye(2), [1, 1])}), none),
        (
            Confusion(),
            dataclasses.replace(context, forget=tuple(range(CLASSES))),
            Absent("no class is retained"),
        ),
    ):
        assert metric(about) == dict.fromkeys(SHOWN, reason)


def test_a_forgotten_class_without_images_takes_no_part() -> None:
    model, oracle = said(torch.eye(4)[[2, 2]], [0, 0]), said(torch.eye(4)[[2, 3]], [0, 0])
    context = world({"test": model}, {"test": oracle}, forget=(0, 1), counts=(1, 1, 2, 1))
    found = Confusion()(context)
    assert found["distance"] == 0.5
    assert found["profile"] == [0.0, 0.0, 1.0, 0.0]
    assert answers(model, (0, 1)).tolist() == [0.0, 0.0, 1.0, 0.0]


def test_the_battery_puts_the_oracles_own_values_beside() -> None:
    models = rigged()
    near = rigged()["oracle"]
    context = context_of(models["mask"], models["oracle"], near)
    findings = run(context, {"confusion": Confusion()}, {"original": models["original"]})
    tree = tree_of(findings)["confusion"]
    assert tree["distance"]["oracle_mean"] == 0.0
    assert tree["distance"]["position"] == pytest.approx(8 / 9)
    assert tree["profile"]["oracle_mean"] == [0.0, 0.0, 1.0, *[0.0] * 7]
    assert tree["rank_correlation"] == {"absent": FLAT.reason}
