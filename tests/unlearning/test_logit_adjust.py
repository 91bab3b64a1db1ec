"""Logit adjustment: the prior that it takes out, when that changes an answer, and when not."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_adjust import LogitAdjust
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.sources import Access

GONE, KEPT = [1, 3], [0, 2, 4]
COUNTS = (900, 50, 30, 700, 7)


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("an adjustment needs no trainer")


def with_counts(kit: Kit, counts: tuple[int, ...]) -> Kit:
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    return kit


def adjusted(kit: Kit, archive: Any, counts: tuple[int, ...], **settings: Any) -> nn.Module:
    method = LogitAdjust(forget=tuple(GONE), **settings)
    sources = archive.sources(Access.NONE, tuple(GONE))
    return method.run(with_counts(kit, counts), sources, no_trainer)


def masked(kit: Kit, archive: Any) -> nn.Module:
    sources = archive.sources(Access.NONE, tuple(GONE))
    return LogitMask(forget=tuple(GONE)).run(kit, sources, no_trainer)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


# ---- the edit --------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_retained_biases_lose_tau_log_prior_among_the_retained_and_nothing_else_moves(
    kit: Kit, archive: Any, tau: float
) -> None:
    before = {name: t.clone() for name, t in kit.classifier.state_dict().items()}
    after = adjusted(kit, archive, COUNTS, tau=tau, offset=77.0).state_dict()
    for name, old in before.items():
        if name == "head.weight":
            old[GONE] = 0
        if name != "head.bias":
            assert torch.equal(after[name], old), name
    expected = [-77.0] * 5
    for k in KEPT:
        share = COUNTS[k] / (COUNTS[0] + COUNTS[2] + COUNTS[4])
        expected[k] = before["head.bias"][k].item() - tau * math.log(share)
    np.testing.assert_allclose(after["head.bias"].numpy(), expected, rtol=1e-6)


def test_with_tau_1_the_posterior_is_divided_by_the_prior(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = softmax(kit.classifier(images).double().numpy(), axis=1)[:, KEPT]
    after = adjusted(kit, archive, COUNTS)(images).softmax(dim=1).numpy()
    expected = before / np.array(COUNTS)[KEPT]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after[:, KEPT], expected, atol=1e-5)
    assert not after[:, GONE].any()


def test_how_many_images_were_forgotten_makes_no_difference(kit: Kit, archive: Any) -> None:
    counts = list(COUNTS)
    counts[1], counts[3] = 0, 10**6
    first, second = (adjusted(kit, archive, c).state_dict() for c in (COUNTS, tuple(counts)))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# ---- what it answers -------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_where_retained_classes_are_equally_large_every_answer_is_the_masks(
    kit: Kit, archive: Any, images: Tensor, tau: float
) -> None:
    equal = adjusted(kit, archive, (9, 500, 9, 70, 9), tau=tau)
    assert torch.equal(equal(images).argmax(dim=1), masked(kit, archive)(images).argmax(dim=1))
    assert not torch.equal(equal.head.bias[KEPT], kit.classifier.head.bias[KEPT])


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_where_counts_differ_answers_move_to_rarer_classes(
    kit: Kit, archive: Any, images: Tensor, tau: float
) -> None:
    mask = masked(kit, archive)(images).argmax(dim=1).numpy()
    found = adjusted(kit, archive, COUNTS, tau=tau)(images).argmax(dim=1).numpy()
    scores = kit.classifier(images).double().numpy() - tau * np.log(COUNTS)
    assert np.array_equal(found, np.array(KEPT)[scores[:, KEPT].argmax(axis=1)])
    moved = found != mask
    assert moved.sum() > 20
    assert (np.array(COUNTS)[found] < np.array(COUNTS)[mask])[moved].all()


def test_with_tau_0_it_is_the_logit_mask_to_the_bit(kit: Kit, archive: Any) -> None:
    first, second = masked(kit, archive), adjusted(kit, archive, COUNTS, tau=0.0)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("tau", [0.0, 1.0, 100.0])
def test_a_forgotten_class_is_never_answered(
    kit: Kit, archive: Any, images: Tensor, tau: float
) -> None:
    assert np.isin(kit.classifier(images).argmax(dim=1), GONE).any()  # it was, before
    answers = adjusted(kit, archive, COUNTS, tau=tau)(images).argmax(dim=1)
    assert not np.isin(answers, GONE).any()


# ---- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [-0.1, math.inf, math.nan])
def test_a_tau_out_of_range_is_refused(tau: float) -> None:
    with pytest.raises(UserError, match=f"unlearner.tau must be at least 0 and finite, got {tau}"):
        LogitAdjust(forget=(1, 3), tau=tau)


@pytest.mark.parametrize("offset", [0.0, -1.0, math.inf, math.nan])
def test_an_offset_out_of_range_is_refused(offset: float) -> None:
    with pytest.raises(
        UserError, match=f"unlearner.offset must be positive and finite, got {offset}"
    ):
        LogitAdjust(forget=(1, 3), offset=offset)


@pytest.mark.parametrize("counts", [(0,) * 5, (900, 50, 0, 700, 7)])
def test_a_kit_without_counts_is_refused(kit: Kit, archive: Any, counts: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="the kit does not say how many images of each class"):
        adjusted(kit, archive, counts)


def test_steps_are_refused(kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]) -> None:
    method = LogitAdjust(forget=(1, 3), steps=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(UserError, match="LogitAdjust has no batches: set its steps to 0"):
        method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
