"""Gradient ascent and NegGrad+: their terms, their caps, and what they do."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from tests.unlearning.helpers import GONE, TrainerOf, own_probability, run

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)

COMMON: Any = {"forget": GONE, "steps": 20, "batch_size": 9, "max_gradient_norm": 1.0}


def two_at_the_bound(bound: float) -> Tensor:
    """Return logits of two images of class 0: cross-entropy just below and just above a bound."""
    p = np.exp([-bound + 0.1, -bound - 0.1])
    rows = [[math.log(3 * q / (1 - q)), 0.0, 0.0, 0.0] for q in p]
    return torch.tensor(rows, requires_grad=True)


def test_gradient_ascent_terms_are_the_documented_formula() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(4, 5), torch.tensor([1, 3, 3, 1])
    logits[0, 1] += 8
    z = logits.double().numpy()
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
            terms = method.loss_terms(labelled_batch(logits, labels, GONE))
            assert terms.keys() == {"forget"}
            assert terms["forget"].item() == pytest.approx(values.mean(), rel=1e-5), term


def test_a_capped_image_has_no_gradient_and_the_reciprocal_is_bounded() -> None:
    labels = torch.tensor([0, 0])
    for method, bound in (
        (GradientAscent(forget=(0,)), math.log(4)),
        (NegGradPlus(forget=(0,)), 2 * math.log(4)),
    ):
        logits = two_at_the_bound(bound)
        loss = method.loss_terms(labelled_batch(logits, labels, (0,)))["forget"]
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0, 0] > 0
        assert not gradient[1].any()
    sure = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    method = GradientAscent(forget=(0,), loss_term="reciprocal", max_margin=5.0)
    method.loss_terms(labelled_batch(sure, torch.tensor([0]), (0,)))["forget"].backward()
    assert 0 < sure.grad[0, 0] < 1.1 * math.exp(5.0)


@pytest.mark.parametrize("term", ["negative", "reciprocal", "uniform"])
def test_gradient_ascent_raises_the_loss_and_the_cap_ends_it(
    kit: Kit, archive: Any, trainer_of: TrainerOf, term: str
) -> None:
    plain = partial(torch.optim.SGD, lr=0.02)
    settings = COMMON | {"batch_size": 18, "optimizer": plain, "loss_term": term}
    forget, retain = own_probability(
        run(GradientAscent(**settings | {"steps": 25}), kit, archive, trainer_of), archive
    )
    assert forget < 0.6
    assert retain > 0.5
    if term == "negative":
        losses = []
        for cap in (1.0, None):
            method = GradientAscent(**settings | {"steps": 100, "cap": cap})
            log_p = run(method, kit, archive, trainer_of)(archive.images).log_softmax(dim=1)
            chosen = torch.isin(archive.labels, torch.tensor(GONE))
            losses.append(-log_p[chosen, archive.labels[chosen]].mean().item())
        assert math.log(5) - 0.1 < losses[0] < 2 * math.log(5)
        assert losses[1] > 5 * math.log(5)


def test_neg_grad_plus_is_the_documented_formula_and_forgets(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    torch.manual_seed(1)
    logits, labels = 6 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    loss = -log_softmax(logits.double().numpy(), axis=1)[range(6), labels]
    for cap in (2.0, 0.5, None):
        method = NegGradPlus(forget=GONE, beta=0.9, cap=cap)
        terms = method.loss_terms(labelled_batch(logits, labels, GONE))
        # image by image, so that one far beyond the bound does not silence the others
        capped = np.minimum(loss[[0, 2, 4]], (cap or math.inf) * math.log(5))
        assert terms["retain"].item() == pytest.approx(0.9 * loss[[1, 3, 5]].mean(), rel=1e-5)
        assert terms["forget"].item() == pytest.approx(-0.1 * capped.mean(), rel=1e-5)
    method = NegGradPlus(beta=0.8, optimizer=sgd, **COMMON)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.3
    assert retain > 0.75
