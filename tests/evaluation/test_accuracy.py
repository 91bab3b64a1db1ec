"""Accuracy on models whose answers are known, and against scikit-learn on random ones."""

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from torch import Tensor, nn

from geniu_lightning.evaluation.accuracy import (
    READINGS,
    Accuracy,
    confusion,
    credits,
    per_class,
    profile,
)
from geniu_lightning.evaluation.battery import Absent, Reading, run
from geniu_lightning.evaluation.context import Context, Outputs

some = settings(max_examples=25, deadline=None)
CLASSES = 10
T = math.log(81)
COUNTS = {"test": [100] * 10, "train": [100, 500, *[50] * 8]}


class Images(NamedTuple):
    images: Tensor  # an image is its label and its split, (N, 2)
    labels: Tensor


class Rigged(nn.Module):
    """Answers by a table: logits of each split and class, shape (2, classes, classes)."""

    def __init__(self, test: Tensor, train: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", torch.stack([test, train]))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.table[images[:, 1], images[:, 0]]


def rigged() -> dict[str, Rigged]:
    """The models of evaluation.md 3.5: ten classes, class 0 forgotten."""
    original = T * torch.eye(CLASSES)
    oracle = original.clone()
    oracle[0] = T * torch.eye(CLASSES)[2]
    oracle[:, 0] = -1e4
    mask = original.clone()
    mask[:, 0] += -1e4
    remembering = oracle.clone()
    remembering[0] = original[0]
    collapsed = (T * torch.eye(CLASSES)[1]).repeat(CLASSES, 1)
    uniform = torch.zeros(CLASSES, CLASSES)
    return {
        "original": Rigged(original, original),
        "oracle": Rigged(oracle, oracle),
        "mask": Rigged(mask, mask),
        "uniform": Rigged(uniform, uniform),
        "memoriser": Rigged(oracle, remembering),
        "collapsed": Rigged(collapsed, collapsed),
    }


def open_split(split: str) -> Iterable[Images]:
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(COUNTS[split]))
    place = torch.full_like(labels, int(split == "train"))
    images = torch.stack([labels, place], dim=1)
    return [Images(images[i::3], labels[i::3]) for i in range(3)]


def context_of(unlearned: nn.Module, splits: tuple[str, ...] = ("test", "train")) -> Context:
    return Context(
        original=rigged()["original"],
        unlearned=unlearned,
        forget=(0,),
        class_names=tuple(map(str, range(CLASSES))),
        class_counts=tuple(COUNTS["train"]),
        splits={split: lambda split=split: open_split(split) for split in splits},
    )


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
    for column, value in zip((*columns, "train.retain_micro"), expected, strict=True):
        assert found[column] == pytest.approx(value, abs=1e-4), column
    # the retained classes are as far from a split as the models are: not at all
    assert found["train.retain"] == pytest.approx(found["test.retain"])
    assert found["train.worst_retained"] == pytest.approx(found["test.worst_retained"])
    assert found["test.retain_micro"] == pytest.approx(found["test.retain"])  # equal counts


def test_a_profile_lists_each_class_by_its_index() -> None:
    found = Accuracy(("test",))(context_of(rigged()["collapsed"]))
    assert found["test.per_class"] == [0.0, 1.0, *[0.0] * 8]
    assert found.keys() == {f"test.{name}" for name in READINGS}


def test_a_split_that_the_run_lacks_is_absent_with_its_reason() -> None:
    found = Accuracy(["test", "validation"])(context_of(rigged()["mask"], ("test",)))
    assert found["test.forget"] == 0.0
    for name in READINGS:
        assert found[f"validation.{name}"] == Absent("the run has no validation images")


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("test.forget", Reading("oracle", 0.0)),
        ("train.retain", Reading("higher", 1.0)),
        ("validation.worst_retained", Reading("higher", 1.0)),
        ("test.retain_micro", Reading("higher", 1.0)),
        ("test.per_class", Reading("oracle", None)),
    ],
)
def test_each_value_says_how_it_is_read(name: str, reading: Reading) -> None:
    assert Accuracy().reading(name) == reading


# ---- against scikit-learn and by counting ----------------------------------------------------


def draw(seed: int, rows: int, classes: int = 6) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(rows, classes, generator=stream),
        torch.randint(0, classes, (rows,), generator=stream),
    )


def profile_of(outputs: Outputs, forget: tuple[int, ...]) -> dict[str, Any]:
    classes = outputs.logits.shape[1]
    nothing = nn.Identity().eval()
    names = tuple(map(str, range(classes)))
    return profile(outputs, Context(nothing, nothing, forget, names, (1,) * classes, {}))


@some
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(60, 200),
    forget=st.sampled_from([(0,), (2,), (1, 4), (0, 3, 5)]),
)
def test_summaries_match_scikit_learn(seed: int, rows: int, forget: tuple[int, ...]) -> None:
    outputs = draw(seed, rows)
    truth, answer = outputs.labels.numpy(), outputs.logits.argmax(dim=1).numpy()
    gone = np.isin(truth, forget)
    found = profile_of(outputs, forget)
    for name, rows_of in (("forget", gone), ("retain", ~gone)):
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            expected = balanced_accuracy_score(truth[rows_of], answer[rows_of])
        assert found[name] == pytest.approx(expected)
    assert found["retain_micro"] == pytest.approx(accuracy_score(truth[~gone], answer[~gone]))
    recall = [float((answer[truth == k] == k).mean()) for k in range(6)]
    assert found["per_class"] == pytest.approx(recall)
    assert found["worst_retained"] == pytest.approx(
        min(v for k, v in enumerate(recall) if k not in forget)
    )


