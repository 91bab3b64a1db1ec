"""The two-model test on retained probabilities: known answers and a grouped cross-validation."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks import retained_attack as module
from geniu_lightning.evaluation.attacks.retained_attack import RetainedAttack, attack
from geniu_lightning.evaluation.context import Context, Outputs, log_softmax
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.worlds import (
    NO_IMAGE,
    NO_ORACLE,
    context_of,
    measured,
    outputs,
    rigged,
    saturated,
    world,
)


@pytest.fixture(autouse=True)
def _no_warning_is_hidden() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a fit that did not converge
        yield


def attacked(context: Context, **settings: int) -> dict[str, object]:
    return measured(RetainedAttack(**settings), context)


def random(seed: int, labels: Tensor, classes: int = 6, shift: float = 0.0) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), classes, generator=stream)
    logits[:, 1] += shift
    return outputs(logits, labels)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_models_that_differ_are_told_apart_and_none_from_itself() -> None:
    other = attacked(context_of(saturated(3), saturated(4)))
    assert other == {"distance": 1.0, "auc": 1.0}
    # with more classes than images a rule knows each image it was fitted on
    ours = {"test": random(1, zeros(40), classes=80)}
    assert attacked(world(ours, ours))["auc"] == 0.5


def test_it_sees_all_forgotten_images_no_other_and_no_forgotten_logit() -> None:
    labels = torch.arange(240) % 6
    ours, theirs, masked = (random(seed, labels) for seed in (1, 2, 1))
    masked.logits[:, [0, 3]] = -1e4
    found = attacked(world({"test": ours}, {"test": theirs}, forget=(0, 3)))
    assert attacked(world({"test": masked}, {"test": theirs}, forget=(0, 3))) == found
    ours.logits[labels == 3, 1] += 50  # forgotten
    ours.logits[labels == 2, 1] += 50  # retained
    both = attacked(world({"test": ours}, {"test": theirs}, forget=(0, 3)))
    q = [
        softmax(out.logits.double().numpy()[np.isin(labels, (0, 3))][:, [1, 2, 4, 5]], axis=1)
        for out in (ours, theirs)
    ]
    by_hand = np.abs(q[0].mean(axis=0) - q[1].mean(axis=0)).sum() / 2
    assert both["distance"] == pytest.approx(by_hand)
    assert attacked(world({"test": ours}, {"test": theirs}))["auc"] < 0.7 < both["auc"]


def test_values_are_means_over_oracles() -> None:
    ours, far = {"test": random(1, zeros(40))}, {"test": random(1, zeros(40), shift=500.0)}
    found, alone = attacked(world(ours, ours, far)), attacked(world(ours, far))
    assert found["auc"] == 0.75
    assert found["distance"] == pytest.approx(alone["distance"] / 2)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), images=st.integers(20, 60), folds=st.integers(2, 5))
def test_the_area_is_that_of_a_grouped_cross_validation(seed: int, images: int, folds: int) -> None:
    stream = np.random.default_rng(seed)
    features = 3 * stream.normal(size=(2, images, 5)) + np.array([[[0.3]], [[0.0]]])
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


def test_images_are_drawn_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_given(context: Context, **settings: int) -> list[Tensor]:
        given_rows: list[Tensor] = []

        def record(ours: Tensor, theirs: Tensor, folds: Tensor) -> float:
            given_rows.extend((ours, theirs, folds))
            return 0.5

        monkeypatch.setattr(module, "attack", record)
        attacked(context, **settings)
        return given_rows

    ours, theirs = {"test": random(1, zeros(90))}, {"test": random(2, zeros(90))}
    first, one, folds, second, other, _ = rows_given(world(ours, theirs, ours), folds=3, images=30)
    assert len(first) == len(one) == 30
    assert torch.equal(first, second)
    assert torch.equal(first, other)  # both rows of a pair are of one image
    assert folds.bincount().tolist() == [10, 10, 10]
    rows = log_softmax(ours["test"].logits[:, 1:])
    chosen = [int((rows == row).all(dim=1).nonzero()) for row in first]
    assert len(set(chosen)) == 30
    assert chosen != sorted(chosen)
    assert torch.equal(rows_given(world(theirs, ours), folds=3, images=30)[1], first)
    context = world(ours, theirs)
    assert attacked(context, images=10)["distance"] == attacked(context)["distance"]


def test_a_value_that_cannot_be_computed_is_absent_with_its_reason() -> None:
    ours = {"test": random(1, zeros(20))}
    two = {"test": random(1, zeros(20), classes=2)}
    few_classes = Absent("with fewer than two retained classes nothing is left to compare")
    for context, reason in (
        (world(ours), NO_ORACLE),
        (context_of(rigged()["mask"], splits=("train",)), Absent("the run has no test images")),
        (world(ours, ours, forget=(1,)), NO_IMAGE),
        (world(two, two), few_classes),
    ):
        assert attacked(context) == {"auc": reason, "distance": reason}
    four = {"test": random(1, zeros(4))}
    found = attacked(world(four, four))
    assert found["auc"] == Absent("5 folds need as many images of forgotten classes, there are 4")
    assert found["distance"] == 0.0
    assert attacked(world(four, four), folds=4)["auc"] == 0.5
    for folds, images in ((1, 10), (5, 4)):
        with pytest.raises(SettingError, match="folds must be"):
            RetainedAttack(folds=folds, images=images)
