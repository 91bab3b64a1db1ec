"""The attack on retained probabilities: known models and pairs, scikit-learn on random ones."""

import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.attacks import retained_attack as module
from geniu_lightning.evaluation.attacks.retained_attack import (
    RetainedAttack,
    attack,
    distance,
    retained_logs,
)
from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.evaluator import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from tests.evaluation.metrics.test_accuracy import said, world
from tests.evaluation.rigged import context_of, rigged, saturated

some = settings(max_examples=10, deadline=None)


@pytest.fixture(autouse=True)
def _no_warning_is_hidden() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a fit that did not converge
        yield


def attacked(context: Context, **settings: int) -> dict[str, Any]:
    return RetainedAttack(**settings)(context.showing(RetainedAttack.needs))


def random(seed: int, labels: Tensor, classes: int = 6, shift: float = 0.0) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), classes, generator=stream)
    logits[:, 1] += shift
    return said(logits, labels)


# ---- known answers -----------------------------------------------------------------------------

# columns: area, distance of the mean retained probabilities to the oracle's
KNOWN = {
    "original": (1.0, 0.7990),
    "oracle": (0.5, 0.0),
    "mask": (1.0, 0.7990),
    "uniform": (1.0, 0.7990),
    "memoriser": (0.5, 0.0),
    "collapsed": (1.0, 0.8989),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_are_told_from_the_oracle_as_is_known(name: str) -> None:
    found = attacked(context_of(rigged()[name]))
    assert found["auc"] == pytest.approx(KNOWN[name][0], abs=1e-4)
    assert found["distance"] == pytest.approx(KNOWN[name][1], abs=1e-4)
    assert found.keys() == {"auc", "distance"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_is_not_told_from_itself(name: str) -> None:
    found = attacked(context_of(rigged()[name], rigged()[name]))
    assert (found["auc"], found["distance"]) == (0.5, 0.0)


def test_saturated_pairs() -> None:
    same = attacked(context_of(saturated(3), saturated(3)))
    assert (same["auc"], same["distance"]) == (0.5, 0.0)
    other = attacked(context_of(saturated(3), saturated(4)))
    assert (other["auc"], other["distance"]) == (1.0, 1.0)


def test_nine_tenths_on_one_class_or_on_the_next() -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    ours, theirs = (
        {"test": said(math.log(81) * torch.eye(10)[k].repeat(50, 1), labels)} for k in (0, 1)
    )
    assert attacked(world(ours, theirs))["auc"] == 1.0


# ---- what is looked at -------------------------------------------------------------------------


def test_models_of_one_law_are_not_told_apart() -> None:
    labels = torch.zeros(600, dtype=torch.int64)
    areas = [
        attacked(world({"test": random(seed, labels)}, {"test": random(seed + 50, labels)}))["auc"]
        for seed in range(5)
    ]
    error = math.sqrt(1201 / (12 * 600**2))
    assert all(abs(area - 0.5) < 3 * error for area in areas)


def test_a_shift_of_one_retained_class_is_found() -> None:
    labels = torch.zeros(300, dtype=torch.int64)
    context = world({"test": random(1, labels, shift=1.5)}, {"test": random(2, labels)})
    assert attacked(context)["auc"] > 0.75


def test_forgotten_logits_are_out_of_sight() -> None:
    labels = torch.arange(120) % 6
    ours, theirs, masked = (random(seed, labels) for seed in (1, 2, 1))
    masked.logits[:, [0, 3]] = -1e4
    found = attacked(world({"test": ours}, {"test": theirs}, forget=(0, 3)))
    assert attacked(world({"test": masked}, {"test": theirs}, forget=(0, 3))) == found


def test_images_of_all_forgotten_classes_and_of_no_other_count() -> None:
    labels = torch.arange(240) % 6
    ours, theirs = random(1, labels), random(2, labels)
    ours.logits[labels == 3, 1] += 50  # forgotten: found
    ours.logits[labels == 2, 1] += 50  # retained: not looked at
    both = attacked(world({"test": ours}, {"test": theirs}, forget=(0, 3)))
    q = [
        softmax(out.logits.double().numpy()[np.isin(labels, (0, 3))][:, [1, 2, 4, 5]], axis=1)
        for out in (ours, theirs)
    ]
    by_hand = np.abs(q[0].mean(axis=0) - q[1].mean(axis=0)).sum() / 2
    assert both["distance"] == pytest.approx(by_hand)
    alone = attacked(world({"test": ours}, {"test": theirs}, forget=(0,)))
    assert alone["auc"] < 0.7 < both["auc"]


def test_several_oracles_are_met_one_by_one() -> None:
    labels = torch.zeros(40, dtype=torch.int64)
    ours = random(1, labels)
    far = random(1, labels, shift=500.0)
    found = attacked(world({"test": ours}, {"test": ours}, {"test": far}))
    assert found["auc"] == 0.75
    assert found["distance"] == pytest.approx(
        attacked(world({"test": ours}, {"test": far}))["distance"] / 2
    )


# ---- against scikit-learn ----------------------------------------------------------------------


@some
@given(
    seed=st.integers(0, 2**16),
    images=st.integers(20, 60),
    folds=st.integers(2, 5),
    scale=st.floats(0.1, 9),
)
def test_the_area_is_that_of_a_grouped_cross_validation(
    seed: int, images: int, folds: int, scale: float
) -> None:
    stream = np.random.default_rng(seed)
    features = scale * stream.normal(size=(2, images, 5)) + np.array([[[0.3]], [[0.0]]])
    fold = stream.permutation(images) % folds
    found = attack(torch.tensor(features[0]), torch.tensor(features[1]), torch.tensor(fold))
    origin = np.repeat([1, 0], images)
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000, tol=1e-10)),
        features.reshape(-1, 5),
        origin,
        cv=PredefinedSplit(np.tile(fold, 2)),
        method="decision_function",
    )
    assert found == pytest.approx(roc_auc_score(origin, expected))


