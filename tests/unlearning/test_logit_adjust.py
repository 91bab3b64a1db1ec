"""Logit_adjust: the log prior that it removes."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_adjust import LogitAdjust
from geniu_lightning.unlearning.logit_mask import LogitMask
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    no_trainer,
    run,
)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


def same_but_the_head(result: nn.Module, original: nn.Module) -> bool:
    after, before = result.state_dict(), original.state_dict()
    return all(torch.equal(after[k], t) for k, t in before.items() if not k.startswith("head."))


COUNTS = (900, 50, 30, 700, 7)


def adjusted(kit: Kit, archive: Any, counts: tuple[int, ...], **settings: Any) -> nn.Module:
    kit.info = dataclasses.replace(kit.info, class_counts=counts)
    return run(LogitAdjust(forget=GONE, **settings), kit, archive, no_trainer)


def test_retained_biases_lose_tau_log_prior_and_all_else_stays(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    bias, before = kit.classifier.head.bias, kit.classifier(images).double().numpy()
    mask = run(LogitMask(forget=GONE), kit, archive, no_trainer)
    masked = mask(images).argmax(dim=1).numpy()
    for tau in (0.0, 0.5, 1.0, 2.0):
        result = adjusted(kit, archive, COUNTS, tau=tau)
        assert same_but_the_head(result, kit.classifier)
        expected = [-1e4] * 5
        for k in KEPT:
            share = COUNTS[k] / (COUNTS[0] + COUNTS[2] + COUNTS[4])
            expected[k] = bias[k].item() - tau * math.log(share)
        np.testing.assert_allclose(result.head.bias.numpy(), expected, rtol=1e-6)
        found = result(images).argmax(dim=1).numpy()
        scores = (before - tau * np.log(COUNTS))[:, KEPT]
        assert np.array_equal(found, np.array(KEPT)[scores.argmax(axis=1)])
        moved = found != masked
        assert (moved.sum() > 20) == (tau > 0)
        assert (np.array(COUNTS)[found] < np.array(COUNTS)[masked])[moved].all()  # to rarer ones
        # equally large classes: the adjustment is a constant; forget counts have no influence
        equal = adjusted(kit, archive, (9, 500, 9, 70, 9), tau=tau)
        assert np.array_equal(equal(images).argmax(dim=1).numpy(), masked)
        if tau == 0:
            for name, tensor in mask.state_dict().items():
                assert torch.equal(tensor, result.state_dict()[name]), name


def test_the_posterior_is_divided_by_the_prior_but_for_what_was_removed_before(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    expected = softmax(kit.classifier(images).double().numpy(), axis=1)[:, KEPT]
    expected /= np.array(COUNTS)[list(KEPT)]
    expected /= expected.sum(axis=1, keepdims=True)
    after = adjusted(kit, archive, COUNTS)(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(after[:, KEPT], expected, atol=1e-5)
    kit.info = dataclasses.replace(kit.info, class_counts=COUNTS, prior_taken=0.75)
    method = LogitAdjust(forget=GONE, tau=1.0)
    run(method, kit, archive, no_trainer)
    assert method.prior_taken == 0.25
    for counts in ((0,) * 5, (900, 50, 0, 700, 7)):
        with pytest.raises(UserError, match="the kit does not say how many images of each class"):
            adjusted(kit, archive, counts)