@some
@given(
    logits=st.lists(st.lists(st.integers(-1, 1), min_size=4, max_size=4), min_size=1, max_size=12),
    seed=st.integers(0, 100),
)
def test_a_tie_counts_as_its_share_whatever_the_index(logits: list[list[int]], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, len(logits))
    expected = [
        (row[k] == max(row)) / row.count(max(row)) for row, k in zip(logits, labels, strict=True)
    ]
    outputs = Outputs(torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels))
    assert credits(outputs).tolist() == pytest.approx(expected)
    order = torch.tensor([2, 0, 3, 1])
    renamed = Outputs(outputs.logits[:, order], order.argsort()[outputs.labels])
    assert credits(renamed).tolist() == pytest.approx(expected)


@some
@given(seed=st.integers(0, 2**16), factor=st.sampled_from([1e-3, 3.0, 1e4]))
def test_the_scale_of_logits_changes_nothing(seed: int, factor: float) -> None:
    outputs = draw(seed, 50)
    assert profile_of(Outputs(outputs.logits * factor, outputs.labels), (2,)) == profile_of(
        outputs, (2,)
    )


@some
@given(seed=st.integers(0, 2**16))
def test_confusion_matches_scikit_learn(seed: int) -> None:
    outputs = draw(seed, 40)
    expected = confusion_matrix(outputs.labels, outputs.logits.argmax(dim=1), labels=list(range(6)))
    found = confusion(outputs, 6)
    assert found.tolist() == expected.tolist()
    assert not found.is_floating_point()


# ---- edges -----------------------------------------------------------------------------------


def only(*labels: int) -> Outputs:
    """Outputs of four classes, every image right."""
    found = torch.tensor(labels)
    return Outputs(torch.eye(4)[found], found)


def test_a_class_without_images_is_none_and_takes_no_part_in_means() -> None:
    outputs = Outputs(torch.eye(4)[[0, 1, 1]], torch.tensor([0, 1, 3]))
    found = profile_of(outputs, (0,))
    assert found["per_class"] == [1.0, 1.0, None, 0.0]
    assert found["retain"] == 0.5
    assert found["worst_retained"] == 0.0
    assert found["retain_micro"] == 0.5
    assert per_class(outputs, 4).isnan().tolist() == [False, False, True, False]


def test_two_forgotten_classes_of_which_one_has_images() -> None:
    assert profile_of(only(0, 1), (1, 2))["forget"] == 1.0


@pytest.mark.parametrize(
    ("labels", "forget", "lacking"),
    [
        ((1, 2, 3), (0,), {"forget"}),
        ((0, 0), (0,), {"retain", "retain_micro", "worst_retained"}),
        ((0, 1, 2, 3), (), {"forget"}),  # after training nothing is forgotten
    ],
)
def test_a_summary_over_no_class_is_absent_and_the_rest_is_there(
    labels: tuple[int, ...], forget: tuple[int, ...], lacking: set[str]
) -> None:
    found = profile_of(only(*labels), forget)
    for name, value in found.items():
        if name in lacking:
            assert value == Absent("the split has no image of such a class")
        elif name != "per_class":
            assert value == 1.0


def test_one_image_is_enough() -> None:
    found = profile_of(only(2), (2,))
    assert found["forget"] == 1.0
    assert found["per_class"] == [None, None, 1.0, None]


def test_infinite_logits_are_answers_like_others() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, 0.0], [torch.inf, 1.0, 0.0, 0.0]])
    assert credits(Outputs(logits, torch.tensor([0, 0]))).tolist() == [0.0, 1.0]


def test_logits_that_are_no_numbers_are_wrong_answers_and_do_not_vanish() -> None:
    outputs = only(0, 1, 1, 2, 3)
    outputs.logits[2] = torch.nan
    found = profile_of(outputs, (0,))
    assert found["per_class"] == [1.0, 0.5, 1.0, 1.0]
    assert found["retain"] == pytest.approx(2.5 / 3)
    assert found["retain_micro"] == pytest.approx(0.75)


def test_the_battery_writes_the_profile_under_its_documented_names() -> None:
    tree = run(context_of(rigged()["memoriser"]), {"accuracy": Accuracy()})
    accuracy = json.loads(json.dumps(tree, allow_nan=False))["accuracy"]
    assert accuracy["test"]["forget"]["value"] == 0.0
    assert accuracy["train"]["forget"]["value"] == 1.0
    for split in ("test", "train"):
        assert accuracy[split].keys() == {
            "forget",
            "retain",
            "retain_micro",
            "worst_retained",
            "per_class",
        }
        assert len(accuracy[split]["per_class"]["value"]) == CLASSES
