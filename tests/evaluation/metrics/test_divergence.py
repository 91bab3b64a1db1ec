"""Distances from oracles and from untrained networks: known values, scipy, and certainty."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import nn

from geniu_lightning.evaluation import context as context_module
from geniu_lightning.evaluation.context import Context
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.divergence import (
    GROUPS,
    LOG2,
    Divergence,
    RandomTeacher,
    compare,
    js,
    kl,
)
from tests.evaluation.clouds import Small
from tests.evaluation.worlds import (
    NO_IMAGE,
    NO_ORACLE,
    context_of,
    outputs,
    random_outputs,
    rigged,
    saturated,
    world,
)

NAMES = ("js", "kl", "kl_median", "kl_reverse", "activation", "agreement")


def test_saturated_models_are_as_far_apart_as_they_can_be() -> None:
    apart = Divergence()(context_of(saturated(3), saturated(5)))
    expected = [0.693147, 400.0, 400.0, 400.0, 1.414214, 0.0]
    for group in GROUPS:
        assert [apart[f"{group}.{n}"] for n in NAMES] == pytest.approx(expected, abs=1e-6)


def test_models_agree_by_lot_where_answers_tie() -> None:
    ties = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    others = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    found = compare(outputs(ties, [0] * 3), outputs(others, [0] * 3), (0,))
    assert found["agreement"] == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 40), scale=st.floats(0.1, 8))
def test_distances_match_scipy(seed: int, classes: int, scale: float) -> None:
    stream = torch.Generator().manual_seed(seed)
    first, second = (
        (scale * torch.randn(9, classes, generator=stream)).double().log_softmax(dim=1)
        for _ in range(2)
    )
    p, q = first.exp().numpy(), second.exp().numpy()
    assert kl(first, second).numpy() == pytest.approx(entropy(p, q, axis=1))
    found = js(first, second)
    assert found.numpy() == pytest.approx(jensenshannon(p, q, axis=1) ** 2)
    assert 0 <= found.min() <= found.max() <= LOG2


def test_values_are_means_over_images_then_classes_then_oracles() -> None:
    for seed, forget in ((1, (2,)), (2, (0, 3)), (3, (1, 4, 5))):
        model, *oracles = (
            {"test": random_outputs(seed + k, 77), "train": random_outputs(40 + seed + k, 50)}
            for k in range(3)
        )
        found = Divergence()(world(model, *oracles, forget=forget))
        retained = tuple(k for k in range(6) if k not in forget)
        for group, split, classes in (
            ("test_forget", "test", forget),
            ("train_forget", "train", forget),
            ("test_retain", "test", retained),
        ):
            truth = model[split].labels.numpy()
            ours, *theirs = (o[split].log_probabilities.exp().numpy() for o in (model, *oracles))
            for name, each, mean in (
                ("kl", [entropy(o, ours, axis=1) for o in theirs], np.mean),
                ("kl_reverse", [entropy(ours, o, axis=1) for o in theirs], np.mean),
                ("kl_median", [entropy(o, ours, axis=1) for o in theirs], np.median),
                ("activation", [np.linalg.norm(ours - o, axis=1) for o in theirs], np.mean),
                ("agreement", [ours.argmax(1) == o.argmax(1) for o in theirs], np.mean),
            ):
                expected = np.mean([mean(x[truth == k]) for x in each for k in classes])
                assert found[f"{group}.{name}"] == pytest.approx(expected), (group, name)
    # the mixture of two sure oracles is as unsure as the model, and neither of them is
    unsure = {"test": outputs(torch.zeros(1, 2), [0])}
    sure = [{"test": outputs(torch.tensor([[x, -x]]), [0])} for x in (100.0, -100.0)]
    found = Divergence()(world(unsure, *sure, counts=(1, 1)))
    assert found["test_forget.js"] == pytest.approx(0.215762, abs=1e-6)  # ¾ log 4/3
    # half of the images at 0 and half at √2: not the root of the mean square, which is 1
    sides = ({"test": outputs(200 * torch.eye(3)[x], [0, 0])} for x in ([1, 2], [1, 1]))
    found = Divergence()(world(*sides))
    assert found["test_forget.activation"] == pytest.approx(math.sqrt(2) / 2)


def test_a_group_that_cannot_be_measured_is_absent_with_its_reason() -> None:
    mask = context_of(rigged()["mask"], splits=("test",))
    found = Divergence()(dataclasses.replace(mask, oracles=(), splits=mask.splits))
    assert found["test_forget.js"] == NO_ORACLE
    for name, value in Divergence()(mask).items():
        if name.startswith("train"):
            assert value == Absent("the run has no train images")
        else:
            assert isinstance(value, float)
    nothing = Divergence()(dataclasses.replace(mask, forget=()))
    assert isinstance(nothing["test_retain.js"], float)
    assert nothing["test_forget.js"] == NO_IMAGE


# ---- the random teacher ----------------------------------------------------------------------


def with_teachers(seeds: list[int], name: str = "original", **more: int) -> Context:
    def fresh(seed: int) -> nn.Module:
        seeds.append(seed)
        return Small(seed, size=2, classes=10)

    return dataclasses.replace(context_of(rigged()[name], fresh=fresh, **more), forget=(0, 3))


def test_values_are_means_over_teachers() -> None:
    teachers = iter([rigged()["uniform"], rigged()["original"]])
    context = context_of(rigged()["original"], fresh=lambda seed: next(teachers))
    assert RandomTeacher(2)(context)["nats"] == pytest.approx((0.6319 + 1) / 2, abs=1e-4)


def test_teachers_are_untrained_and_the_same_for_every_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    seeds: list[list[int]] = [[], [], []]
    for mine, chunk, name in zip(seeds, (1, 64, 64), ("original", "original", "mask"), strict=True):
        monkeypatch.setattr(context_module, "CHUNK", chunk)
        found.append(RandomTeacher()(with_teachers(mine, name)))
    assert found[0] == pytest.approx(found[1])
    assert seeds[0] == seeds[2]
    assert len(set(seeds[0])) == 3
    other: list[int] = []
    RandomTeacher(2)(with_teachers(other, seed=1))
    assert not set(other) & set(seeds[0])
    once: list[int] = []
    context = with_teachers(once)
    first = RandomTeacher(2)(context)
    assert RandomTeacher(2)(context.evaluating(rigged()["uniform"])) != first
    assert len(once) == 2  # one context makes them once for all models
    assert RandomTeacher(4).images_processed(context) == 4 * 200
    none = Absent("there is no way to make an untrained network")
    assert RandomTeacher()(context_of(rigged()["mask"])) == {"normalised": none, "nats": none}
