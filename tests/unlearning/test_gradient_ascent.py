"""Gradient ascent: three losses, and where the climb ends."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax, rel_entr, softmax

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.sources import marked

TrainerOf = Callable[[int], Trainer]
TERMS = ["negative", "reciprocal", "uniform"]
LABELS = torch.tensor([1, 3, 3, 1])


def documented(term: str, z: np.ndarray, y: int, cap: float | None) -> float:
    ce = -log_softmax(z)[y]
    even = np.array([1 / 3, 0, 1 / 3, 0, 1 / 3])
    return {
        "negative": -min(ce, math.inf if cap is None else cap * math.log(5)),
        "reciprocal": 1 / ce,
        "uniform": rel_entr(even, softmax(z)).sum(),
    }[term]


@pytest.mark.parametrize("cap", [1.0, 2.0, None])
@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_the_documented_formula(term: str, cap: float | None) -> None:
    torch.manual_seed(1)
    logits = 3 * torch.randn(4, 5)
    logits[0, 1] += 8
    method = GradientAscent(forget=(1, 3), loss_term=term, cap=cap, max_margin=30.0)
    values = [
        documented(term, z, y, cap)
        for z, y in zip(logits.double().numpy(), LABELS.tolist(), strict=True)
    ]
    terms = method.loss_terms(marked(logits, LABELS, (1, 3)))
    assert terms.keys() == {"forget"}
    assert terms["forget"].item() == pytest.approx(np.mean(values), rel=1e-5)
    losses = [-log_softmax(z)[y] for z, y in zip(logits.double().numpy(), LABELS, strict=True)]
    assert min(losses) < math.log(5) < 2 * math.log(5) < max(losses)  # each cap tells


def test_each_image_is_let_go_at_chance_and_not_before() -> None:
    bound = math.log(4)
    rows = [
        [math.log(3 * p / (1 - p)), 0.0, 0.0, 0.0] for p in np.exp([-bound + 0.1, -bound - 0.1])
    ]
    logits = torch.tensor(rows, requires_grad=True)
    terms = GradientAscent(forget=(0,)).loss_terms(marked(logits, torch.tensor([0, 0]), (0,)))
    (gradient,) = torch.autograd.grad(terms["forget"], logits)
    assert gradient[0, 0] > 0
    assert not gradient[1].any()


def test_a_sure_reciprocal_pushes_no_harder_than_its_bound() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    method = GradientAscent(forget=(0,), loss_term="reciprocal", max_margin=5.0)
    method.loss_terms(marked(logits, torch.tensor([0]), (0,)))["forget"].backward()
    assert logits.grad is not None
    assert 0 < logits.grad[0, 0] < 1.1 * math.exp(5.0)


def run(kit: Kit, archive: Any, trainer_of: TrainerOf, **settings: Any) -> tuple[float, float]:
    """Return the mean cross-entropy of forgotten images, and retained accuracy, after a run."""
    defaults: dict[str, Any] = {
        "forget": (1, 3),
        "optimizer": partial(torch.optim.SGD, lr=0.02),
        "max_gradient_norm": 1.0,
        "batch_size": 18,
    }
    method = GradientAscent(**defaults | settings)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    p = result(archive.images).double().log_softmax(dim=1)
    kept = (p.argmax(dim=1) == archive.labels)[~gone].double().mean()
    return -p[gone].gather(1, archive.labels[gone, None]).mean().item(), kept.item()


@pytest.mark.parametrize("source", ["data", "proxies"])
@pytest.mark.parametrize("term", TERMS)
def test_a_run_raises_the_loss_of_forgotten_images(
    kit: Kit, archive: Any, trainer_of: TrainerOf, term: str, source: str
) -> None:
    start, _ = run(kit, archive, trainer_of, steps=0)
    loss, kept = run(kit, archive, trainer_of, steps=25, loss_term=term, source=source)
    assert start < 0.1
    assert loss > 0.7
    assert kept > 0.6


def test_the_cap_stops_the_climb_near_chance_and_without_it_there_is_no_end(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    held, kept = run(kit, archive, trainer_of, steps=100)
    free, _ = run(kit, archive, trainer_of, steps=100, cap=None)
    assert math.log(5) - 0.1 < held < 2 * math.log(5)
    assert kept > 0.5
    assert free > 5 * math.log(5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cap": 0.0}, "unlearner.cap must be above 0, or null, got 0.0"),
        ({"max_margin": 41.0}, r"unlearner.max_margin must lie in \(0, 40\], got 41.0"),
        ({"loss_term": "l1"}, "loss_term must be one of negative, reciprocal, uniform, got 'l1'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        GradientAscent(forget=(1,), **settings)
