"""Accuracy on models whose answers are known, and against scikit-learn on random ones."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Outputs, Split
from geniu_lightning.evaluation.evaluator import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.metrics.accuracy import (
    Accuracy,
    balanced_mean,
    confusion,
    credits,
    few_and_many,
    lacking,
    mean_over,
    per_class,
    profile,
    shares,
)
from tests.evaluation.rigged import CLASSES, context_of, rigged

some = settings(max_examples=20, deadline=None)
NO_IMAGE = Absent("the split has no image of such a class")
SUMMARIES = {
    "forget",
    "retain",
    "retain_micro",
    "retain_by_frequency",
    "retain_minority",
    "retain_majority",
    "worst_retained",
    "per_class",
}


# ---- worlds in which what models say is given, image by image; other tests use them too ---------


class Store:
    """Has the outputs of all models at hand, so that nothing is computed."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, str], Outputs] = {}

    def get(self, network: nn.Module, split: str) -> Outputs:
        return self.known[id(network), split]

    def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
        raise AssertionError("all is known")


def said(logits: Tensor, labels: Tensor | list[int]) -> Outputs:
    return Outputs(logits.float(), torch.zeros(len(logits), 1), torch.as_tensor(labels))


def unread(positions: Tensor) -> Tensor:
    raise AssertionError("no image is read")


def world(
    unlearned: dict[str, Outputs],
    *oracles: dict[str, Outputs],
    original: dict[str, Outputs] | None = None,
    forget: tuple[int, ...] = (0,),
    counts: tuple[int, ...] | None = None,
) -> Context:
    """Return the context of models that say, on each split, what they are given to say."""
    store, networks = Store(), []
    for model in (unlearned, original or unlearned, *oracles):
        networks.append(nn.Identity())
        store.known |= {(id(networks[-1]), split): out for split, out in model.items()}
    classes = next(iter(unlearned.values())).logits.shape[1]
    return Context(
        original=networks[1],
        unlearned=networks[0],
        forget=forget,
        class_names=tuple(map(str, range(classes))),
        class_counts=counts or (1,) * classes,
        splits={split: Split(out.labels, unread) for split, out in unlearned.items()},
        oracles=tuple(networks[2:]),
        store=store,
    )


def draw(seed: int, rows: int, classes: int = 6) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes  # of every class at least one
    return said(torch.randn(rows, classes, generator=stream), labels)


# ---- known answers ---------------------------------------------------------------------------

