"""Accuracy: known models, scikit-learn on random ones, ties, and classes without images."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from geniu_lightning.data.imbalance import step
from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.accuracy import (
    Accuracy,
    balanced_mean,
    confusion,
    credits,
    few_and_many,
    lacking,
    per_class,
    profile,
    shares,
)
from tests.evaluation.worlds import NO_IMAGE, context_of, outputs, random_outputs, rigged, world


def test_a_split_that_the_run_lacks_is_absent_with_its_reason() -> None:
    found = Accuracy(["test", "validation"])(context_of(rigged()["mask"], splits=("test",)))
    assert found["test.forget"] == 0.0
    assert found["validation.retain"] == Absent("the run has no validation images")
    assert not any(name.startswith("generalisation") for name in found)
    for there, other in (("test", "train"), ("train", "test")):
        found = Accuracy()(context_of(rigged()["mask"], splits=(there,)))
        assert found["generalisation.forget"] == Absent(f"the run has no {other} images")
    mask = world({"test": random_outputs(0, 6)})
    assert lacking(mask, "test", (1, 2)) is None
    assert lacking(mask, "test", ()) == NO_IMAGE
    assert lacking(mask, "train", (1,)) == Absent("the run has no train images")
    after_training = Accuracy(["test"])(world({"test": random_outputs(0, 30)}, forget=()))
    assert after_training["test.forget"] == NO_IMAGE
    assert isinstance(after_training["test.retain"], float)
    with pytest.raises(SettingError, match=r"splits\.0 must be"):
        Accuracy(["tests"])


def profile_of(
    given: Outputs, forget: tuple[int, ...], counts: tuple[int, ...] | None = None
) -> dict[str, object]:
    return profile(given, world({"test": given}, forget=forget, counts=counts))


def test_summaries_match_scikit_learn() -> None:
    counts = (7, 30, 1, 12, 5, 18)
    for seed, rows, forget in ((1, 60, (0,)), (2, 200, (2,)), (3, 90, (1, 4)), (4, 131, (0, 3, 5))):
        given = random_outputs(seed, rows)
        truth, answer = given.labels.numpy(), given.logits.argmax(dim=1).numpy()
        mine = np.isin(truth, forget)
        found = profile_of(given, forget, counts)
        for name, part in (("forget", mine), ("retain", ~mine)):
            with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
                expected = balanced_accuracy_score(truth[part], answer[part])
            assert found[name] == pytest.approx(expected)
        assert found["retain_micro"] == pytest.approx(accuracy_score(truth[~mine], answer[~mine]))
        weights = (np.array(counts) / np.bincount(truth))[truth][~mine]
        by_frequency = accuracy_score(truth[~mine], answer[~mine], sample_weight=weights)
        assert found["retain_by_frequency"] == pytest.approx(by_frequency)
        recall = [float((answer[truth == k] == k).mean()) for k in range(6)]
        assert found["per_class"] == pytest.approx(recall)
        retained = [k for k in range(6) if k not in forget]
        assert found["worst_retained"] == pytest.approx(min(recall[k] for k in retained))
        bound = 2 / 3 * max(counts[k] for k in retained)
        for name, few in (("retain_minority", True), ("retain_majority", False)):
            expected = np.mean([recall[k] for k in retained if (counts[k] < bound) == few])
            assert found[name] == pytest.approx(expected)
        larger = outputs(given.logits * 1e3, given.labels)
        assert profile_of(larger, forget, counts) == found  # the scale of logits changes nothing
        assert confusion(given, 6).tolist() == confusion_matrix(truth, answer).tolist()


def test_a_tie_counts_as_its_share_and_nan_as_wrong() -> None:
    draws = np.random.default_rng(0)
    rows, labels = draws.integers(-1, 2, (30, 4)).tolist(), draws.integers(0, 4, 30)
    expected = [[(x == max(row)) / row.count(max(row)) for x in row] for row in rows]
    given = outputs(torch.tensor(rows), torch.from_numpy(labels))
    assert shares(given.logits).numpy() == pytest.approx(np.array(expected, dtype=float))
    own = [row[k] for row, k in zip(expected, labels, strict=True)]
    assert credits(given.logits, given.labels).tolist() == pytest.approx(own)
    infinite = torch.tensor([[-torch.inf, 1.0], [torch.inf, 1.0], [torch.nan, torch.nan]])
    assert credits(infinite, torch.tensor([0, 0, 0])).tolist() == [0.0, 1.0, 0.0]


def test_few_is_at_most_two_thirds_of_the_largest_retained_class() -> None:
    for counts, classes, few, many in (
        ((9, 1, 2, 3, 4), (1, 2, 3, 4), (1, 2), (3, 4)),
        ((0, 9, 6, 7), (1, 2, 3), (2,), (1, 3)),  # two thirds are few
        ((5, 500, 50, 50, 50), (1, 2, 3, 4), (2, 3, 4), (1,)),
        ((900, 50, 50, 50), (1, 2, 3), (), ()),  # a forgotten class makes no minority
        ((43, 43, 42, 43), (0, 1, 2, 3), (), ()),  # nor does one image
        ((5, 7), (1,), (), ()),
        ((5, 0, 0), (1, 2), (), ()),
        ((5, 7), (), (), ()),
    ):
        assert few_and_many(counts, classes) == (few, many)
    found = profile_of(random_outputs(0, 30), (0,), (80, 10, 10, 10, 10, 10))
    reason = Absent(
        "no retained class has at most two thirds as many training images as the largest"
    )
    assert found["retain_minority"] == found["retain_majority"] == reason


def test_rounding_makes_no_minority_among_classes_cut_to_one_ratio() -> None:
    labels = torch.from_numpy(load_digits().target)  # 174 to 183 images a class
    for ratio in (0.5, 0.3, 0.2, 0.1, 0.02):
        for large in range(10):
            kept = step(labels, [*map(str, range(10))], majority=[large], ratio=ratio)
            counts = tuple(labels[kept].bincount().tolist())
            for forgotten in range(10):
                retained = tuple(k for k in range(10) if k != forgotten)
                small = tuple(k for k in retained if k != large)
                expected = ((), ()) if forgotten == large else (small, (large,))
                assert few_and_many(counts, retained) == expected


def right(*labels: int) -> Outputs:
    """Outputs of four classes, every image right."""
    return outputs(torch.eye(4)[list(labels)], list(labels))


def test_a_class_without_images_is_left_out_of_means() -> None:
    given = outputs(torch.eye(4)[[0, 1, 1]], [0, 1, 3])
    found = profile_of(given, (0,), (5, 1, 8, 7))
    assert found["per_class"] == [1.0, 1.0, None, 0.0]
    means = ("retain", "worst_retained", "retain_micro", "retain_by_frequency")
    assert [found[name] for name in means] == [0.5, 0.0, 0.5, 0.125]
    assert (found["retain_minority"], found["retain_majority"]) == (1.0, 0.0)
    assert per_class(given, 4).isnan().tolist() == [False, False, True, False]
    assert profile_of(right(0, 1), (1, 2))["forget"] == 1.0
    for labels, forget, without in (
        ((1, 2, 3), (0,), {"forget"}),
        ((0, 0), (0,), {"retain", "retain_micro", "worst_retained"}),
        ((0, 1, 2, 3), (), {"forget"}),
    ):
        found = profile_of(right(*labels), forget)
        for name in ("forget", "retain", "retain_micro", "worst_retained"):
            assert found[name] == (NO_IMAGE if name in without else 1.0), name
    none = Absent("no retained class has both training images and images in the split")
    assert profile_of(right(0, 1), (0,), (5, 0, 3, 3))["retain_by_frequency"] == none
    values = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    labels = torch.tensor([3, 3, 3, 1, 0])
    assert balanced_mean(values, labels, (1, 3)).tolist() == [0.5, 2.0]
    assert balanced_mean(values[:, 0], labels, (1, 2, 3)).item() == 0.5
    assert balanced_mean(values, labels, (2,)).isnan().all()
