"""NegGrad+: both weights, and the bound of the ascent."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from geniu_lightning.unlearning.sources import marked

TrainerOf = Callable[[int], Trainer]


@pytest.mark.parametrize("cap", [2.0, 0.5, None])
def test_both_terms_are_the_documented_formula(cap: float | None) -> None:
    torch.manual_seed(1)
    logits, labels = 6 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    method = NegGradPlus(forget=(1, 3), beta=0.9, cap=cap)
    terms = method.loss_terms(marked(logits, labels, (1, 3)))
    loss = -log_softmax(logits.double().numpy(), axis=1)[range(6), labels]
    # image by image, so that one far beyond the bound does not silence the others
    forget = np.mean([min(loss[i], (cap or math.inf) * math.log(5)) for i in (0, 2, 4)])
    assert terms["retain"].item() == pytest.approx(0.9 * loss[[1, 3, 5]].mean(), rel=1e-5)
    assert terms["forget"].item() == pytest.approx(-0.1 * forget, rel=1e-5)


def test_a_forgotten_image_beyond_the_bound_is_no_longer_pushed() -> None:
    bound = 2 * math.log(4)
    # cross-entropies just below and just above the bound
    rows = [
        [math.log(3 * p / (1 - p)), 0.0, 0.0, 0.0] for p in np.exp([-bound + 0.1, -bound - 0.1])
    ]
    logits = torch.tensor(rows, requires_grad=True)
    terms = NegGradPlus(forget=(0,)).loss_terms(marked(logits, torch.tensor([0, 0]), (0,)))
    (gradient,) = torch.autograd.grad(terms["forget"], logits)
    assert gradient[0, 0] > 0
    assert not gradient[1].any()


def test_twenty_steps_forget_and_keep(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    settings: Any = {"steps": 20, "optimizer": sgd, "batch_size": 9, "max_gradient_norm": 1.0}
    method = NegGradPlus(forget=(1, 3), beta=0.8, **settings)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    right = result(archive.images).argmax(dim=1) == archive.labels
    assert (kit.classifier(archive.images).argmax(dim=1) == archive.labels).all()
    assert right[gone].float().mean() < 0.3
    assert right[~gone].float().mean() > 0.8


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": 1.1}, r"unlearner.beta must lie in \[0, 1\], got 1.1"),
        ({"beta": -0.1}, r"unlearner.beta must lie in \[0, 1\], got -0.1"),
        ({"cap": 0.0}, "unlearner.cap must be above 0, or null, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        NegGradPlus(forget=(1,), **settings)