# columns as in the table: A_f on T, A_f on D, A_r, worst, micro with the training images' counts
KNOWN = {
    "original": (1.0, 1.0, 1.0, 1.0, 1.0),
    "oracle": (0.0, 0.0, 1.0, 1.0, 1.0),
    "mask": (0.0, 0.0, 1.0, 1.0, 1.0),
    "uniform": (0.1, 0.1, 0.1, 0.1, 0.1),
    "memoriser": (0.0, 1.0, 1.0, 1.0, 1.0),
    "collapsed": (0.0, 0.0, 0.1111, 0.0, 0.5556),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_have_their_known_accuracies(name: str) -> None:
    found = Accuracy()(context_of(rigged()[name]))
    expected = KNOWN[name]
    columns = ("test.forget", "train.forget", "test.retain", "test.worst_retained")
    for column, value in zip((*columns, "test.retain_by_frequency"), expected, strict=True):
        assert found[column] == pytest.approx(value, abs=1e-4), column
    # on training images these are their own frequencies
    assert found["train.retain_micro"] == pytest.approx(expected[-1], abs=1e-4)
    assert found["train.retain_by_frequency"] == pytest.approx(found["train.retain_micro"])
    # the retained classes are as far from a split as the models are: not at all
    assert found["train.retain"] == pytest.approx(found["test.retain"])
    assert found["train.worst_retained"] == pytest.approx(found["test.worst_retained"])
    assert found["test.retain_micro"] == pytest.approx(found["test.retain"])  # equal counts
    assert found["generalisation.retain"] == pytest.approx(0.0)
    assert found["generalisation.forget"] == pytest.approx(1.0 if name == "memoriser" else 0.0)


def test_a_model_that_answers_the_largest_class_shows_in_the_minority() -> None:
    found = Accuracy()(context_of(rigged()["collapsed"]))
    assert (found["test.retain_minority"], found["test.retain_majority"]) == (0.0, 1.0)


def test_a_profile_lists_each_class_by_its_index() -> None:
    found = Accuracy(("test",))(context_of(rigged()["collapsed"]))
    assert found["test.per_class"] == [0.0, 1.0, *[0.0] * 8]
    assert found.keys() == {f"test.{name}" for name in SUMMARIES}


def test_a_split_that_the_run_lacks_is_absent_with_its_reason() -> None:
    found = Accuracy(["test", "validation"])(context_of(rigged()["mask"], splits=("test",)))
    assert found["test.forget"] == 0.0
    for name in SUMMARIES:
        assert found[f"validation.{name}"] == Absent("the run has no validation images")
    assert not any(name.startswith("generalisation") for name in found)


@pytest.mark.parametrize("there", ["test", "train"])
def test_a_gap_is_absent_for_the_reason_of_the_side_that_is(there: str) -> None:
    found = Accuracy()(context_of(rigged()["mask"], splits=(there,)))
    other = {"test": "train", "train": "test"}[there]
    for name in ("forget", "retain"):
        assert found[f"generalisation.{name}"] == Absent(f"the run has no {other} images")


def test_where_nothing_is_forgotten_the_rest_is_measured() -> None:
    outputs = {"test": draw(0, 30), "train": draw(1, 30)}
    found = Accuracy()(world(outputs, forget=()))
    assert {name for name, value in found.items() if value == NO_IMAGE} == {
        "test.forget",
        "train.forget",
        "generalisation.forget",
    }
    expected = per_class(outputs["test"], 6)
    assert found["test.retain"] == pytest.approx(expected.mean().item())
    gap = per_class(outputs["train"], 6).mean() - expected.mean()
    assert found["generalisation.retain"] == pytest.approx(gap.item())


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("test.forget", MetricInfo("oracle", 0.0)),
        ("train.retain", MetricInfo("higher", 1.0)),
        ("validation.worst_retained", MetricInfo("higher", 1.0)),
        ("test.retain_micro", MetricInfo("higher", 1.0)),
        ("test.retain_by_frequency", MetricInfo("higher", 1.0)),
        ("test.retain_minority", MetricInfo("higher", 1.0)),
        ("test.per_class", MetricInfo("oracle", None)),
        ("generalisation.forget", MetricInfo("oracle", 0.0)),
        ("generalisation.retain", MetricInfo("oracle", None)),
    ],
)
def test_each_value_says_how_it_is_read(name: str, reading: MetricInfo) -> None:
    assert Accuracy().reading(name) == reading


# ---- against scikit-learn and by counting ----------------------------------------------------


def profile_of(
    outputs: Outputs, forget: tuple[int, ...], counts: tuple[int, ...] | None = None
) -> dict[str, Any]:
    return profile(outputs, world({"test": outputs}, forget=forget, counts=counts))


@some
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(60, 200),
    forget=st.sampled_from([(0,), (2,), (1, 4), (0, 3, 5)]),
)
def test_summaries_match_scikit_learn(seed: int, rows: int, forget: tuple[int, ...]) -> None:
    outputs = draw(seed, rows)
    counts = (7, 30, 1, 12, 5, 18)
    truth, answer = outputs.labels.numpy(), outputs.logits.argmax(dim=1).numpy()
    gone = np.isin(truth, forget)
    found = profile_of(outputs, forget, counts)
    for name, rows_of in (("forget", gone), ("retain", ~gone)):
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            expected = balanced_accuracy_score(truth[rows_of], answer[rows_of])
        assert found[name] == pytest.approx(expected)
    assert found["retain_micro"] == pytest.approx(accuracy_score(truth[~gone], answer[~gone]))
    weights = (np.array(counts) / np.bincount(truth))[truth]
    assert found["retain_by_frequency"] == pytest.approx(
        accuracy_score(truth[~gone], answer[~gone], sample_weight=weights[~gone])
    )
    recall = [float((answer[truth == k] == k).mean()) for k in range(6)]
    assert found["per_class"] == pytest.approx(recall)
    kept = [k for k in range(6) if k not in forget]
    assert found["worst_retained"] == pytest.approx(min(recall[k] for k in kept))
    middle = np.median([counts[k] for k in kept])
    for name, mine in (
        ("retain_minority", [k for k in kept if counts[k] < middle]),
        ("retain_majority", [k for k in kept if counts[k] >= middle]),
    ):
        assert found[name] == pytest.approx(np.mean([recall[k] for k in mine]))