@some
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.1, 3.0, 200.0]))
def test_logs_and_distance_match_scipy(seed: int, scale: float) -> None:
    stream = np.random.default_rng(seed)
    logits = (scale * stream.normal(size=(2, 15, 6))).astype(np.float32)
    kept = (1, 2, 5)
    ours, theirs = (retained_logs(torch.tensor(side), kept) for side in logits)
    expected = log_softmax(logits.astype(np.float64)[:, :, kept], axis=2)
    # scipy rounds to 0 what is nearer than 1e-16 to it
    np.testing.assert_allclose(ours.numpy(), expected[0], rtol=1e-12, atol=1e-14)
    means = np.exp(expected).mean(axis=1)
    assert distance(ours, theirs) == pytest.approx(np.abs(means[0] - means[1]).sum() / 2)


def test_a_rule_never_saw_the_image_that_it_scores() -> None:
    # with more classes than images a rule knows each image it saw; were the other model's row of
    # the same image among these, equal models would be told apart, the wrong way round
    labels = torch.zeros(40, dtype=torch.int64)
    ours = random(1, labels, classes=80)
    assert attacked(world({"test": ours}, {"test": ours}))["auc"] == 0.5


# ---- which images ------------------------------------------------------------------------------


def seen(monkeypatch: pytest.MonkeyPatch, context: Context, **settings: int) -> list[Tensor]:
    """Return the model's rows that the classifier is given, oracle by oracle, and the folds."""
    given_rows: list[Tensor] = []

    def record(ours: Tensor, theirs: Tensor, folds: Tensor) -> float:
        given_rows.extend((ours, theirs, folds))
        return 0.5

    monkeypatch.setattr(module, "attack", record)
    attacked(context, **settings)
    return given_rows


def test_at_most_so_many_images_are_drawn_the_same_for_every_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.zeros(90, dtype=torch.int64)
    ours, theirs = {"test": random(1, labels)}, {"test": random(2, labels)}
    first, one, folds, second, other, _ = seen(
        monkeypatch, world(ours, theirs, ours), folds=3, images=30
    )
    assert len(first) == len(one) == 30
    assert torch.equal(first, second)
    assert torch.equal(first, other)  # both rows of a pair are of one image
    assert folds.bincount().tolist() == [10, 10, 10]
    rows = retained_logs(ours["test"].logits, (1, 2, 3, 4, 5))
    chosen = [int((rows == row).all(dim=1).nonzero()) for row in first]
    assert len(set(chosen)) == 30
    assert chosen != sorted(chosen)  # images of one kind that follow each other are mixed
    # another model is shown the same images
    swapped = seen(monkeypatch, world(theirs, ours), folds=3, images=30)
    assert torch.equal(swapped[1], first)


def test_all_images_are_taken_where_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.zeros(90, dtype=torch.int64)
    ours = {"test": random(1, labels)}
    assert len(seen(monkeypatch, world(ours, ours))[0]) == 90
    many = {"test": random(1, torch.zeros(1100, dtype=torch.int64))}
    assert len(seen(monkeypatch, world(many, many))[0]) == 1000


def test_the_distance_takes_all_images() -> None:
    labels = torch.zeros(90, dtype=torch.int64)
    context = world({"test": random(1, labels)}, {"test": random(2, labels)})
    assert attacked(context, images=10)["distance"] == attacked(context)["distance"]


def test_nothing_moves_and_twice_is_the_same() -> None:
    labels = torch.arange(120) % 6
    context = world({"test": random(1, labels)}, {"test": random(2, labels)})
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert attacked(context) == attacked(context)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()


# ---- absent, and the battery -------------------------------------------------------------------


def absent(context: Context) -> set[Any]:
    found = attacked(context)
    assert found.keys() == {"auc", "distance"}
    return set(found.values())


def test_what_lacks_is_named() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    ours = {"test": random(1, labels)}
    assert absent(world(ours)) == {Absent("there is no oracle to compare with")}
    assert absent(context_of(rigged()["mask"], splits=("train",))) == {
        Absent("the run has no test images")
    }
    assert absent(world(ours, ours, forget=(1,))) == {
        Absent("the split has no image of such a class")
    }
    two = {"test": random(1, labels, classes=2)}
    assert absent(world(two, two)) == {
        Absent("with fewer than two retained classes nothing is left to compare")
    }


def test_fewer_images_than_folds_still_have_a_distance() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    ours = {"test": random(1, labels)}
    found = attacked(world(ours, ours))
    assert found["auc"] == Absent("5 folds need as many images of forgotten classes, there are 4")
    assert found["distance"] == 0.0
    assert attacked(world(ours, ours), folds=4)["auc"] == 0.5


@pytest.mark.parametrize(("folds", "images"), [(1, 10), (0, 10), (5, 4)])
def test_folds_that_cannot_be_are_refused(folds: int, images: int) -> None:
    with pytest.raises(UserError, match=f"not {folds} folds of {images} images"):
        RetainedAttack(folds, images)


def test_the_battery_reads_it_beside_the_oracles() -> None:
    for name in ("auc", "distance"):
        assert RetainedAttack().reading(name) == MetricInfo("oracle", None, 0.02)
    models = rigged()
    context = context_of(models["mask"], models["oracle"], rigged()["oracle"])
    tree = tree_of(run(context, {"retained_attack": RetainedAttack()}))
    entry = json.loads(json.dumps(tree, allow_nan=False))["retained_attack"]["auc"]
    assert (entry["value"], entry["oracle_mean"]) == (1.0, 0.5)
