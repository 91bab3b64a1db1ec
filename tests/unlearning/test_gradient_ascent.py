"""Gradient ascent and NegGrad+: their terms, their caps, and what they do."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from tests.unlearning.helpers import FORGOTTEN, GONE, LABELS, logits


def two_at_the_bound(bound: float) -> Tensor:
    """Return logits of two images of class 0: cross-entropy just below and just above a bound."""
    p = np.exp([-bound + 0.1, -bound - 0.1])
    rows = [[math.log(3 * q / (1 - q)), 0.0, 0.0, 0.0] for q in p]
    return torch.tensor(rows, requires_grad=True)


def test_gradient_ascent_terms_are_the_documented_formula() -> None:
    torch.manual_seed(1)
    now, labels = 3 * torch.randn(4, 5), torch.tensor([1, 3, 3, 1])
    now[0, 1] += 8
    z = now.double().numpy()
    ce = -log_softmax(z, axis=1)[range(4), labels]
    assert ce.min() < math.log(5) < 2 * math.log(5) < ce.max()  # each cap has an effect
    uniform = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 4)
    for cap in (1.0, 2.0, None):
        expected = {
            "negative": -np.minimum(ce, math.inf if cap is None else cap * math.log(5)),
            "reciprocal": 1 / ce,
            "uniform": rel_entr(uniform, softmax(z, axis=1)).sum(axis=1),
        }
        for term, values in expected.items():
            method = GradientAscent(forget=GONE, loss_term=term, cap=cap, max_margin=30.0)
            terms = method.loss_terms(labelled_batch(now, labels, GONE))
            assert terms.keys() == {"forget"}
            assert terms["forget"].item() == pytest.approx(values.mean(), rel=1e-5), term


def test_a_capped_image_has_no_gradient_and_the_reciprocal_is_bounded() -> None:
    labels = torch.tensor([0, 0])
    for method, bound in (
        (GradientAscent(forget=(0,)), math.log(4)),
        (NegGradPlus(forget=(0,)), 2 * math.log(4)),
    ):
        now = two_at_the_bound(bound)
        loss = method.loss_terms(labelled_batch(now, labels, (0,)))["forget"]
        (gradient,) = torch.autograd.grad(loss, now)
        assert gradient[0, 0] > 0
        assert not gradient[1].any()
    sure = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    method = GradientAscent(forget=(0,), loss_term="reciprocal", max_margin=5.0)
    method.loss_terms(labelled_batch(sure, torch.tensor([0]), (0,)))["forget"].backward()
    assert 0 < sure.grad[0, 0] < 1.1 * math.exp(5.0)


def test_neg_grad_plus_is_the_documented_formula() -> None:
    now, z = logits(1)
    now, loss = 2 * now, -log_softmax(2 * z, axis=1)[range(6), LABELS]
    for cap in (2.0, 0.5, None):
        method = NegGradPlus(forget=GONE, beta=0.9, cap=cap)
        terms = method.loss_terms(labelled_batch(now, LABELS, GONE))
        # image by image, so that one far beyond the bound does not silence the others
        capped = np.minimum(loss[FORGOTTEN], (cap or math.inf) * math.log(5))
        assert terms["retain"].item() == pytest.approx(0.9 * loss[~FORGOTTEN].mean(), rel=1e-5)
        assert terms["forget"].item() == pytest.approx(-0.1 * capped.mean(), rel=1e-5)