@some
@given(
    logits=st.lists(st.lists(st.integers(-1, 1), min_size=4, max_size=4), min_size=1, max_size=12),
    seed=st.integers(0, 100),
)
def test_a_tie_counts_as_its_share_whatever_the_index(logits: list[list[int]], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, len(logits))
    expected = [[(x == max(row)) / row.count(max(row)) for x in row] for row in logits]
    outputs = said(torch.tensor(logits), torch.from_numpy(labels))
    assert shares(outputs.logits).numpy() == pytest.approx(np.array(expected, dtype=float))
    own = [row[k] for row, k in zip(expected, labels, strict=True)]
    assert credits(outputs).tolist() == pytest.approx(own)
    order = torch.tensor([2, 0, 3, 1])
    renamed = said(outputs.logits[:, order], order.argsort()[outputs.labels])
    assert credits(renamed).tolist() == pytest.approx(own)


@some
@given(seed=st.integers(0, 2**16), factor=st.sampled_from([1e-3, 3.0, 1e4]))
def test_the_scale_of_logits_changes_nothing(seed: int, factor: float) -> None:
    outputs = draw(seed, 50)
    larger = said(outputs.logits * factor, outputs.labels)
    assert profile_of(larger, (2,)) == profile_of(outputs, (2,))


@some
@given(seed=st.integers(0, 2**16))
def test_confusion_matches_scikit_learn(seed: int) -> None:
    outputs = draw(seed, 40)
    expected = confusion_matrix(outputs.labels, outputs.logits.argmax(dim=1), labels=list(range(6)))
    found = confusion(outputs, 6)
    assert found.tolist() == expected.tolist()
    assert not found.is_floating_point()


# ---- edges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "classes", "few", "many"),
    [
        ((9, 1, 2, 3, 4), (1, 2, 3, 4), (1, 2), (3, 4)),
        ((9, 1, 2, 3), (1, 2, 3), (1,), (2, 3)),  # the median itself is not few
        ((5, 500, 50, 50, 50), (1, 2, 3, 4), (2, 3, 4), (1,)),  # one large class among small ones
        ((5, 500, 500, 50, 50, 50), (1, 2, 3, 4, 5), (3, 4, 5), (1, 2)),
        ((5, 500, 500, 500, 50), (1, 2, 3, 4), (4,), (1, 2, 3)),
        ((900, 50, 50, 50), (1, 2, 3), (), ()),  # a forgotten class makes no minority
        ((5, 7), (1,), (), ()),
        ((5, 7), (), (), ()),
    ],
)
def test_few_and_many_are_told_by_retained_training_images(
    counts: tuple[int, ...],
    classes: tuple[int, ...],
    few: tuple[int, ...],
    many: tuple[int, ...],
) -> None:
    assert few_and_many(counts, classes) == (few, many)


def test_equal_counts_have_neither_a_minority_nor_a_majority() -> None:
    found = profile_of(draw(0, 30), (0,), (80, 10, 10, 10, 10, 10))
    reason = Absent("all retained classes have the same number of training images")
    assert found["retain_minority"] == found["retain_majority"] == reason


def only(*labels: int) -> Outputs:
    """Outputs of four classes, every image right."""
    found = torch.tensor(labels)
    return said(torch.eye(4)[found], found)


def test_a_class_without_images_is_none_and_takes_no_part_in_means() -> None:
    outputs = said(torch.eye(4)[[0, 1, 1]], [0, 1, 3])
    found = profile_of(outputs, (0,), (5, 1, 8, 3))
    assert found["per_class"] == [1.0, 1.0, None, 0.0]
    assert found["retain"] == 0.5
    assert found["worst_retained"] == 0.0
    assert found["retain_micro"] == 0.5
    assert found["retain_by_frequency"] == 0.25
    assert found["retain_minority"] == 1.0
    assert found["retain_majority"] == 0.0
    assert per_class(outputs, 4).isnan().tolist() == [False, False, True, False]
    assert profile_of(only(0, 1), (0,), (5, 1, 8, 8))["retain_majority"] == NO_IMAGE


