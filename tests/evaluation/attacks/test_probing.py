"""Probe and prototypes: known models, scikit-learn, the images that are used, and edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.probing import (
    NO_PROXIES,
    Probe,
    Prototype,
    answered,
    cosines,
    fitted_positions,
    probe,
    prototypes,
    recalls,
)
from geniu_lightning.evaluation.context import Split
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.clouds import Plain, images_of, points, split_of
from tests.evaluation.worlds import CLASSES, context_of, measured, proxies_like, rigged


def test_a_probe_answers_as_scikit_learn_does() -> None:
    for classes, strength in ((2, 1.0), (4, 0.1)):
        labels = torch.arange(60) % classes
        labels[:20] = 0  # classes are weighted
        features, others = (images_of(seed, labels).flatten(1) for seed in (0, 1))
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", tol=1e-8, max_iter=5000),
        )
        model.fit(features.double().numpy(), labels.numpy())
        expected = model.predict_proba(others.double().numpy())
        found = probe(features, labels, others, strength)
        np.testing.assert_allclose(found.softmax(dim=1), expected, atol=1e-3)
        more = torch.cat([features, torch.full((60, 1), 7.0)], dim=1)  # a constant feature
        again = probe(more, labels, torch.cat([others, torch.full((60, 1), 7.0)], dim=1), strength)
        assert torch.equal(again, found)
    noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    constant, labels = torch.full((20, 3), 0.1) + 1e-9 * noise, torch.arange(20) % 4
    assert not probe(constant, labels, constant, 1.0).any()  # rounding is no variation


def test_prototypes_are_mean_directions_and_the_nearest_wins() -> None:
    for classes in (2, 5):
        labels = torch.arange(40) % classes
        features, others = (images_of(seed, labels).flatten(1).double() for seed in (0, 1))
        rows = features.numpy() / np.sqrt((features.numpy() ** 2).sum(1, keepdims=True))
        means = np.stack([rows[labels.numpy() == k].mean(0) for k in range(classes)])
        lengths = np.linalg.norm(others.numpy(), axis=1)[:, None] * np.linalg.norm(means, axis=1)
        expected = others.numpy() @ means.T / lengths
        found = cosines(others, prototypes(features, labels))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        right = (expected.argmax(1) == labels.numpy()).astype(float)
        by_class = [right[labels.numpy() == k].mean() for k in range(classes)]
        np.testing.assert_allclose(recalls(found, labels, 1e-9), by_class)
    zeros = cosines(torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, 0.0]]))
    assert recalls(zeros, torch.arange(3), 0.0).tolist() == pytest.approx([1 / 3] * 3)
    near = torch.tensor([[0.5, 0.5 + 1e-12, 0.1], [0.5 + 1e-12, 0.5, 0.1]], dtype=torch.float64)
    for label in (0, 1):  # scores within rounding share the answer
        assert recalls(near, torch.tensor([label, label]), 1e-9)[label] == 0.5
    assert recalls(near, torch.tensor([0, 1]), 0.0)[:2].tolist() == [0.0, 0.0]


def test_the_images_to_fit_on_are_a_few_training_images_of_each_class() -> None:
    labels = torch.tensor([0] * 7 + [1] * 20 + [2] * 2).flip(0)
    context = points((0,), 3, splits={"train": split_of(0, labels), "test": split_of(1, labels)})
    fit = fitted_positions(context, 5)
    assert torch.bincount(labels[fit]).tolist() == [5, 5, 2]
    assert len(set(fit.tolist())) == 12
    assert torch.equal(fitted_positions(context.evaluating(context.original), 5), fit)
    assert fit.tolist() != fitted_positions(replace(context, seed=1), 5).tolist()
    labels = torch.arange(80) % 4
    wrong = Split((labels + 1) % 4, split_of(3, labels, spread=0.01).read)  # teaches the next class
    held_out = split_of(6, labels, spread=0.01)  # right, and not looked at
    test = split_of(5, labels, spread=0.01)
    apart = points(splits={"test": test, "train": wrong, "validation": held_out})
    assert measured(Probe(), apart) == {"recall": 0.0, "retain": 0.0, "net": -1 / 3}
    assert measured(Prototype(), apart)["all.recall"] == 0.0


def test_a_recall_that_costs_other_classes_is_no_net_recall() -> None:
    """Images of class 3 are taken for class 1: a third of what retained classes have."""
    table = answered(torch.eye(4)[[0, 1, 1, 2, 1, 2]], torch.tensor([0, 1, 1, 2, 3, 2]), 0.0)
    assert table.tolist() == torch.eye(4).double()[[0, 1, 2, 1]].tolist()
    labels, seen = torch.arange(80) % 4, torch.arange(80) % 4
    shown = seen.clone()
    shown[seen == 3] = 1
    test = Split(labels, split_of(5, shown, spread=0.01).read)
    splits = {"test": test, "train": split_of(3, labels, spread=0.01)}
    found = measured(Probe(), points(splits=splits))
    assert found == pytest.approx({"recall": 1.0, "retain": 2 / 3, "net": 2 / 3})


def test_few_shots_are_averaged_over_three_draws_of_each_class() -> None:
    labels = torch.arange(80) % 4
    splits = {"train": split_of(3, labels, spread=3.0), "test": split_of(4, labels, spread=3.0)}
    context = points(splits=splits)
    fit = fitted_positions(context)
    shown, scored = (images_of(seed, labels, spread=3.0).flatten(1) for seed in (3, 4))
    right = []
    for number in range(3):
        chosen = []
        for k in range(4):
            mine = fit[labels[fit] == k]
            order = torch.randperm(20, generator=context.generator("prototype", number, k))
            chosen.append(shown[mine[order[0]]])
        answers = cosines(scored, torch.stack(chosen)).argmax(dim=1)
        right.append((answers == 1)[labels == 1].double().mean().item())
    assert len(set(right)) > 1
    assert measured(Prototype((1,)), context)["k1.recall"] == pytest.approx(np.mean(right))


def test_a_new_head_hides_nothing() -> None:
    other_head = points(unlearned=Plain(7))
    assert measured(Probe(), other_head) == measured(Probe(), points())


def test_a_value_that_cannot_be_computed_is_absent_with_its_reason() -> None:
    few = Absent("a class has fewer than two training images to fit on")
    test = split_of(1, torch.arange(6) % 3)
    for metric in (Probe(), Prototype()):
        for labels in ([0, 1, 1, 2, 2], [0, 0, 1, 1]):
            splits = {"train": split_of(0, torch.tensor(labels)), "test": test}
            found = measured(metric, points((0,), 3, splits=splits))
            assert set(found.values()) == {few}
        for lacking in ("train", "test"):
            others = {k: v for k, v in points().splits.items() if k != lacking}
            found = measured(metric, points(splits=others))
            assert set(found.values()) == {Absent(f"the run has no {lacking} images")}
        assert found.keys() == measured(metric, points()).keys()
        images = images_of(0, torch.arange(40) % 4)
        images[3, 0, 0, 0] = torch.inf
        network = Plain()
        network.head.weight.data[:, 0] = 1.0
        broken = Split(torch.arange(40) % 4, lambda positions, images=images: images[positions])
        for name in ("train", "test"):
            splits = {**points().splits, name: broken}
            found = measured(metric, points(unlearned=network, splits=splits))
            assert set(found.values()) == {Absent("features are not all finite numbers")}
    found = measured(Prototype((1, 5, 0)), points(each=4))
    assert found["k5.recall"] == Absent("a class has only 4 images to fit on, fewer than 5")
    assert isinstance(found["k1.recall"], float)
    assert isinstance(found["all.recall"], float)
    after_training = measured(Probe(), points(()))
    assert isinstance(after_training["recall"], Absent)
    assert after_training["retain"] > 0.5
    with pytest.raises(SettingError, match="shots"):
        Prototype((-1,))


def test_prototypes_of_proxies_are_those_of_the_evaluated_model() -> None:
    proxies = proxies_like(torch.arange(CLASSES).repeat(3))
    for name, expected in (("mask", 1.0), ("oracle", 0.5), ("uniform", 0.1), ("collapsed", 0.1)):
        found = measured(Prototype(), context_of(rigged()[name], proxies=proxies))
        assert found["proxies.recall"] == pytest.approx(expected, abs=1e-4)
    turned = proxies_like(torch.arange(CLASSES), torch.arange(CLASSES).roll(1))
    found = measured(Prototype(), context_of(rigged()["mask"], proxies=turned))
    assert found["proxies.recall"] == found["proxies.retain"] == 0.0
    assert measured(Prototype(), context_of(rigged()["mask"]))["proxies.recall"] == NO_PROXIES
    some = proxies_like(torch.tensor([1, 2, 3, 4, 6, 7, 8, 9]))
    found = measured(Prototype(), context_of(rigged()["mask"], proxies=some))
    assert found["proxies.recall"] == Absent("there are no proxies of 0, 5")
    assert found["all.recall"] == 1.0
