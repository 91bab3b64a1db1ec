"""Probe, prototypes and CKA: the rigged world, independent arithmetic, and edges."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import Context, Proxies, Split, outputs_of
from geniu_lightning.evaluation.evaluator import run
from geniu_lightning.evaluation.metric import Absent, Metric
from geniu_lightning.evaluation.metrics.representation import (
    CKA,
    Probe,
    Prototype,
    cka,
    cka_debiased,
    cosines,
    fit_and_score_positions,
    probe,
    prototypes,
    recalls,
    u_centred,
)
from tests.evaluation.rigged import CLASSES, context_of, rigged, split

some = settings(max_examples=20, deadline=None)
STILL = "features of a model do not vary among these images, or are not finite"


def measured(metric: Metric, context: Context) -> dict[str, Any]:
    """What the metric says when it sees only what it declared."""
    return metric(context.showing(metric.needs))


class Plain(nn.Module):
    """Features are the image itself, then a linear head."""

    def __init__(self, size: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(size, classes)
        draws = torch.Generator().manual_seed(seed)
        self.head.weight.data = torch.randn(classes, size, generator=draws)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def images_of(seed: int, labels: Tensor, size: int = 6, spread: float = 1.0) -> Tensor:
    """Classes are clouds around centres that do not depend on the seed."""
    classes = int(labels.max()) + 1
    centres = torch.randn(classes, size, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(labels), size, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + spread * noise)[:, None, None]


def split_of(seed: int, labels: Tensor, **how: Any) -> Split:
    images = images_of(seed, labels, **how)
    return Split(labels, lambda positions: images[positions])


def world(forget: tuple[int, ...] = (1,), classes: int = 4, each: int = 20, **more: Any) -> Context:
    labels = torch.arange(classes * each) % classes
    shown: dict[str, Any] = {
        "original": Plain(6, classes, 1),
        "unlearned": Plain(6, classes, 2),
        "splits": {"test": split_of(3, labels), "train": split_of(4, labels)},
    }
    names = tuple("abcdefgh"[:classes])
    return Context(forget=forget, class_names=names, class_counts=(each,) * classes, **shown | more)


# ---- the rigged world ------------------------------------------------------------------------

# nearest prototype of class 0: with training prototypes; with those of a half of the test images,
# where the memoriser shows class 0 as the oracle does; then the retained classes
PROTOTYPE = {
    "original": (1.0, 1.0, 1.0),
    "oracle": (0.5, 0.5, 8.5 / 9),
    "mask": (1.0, 1.0, 1.0),
    "uniform": (0.1, 0.1, 0.1),
    "memoriser": (0.0, 0.5, 8.5 / 9),
    "collapsed": (0.1, 0.1, 0.1),
}


@pytest.mark.parametrize("name", PROTOTYPE)
def test_rigged_models_have_their_known_prototype_recall(name: str) -> None:
    network = rigged()[name]
    from_train, recall, retain = PROTOTYPE[name]
    train, test = (outputs_of(network, split(s)) for s in ("train", "test"))
    scores = cosines(test.features, prototypes(train.features, train.labels))
    assert recalls(scores, test.labels, 1e-9)[0].item() == pytest.approx(from_train, abs=1e-4)
    found = measured(Prototype(), context_of(network))
    for group in ("k1", "k5", "all"):
        assert found[f"{group}.recall"] == pytest.approx(recall, abs=1e-4)
        assert found[f"{group}.retain"] == pytest.approx(retain, abs=1e-4)


@pytest.mark.parametrize("name", PROTOTYPE)
def test_a_probe_of_rigged_models_finds_what_a_prototype_finds(name: str) -> None:
    _, recall, retain = PROTOTYPE[name]
    found = measured(Probe(), context_of(rigged()[name]))
    assert found == pytest.approx({"recall": recall, "retain": retain}, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("original", 1.0),
        ("oracle", 11 / 12),
        ("mask", 1.0),
        ("uniform", math.nan),
        ("memoriser", 11 / 12),
        ("collapsed", math.nan),
    ],
)
def test_rigged_models_have_their_known_cka_with_the_original(name: str, expected: float) -> None:
    first, second = (outputs_of(rigged()[n], split("test")).features for n in (name, "original"))
    assert cka(first, second) == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert cka(second, first) == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("name", ["original", "oracle", "mask", "memoriser"])
def test_cka_of_rigged_models_is_one_where_classes_are_told_apart(name: str) -> None:
    found = measured(CKA(), context_of(rigged()[name]))
    assert found["test_retain.original"] == pytest.approx(1.0)
    assert found["test_retain.oracle"] == pytest.approx(1.0)
    # images of one rigged class are all the same
    assert found["test_forget.original"] == found["test_forget.oracle"] == Absent(STILL)


@pytest.mark.parametrize("name", ["uniform", "collapsed"])
def test_cka_of_features_that_do_not_vary_is_absent_and_not_zero(name: str) -> None:
    assert set(measured(CKA(), context_of(rigged()[name])).values()) == {Absent(STILL)}


# ---- against independent arithmetic ----------------------------------------------------------


def draw(seed: int, rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@some
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 5), strength=st.sampled_from([0.1, 1.0]))
def test_a_probe_answers_as_scikit_learn_does(seed: int, classes: int, strength: float) -> None:
    labels = torch.arange(60) % classes
    labels[:20] = 0  # classes are weighted
    features, others = (images_of(seed + k, labels).flatten(1) for k in (0, 1))
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced", tol=1e-8, max_iter=5000),
    )
    model.fit(features.double().numpy(), labels.numpy())
    expected = model.predict_proba(others.double().numpy())
    found = probe(features, labels, others, strength)
    np.testing.assert_allclose(found.softmax(dim=1), expected, atol=1e-3)


@some
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 5))
def test_prototypes_are_mean_directions_and_the_nearest_wins(seed: int, classes: int) -> None:
    labels = torch.arange(40) % classes
    features, others = (images_of(seed + k, labels).flatten(1).double() for k in (0, 1))
    rows = features.numpy() / np.sqrt((features.numpy() ** 2).sum(1, keepdims=True))
    means = np.stack([rows[labels.numpy() == k].mean(0) for k in range(classes)])
    lengths = np.linalg.norm(others.numpy(), axis=1)[:, None] * np.linalg.norm(means, axis=1)
    expected = others.numpy() @ means.T / lengths
    found = cosines(others, prototypes(features, labels))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    right = (expected.argmax(1) == labels.numpy()).astype(float)
    by_class = [right[labels.numpy() == k].mean() for k in range(classes)]
    np.testing.assert_allclose(recalls(found, labels, 1e-9), by_class)


@some
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(4, 30),
    sizes=st.tuples(st.integers(1, 8), st.integers(1, 40)),
    related=st.booleans(),
)
def test_both_ckas_match_a_transcription(
    seed: int, rows: int, sizes: tuple[int, int], related: bool
) -> None:
    first, second = draw(seed, rows, sizes[0]), draw(seed + 1, rows, sizes[1])
    if related:
        second[:, 0] += 3 * first[:, 0]
    a, b = first.double().numpy(), second.double().numpy()
    ca, cb = a - a.mean(0), b - b.mean(0)
    biased = np.linalg.norm(ca.T @ cb) ** 2
    biased /= np.linalg.norm(ca.T @ ca) * np.linalg.norm(cb.T @ cb)
    assert cka(first, second) == pytest.approx(biased, abs=1e-6)

    def estimate(k: Any, m: Any) -> float:
        """HSIC_1, with its three terms written out."""
        n, ones = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    k, m = a @ a.T, b @ b.T
    expected = estimate(k, m) / math.sqrt(estimate(k, k) * estimate(m, m))
    assert cka_debiased(first, second) == pytest.approx(expected, abs=1e-5)


@some
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_cka_does_not_see_rotation_scale_and_offset(seed: int, scale: float) -> None:
    first, second = draw(seed, 30, 5).double(), draw(seed + 1, 30, 5).double()
    turn = torch.linalg.qr(draw(seed + 2, 5, 5).double())[0]
    for measure in (cka, cka_debiased):
        moved = measure(scale * (first @ turn + 3.0), second)
        assert moved == pytest.approx(measure(first, second), abs=1e-9)
        assert measure(first, scale * first @ turn) == pytest.approx(1.0)


def test_debiased_cka_is_zero_on_average_for_unrelated_features() -> None:
    pairs = [(draw(2 * k, 40, 200), draw(2 * k + 1, 40, 200)) for k in range(30)]
    assert np.mean([cka(*pair) for pair in pairs]) > 0.8
    assert abs(np.mean([cka_debiased(*pair) for pair in pairs])) < 0.02


def test_u_centred_rows_sum_to_zero_without_the_diagonal() -> None:
    matrix = draw(0, 9, 4).double() @ draw(0, 9, 4).double().T
    found = u_centred(matrix)
    assert found.sum(dim=0).abs().max() < 1e-12
    assert found.diagonal().tolist() == [0.0] * 9


# ---- which images ----------------------------------------------------------------------------


def test_without_held_out_images_every_class_of_the_test_set_is_halved() -> None:
    labels = torch.tensor([0] * 7 + [1] * 20 + [2] * 2)
    context = world((0,), 3, splits={"test": split_of(0, labels)})
    found = fit_and_score_positions(context)
    assert not isinstance(found, Absent)
    name, fit, score = found
    assert name == "test"
    assert sorted([*fit.tolist(), *score.tolist()]) == list(range(29))
    assert torch.bincount(labels[fit]).tolist() == [3, 10, 1]
    assert fit.tolist() != fit_and_score_positions(replace(context, seed=1))[1].tolist()
    again = fit_and_score_positions(context.judging(context.original))
    assert torch.equal(again[1], fit)


@pytest.mark.parametrize(("fewest", "name"), [(5, "validation"), (4, "test"), (0, "test")])
def test_held_out_images_are_fitted_on_if_every_class_has_five(fewest: int, name: str) -> None:
    held_out = torch.tensor([0] * fewest + [1] * 9 + [2] * 5 + [3] * 5)
    splits = {**world().splits, "validation": split_of(1, held_out)}
    chosen, fit, score = fit_and_score_positions(world(splits=splits))
    assert chosen == name
    if name == "validation":
        assert fit.tolist() == list(range(len(held_out)))
        assert score.tolist() == list(range(80))
    else:
        assert len(fit) == len(score) == 40


def test_a_probe_is_fitted_on_held_out_images_and_scored_on_all_of_the_test_set() -> None:
    labels = torch.arange(80) % 4
    seen = split_of(3, labels, spread=0.01)
    wrong = Split((labels + 1) % 4, seen.read)  # teaches the next class
    apart = world(splits={"test": split_of(5, labels, spread=0.01), "validation": wrong})
    assert measured(Probe(), apart) == {"recall": 0.0, "retain": 0.0}
    found = measured(Prototype(), apart)
    assert found["all.recall"] == found["k5.retain"] == 0.0


@pytest.mark.parametrize("metric", [Probe(), Prototype()])
@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 1, 1, 2, 2], "a class has fewer than two test images, one to fit on and one to score"),
        ([0, 0, 1, 1], "a class has fewer than two test images, one to fit on and one to score"),
        (None, "the run has no test images"),
    ],
)
def test_too_few_images_are_absent_with_their_reason(
    metric: Metric, labels: list[int] | None, reason: str
) -> None:
    splits = {} if labels is None else {"test": split_of(0, torch.tensor(labels))}
    found = measured(metric, world((0,), 3, splits=splits))
    assert set(found.values()) == {Absent(reason)}
    assert found.keys() == measured(metric, world()).keys()


def test_shots_beyond_the_images_are_absent_and_the_rest_is_there() -> None:
    found = measured(Prototype((1, 5, 0)), world(each=8))
    few = Absent("a class has only 4 images to fit on, fewer than 5")
    assert found["k5.recall"] == found["k5.retain"] == few
    assert isinstance(found["k1.recall"], float)
    assert isinstance(found["all.recall"], float)


def test_few_shots_are_averaged_over_three_draws_of_each_class() -> None:
    labels = torch.arange(80) % 4
    context = world(splits={"test": split_of(3, labels, spread=3.0)})
    _, fit, score = fit_and_score_positions(context)
    images = images_of(3, labels, spread=3.0).flatten(1)
    right = []
    for number in range(3):
        chosen = []
        for k in range(4):
            mine = fit[labels[fit] == k]
            order = torch.randperm(10, generator=context.generator("prototype", number, k))
            chosen.append(images[mine[order[0]]])
        answers = cosines(images[score], torch.stack(chosen)).argmax(dim=1)
        right.append((answers == 1)[labels[score] == 1].double().mean().item())
    assert len(set(right)) > 1
    assert measured(Prototype((1,)), context)["k1.recall"] == pytest.approx(np.mean(right))


# ---- several classes, ties, edges ------------------------------------------------------------


@pytest.mark.parametrize("forget", [(1,), (0, 3), (3, 0)])
def test_several_forgotten_classes_are_averaged_class_by_class(forget: tuple[int, ...]) -> None:
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 8 + [3] * 12)
    splits = {"test": split_of(0, labels, spread=2.0)}
    for metric, name in (
        (Probe(), "recall"),
        (Prototype(), "all.recall"),
        (Prototype(), "k1.recall"),
    ):
        alone = [measured(metric, world((k,), splits=splits))[name] for k in range(4)]
        assert len(set(alone)) > 1
        together = measured(metric, world(forget, splits=splits))
        kept = [v for k, v in enumerate(alone) if k not in forget]
        assert together[name] == pytest.approx(np.mean([alone[k] for k in forget]))
        assert together[name.replace("recall", "retain")] == pytest.approx(np.mean(kept))


def test_cka_is_averaged_over_forgotten_classes() -> None:
    model, other = Plain(6, 4), Plain(6, 4)
    other.features = lambda images: images.flatten(1) ** 2  # type: ignore[method-assign]
    shown = world(unlearned=model, original=other)
    alone = [measured(CKA(), replace(shown, forget=(k,)))["test_forget.original"] for k in (0, 2)]
    both = measured(CKA(), replace(shown, forget=(0, 2)))["test_forget.original"]
    assert alone[0] != alone[1]
    assert both == pytest.approx(np.mean(alone))


def test_cka_is_averaged_over_oracles_and_absent_without() -> None:
    others = [Plain(6, 4) for _ in range(2)]
    others[0].features = lambda images: images.flatten(1) ** 2
    others[1].features = lambda images: images.flatten(1).sin()
    each = [measured(CKA(), world(oracles=(o,)))["test_retain.oracle"] for o in others]
    both = measured(CKA(), world(oracles=tuple(others)))
    assert both["test_retain.oracle"] == pytest.approx(np.mean(each))
    found = measured(CKA(), world())
    assert found["test_retain.oracle"] == Absent("there is no oracle to compare with")
    assert found["test_retain.original"] == pytest.approx(1.0)  # the same features


def test_cka_looks_at_no_more_images_than_it_may() -> None:
    rest = [measured(CKA(n), world(oracles=(rotated(),))) for n in (6, 12, 20, 1000)]
    found = [values["test_forget.oracle"] for values in rest]
    assert len(set(found)) == 3
    assert found[2] == pytest.approx(found[3])  # of twenty images there are no more than twenty


def rotated() -> nn.Module:
    network = Plain(6, 4)
    network.features = lambda images: images.flatten(1) ** 3  # type: ignore[method-assign]
    return network


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_debiased_cka_needs_four_images(rows: int) -> None:
    assert math.isnan(cka_debiased(draw(0, rows, 3), draw(1, rows, 3)))
    splits = {"test": split_of(0, torch.tensor([1] * rows + [0, 2] * 5))}
    found = measured(CKA(), world((1,), 3, splits=splits))
    assert found["test_forget.original"] == Absent("a class has fewer than 4 test images")
    assert found["test_retain.original"] == pytest.approx(1.0)


def test_cka_with_the_original_is_not_with_the_model_itself() -> None:
    found = measured(CKA(), world(original=rotated()))
    assert found["test_forget.original"] < 0.99
    assert found["test_retain.original"] < 0.99
    again = measured(CKA(), world(oracles=(rotated(),)))
    assert found["test_retain.original"] == again["test_retain.oracle"]


def test_features_that_differ_by_rounding_alone_do_not_vary() -> None:
    constant = torch.full((20, 3), 0.1) + 1e-9 * draw(0, 20, 3).double()
    assert math.isnan(cka(constant, draw(1, 20, 3)))
    assert math.isnan(cka_debiased(draw(1, 20, 3), constant))
    labels = torch.arange(20) % 4
    assert not probe(constant, labels, constant, 1.0).any()


def test_a_feature_that_does_not_vary_changes_nothing() -> None:
    labels = torch.arange(40) % 4
    features = images_of(0, labels).flatten(1)
    more = torch.cat([features, torch.full((40, 1), 7.0)], dim=1)
    assert torch.equal(probe(features, labels, features, 1.0), probe(more, labels, more, 1.0))


def test_zeros_have_no_direction_and_answer_every_class_equally() -> None:
    scores = cosines(torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, 0.0]]))
    assert scores.tolist() == [[0.0] * 3] * 3
    assert recalls(scores, torch.arange(3), 0.0).tolist() == pytest.approx([1 / 3] * 3)


def test_scores_within_rounding_share_the_answer_whatever_the_index() -> None:
    scores = torch.tensor([[0.5, 0.5 + 1e-12, 0.1], [0.5 + 1e-12, 0.5, 0.1]], dtype=torch.float64)
    for label in (0, 1):
        found = recalls(scores, torch.tensor([label, label]), 1e-9)
        assert found[label] == 0.5
    assert recalls(scores, torch.tensor([0, 1]), 0.0)[:2].tolist() == [0.0, 0.0]


def test_features_that_are_not_finite_are_absent() -> None:
    labels = torch.arange(40) % 4
    images = images_of(0, labels)
    images[3, 0, 0, 0] = torch.inf
    broken = Split(labels, lambda positions: images[positions])
    network = Plain(6, 4)
    network.head.weight.data[:, 0] = 1.0
    context = world(unlearned=network, splits={"test": broken})
    for metric in (Probe(), Prototype()):
        reason = Absent("features are not all finite numbers")
        assert set(measured(metric, context).values()) == {reason}
    assert set(measured(CKA(), context).values()) >= {Absent(STILL)}


def test_without_forgotten_classes_retained_ones_are_measured() -> None:
    found = measured(Probe(), world(()))
    assert isinstance(found["recall"], Absent)
    assert found["retain"] > 0.5
    assert isinstance(measured(CKA(), world(()))["test_forget.original"], Absent)


# ---- proxies ---------------------------------------------------------------------------------


def proxies_of(labels: Tensor, shown: Tensor | None = None) -> Proxies:
    """Rigged images: each shows what ``shown`` says and is kept for what ``labels`` says."""
    images = torch.zeros(len(labels), 1, 1, 2)
    images[:, 0, 0, 0] = labels if shown is None else shown
    return Proxies(images, labels)


def test_prototypes_of_proxies_are_read_with_the_judged_model() -> None:
    proxies = proxies_of(torch.arange(CLASSES).repeat(3))
    for name, expected in (("mask", 1.0), ("oracle", 0.5), ("uniform", 0.1), ("collapsed", 0.1)):
        found = measured(Prototype(), context_of(rigged()[name], proxies=proxies))
        assert found["proxies.recall"] == pytest.approx(expected, abs=1e-4)
    turned = proxies_of(torch.arange(CLASSES), torch.arange(CLASSES).roll(1))
    found = measured(Prototype(), context_of(rigged()["mask"], proxies=turned))
    assert found["proxies.recall"] == found["proxies.retain"] == 0.0


def test_proxies_that_are_not_kept_are_absent_by_name() -> None:
    found = measured(Prototype(), context_of(rigged()["mask"]))
    assert found["proxies.recall"] == Absent("the method keeps no proxies")
    some_kept = proxies_of(torch.tensor([1, 2, 3, 4, 6, 7, 8, 9]))
    found = measured(Prototype(), context_of(rigged()["mask"], proxies=some_kept))
    assert found["proxies.recall"] == Absent("no proxies are kept of 0, 5")
    assert found["all.recall"] == 1.0


# ---- hiding, and keeping to the rules --------------------------------------------------------


def test_a_new_head_on_an_old_body_hides_nothing_from_features() -> None:
    body, hidden = Plain(6, 4, 1), Plain(6, 4, 7)
    assert not torch.equal(body.head.weight, hidden.head.weight)
    for metric in (Probe(), Prototype()):
        found = [measured(metric, world(unlearned=network)) for network in (body, hidden)]
        assert found[0] == found[1]


def test_nothing_is_changed_drawn_globally_or_different_the_second_time() -> None:
    metrics = {"probe": Probe(), "prototype": Prototype(), "cka": CKA(12)}
    context = world(oracles=(rotated(),))
    state, noise = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run(context, metrics).unlearned
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == noise).all()
    torch.manual_seed(5)
    assert run(world(oracles=(rotated(),)), metrics).unlearned == first
    torch.set_rng_state(state)
    for name, metric in metrics.items():
        assert json.dumps(vars(metric))
        assert all(metric.reading(full).direction == "oracle" for full in first if name in full)


@pytest.mark.parametrize(
    "build",
    [lambda: Probe(0.0), lambda: Probe(-1.0), lambda: Prototype((-1,)), lambda: CKA(3)],
)
def test_settings_that_make_no_sense_are_refused(build: Any) -> None:
    with pytest.raises(UserError):
        build()