def test_two_forgotten_classes_of_which_one_has_images() -> None:
    assert profile_of(only(0, 1), (1, 2))["forget"] == 1.0


@pytest.mark.parametrize(
    ("labels", "forget", "without"),
    [
        ((1, 2, 3), (0,), {"forget"}),
        ((0, 0), (0,), {"retain", "retain_micro", "worst_retained"}),
        ((0, 1, 2, 3), (), {"forget"}),  # after training nothing is forgotten
    ],
)
def test_a_summary_over_no_class_is_absent_and_the_rest_is_there(
    labels: tuple[int, ...], forget: tuple[int, ...], without: set[str]
) -> None:
    found = profile_of(only(*labels), forget)
    for name in ("forget", "retain", "retain_micro", "worst_retained"):
        assert found[name] == (NO_IMAGE if name in without else 1.0), name


def test_frequencies_of_classes_that_training_did_not_see_are_no_weights() -> None:
    reason = "no retained class has both training images and images in the split"
    assert profile_of(only(0, 1), (0,), (5, 0, 3, 3))["retain_by_frequency"] == Absent(reason)
    assert profile_of(only(0), (0,))["retain_by_frequency"] == Absent(reason)


def test_one_image_is_enough() -> None:
    found = profile_of(only(2), (2,))
    assert found["forget"] == 1.0
    assert found["per_class"] == [None, None, 1.0, None]


def test_infinite_logits_are_answers_like_others() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, 0.0], [torch.inf, 1.0, 0.0, 0.0]])
    assert credits(said(logits, [0, 0])).tolist() == [0.0, 1.0]


def test_logits_that_are_no_numbers_are_wrong_answers_and_do_not_vanish() -> None:
    outputs = only(0, 1, 1, 2, 3)
    outputs.logits[2] = torch.nan
    found = profile_of(outputs, (0,))
    assert found["per_class"] == [1.0, 0.5, 1.0, 1.0]
    assert found["retain"] == pytest.approx(2.5 / 3)
    assert found["retain_micro"] == pytest.approx(0.75)


def test_a_balanced_mean_hears_each_class_alike() -> None:
    values = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    labels = torch.tensor([3, 3, 3, 1, 0])
    assert balanced_mean(values, labels, (1, 3)).tolist() == [0.5, 2.0]
    assert balanced_mean(values[:, 0], labels, (1, 2, 3)).item() == 0.5
    assert balanced_mean(values, labels, (2,)).isnan().all()


def test_a_mean_over_classes_leaves_out_those_without_images() -> None:
    each = torch.tensor([1.0, torch.nan, 0.5])
    assert mean_over(each, (0, 1, 2)) == 0.75
    assert mean_over(each, (1,)) == mean_over(each, ()) == NO_IMAGE


def test_why_nothing_can_be_said_is_found_beforehand() -> None:
    context = world({"test": only(0, 1)})
    assert lacking(context, "test", (1, 2)) is None
    assert lacking(context, "test", (2,)) == lacking(context, "test", ()) == NO_IMAGE
    assert lacking(context, "train", (1,)) == Absent("the run has no train images")


def test_the_battery_writes_the_profile_under_its_documented_names() -> None:
    context = context_of(rigged()["memoriser"])
    controls = {"original": rigged()["original"]}
    tree = tree_of(run(context, {"accuracy": Accuracy()}, controls))
    accuracy = json.loads(json.dumps(tree, allow_nan=False))["accuracy"]
    assert accuracy.keys() == {"test", "train", "generalisation"}
    assert accuracy["test"]["forget"]["value"] == 0.0
    assert accuracy["train"]["forget"]["value"] == 1.0
    assert accuracy["train"]["forget"]["position"] == 1.0  # where the original is
    assert accuracy["generalisation"]["forget"]["ideal"] == 0.0
    for split in ("test", "train"):
        assert accuracy[split].keys() == SUMMARIES
        assert len(accuracy[split]["per_class"]["value"]) == CLASSES
