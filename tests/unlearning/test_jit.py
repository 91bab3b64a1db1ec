"""Jit: the ratio of changes, and what lowering it does."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.batches import UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.jit import Jit
from tests.unlearning.helpers import GONE, Lab

sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


class Cubed(nn.Module):
    """Logits that numpy can compute as well."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 20).view(4, 5))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** 3 @ self.weight


def jit(lab: Lab, **settings: Any) -> tuple[Jit, list[UnlearnBatch]]:
    method = Jit(forget=GONE, steps=1, optimizer=sgd, **settings)
    return method, lab.prepared(method)


def test_the_loss_is_the_mean_ratio_over_the_forget_set_and_draws(lab: Lab) -> None:
    method, _ = jit(lab, draws=3, sigma=0.7)
    method.classifier = Cubed()
    torch.manual_seed(2)
    images = lab.kit.info.spec.normalise(torch.rand(5, 1, 2, 2))
    batch = labelled_batch(images, torch.tensor([1, 0, 3, 4, 1]), GONE)
    torch.manual_seed(3)
    found = method.loss_terms(batch)
    torch.manual_seed(3)
    draws = [0.7 * torch.randn(5, 1, 2, 2).double().numpy() for _ in range(3)]
    x, weight = images.double().numpy(), np.linspace(-1, 1, 20).reshape(4, 5)
    low, high = (0 - 0.2) / 0.4, (1 - 0.2) / 0.4  # black and white, normalised
    ratios = []
    for i, draw in itertools.product((0, 2, 4), draws):
        near = np.clip(x[i] + draw[i], low, high)
        moved = (x[i].ravel() ** 3 - near.ravel() ** 3) @ weight
        ratios.append(np.linalg.norm(moved) / np.linalg.norm(near - x[i]))
    assert found.keys() == {"lipschitz"}
    assert found["lipschitz"].item() == pytest.approx(np.mean(ratios), rel=1e-5)


def test_the_neighbours_have_no_gradient_and_a_flat_answer_has_a_finite_one(lab: Lab) -> None:
    method, (batch, *_) = jit(lab, draws=1)
    with torch.no_grad():
        method.classifier.head.weight.zero_()
    seen: list[bool] = []
    method.classifier.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    loss = method.loss_terms(batch)["lipschitz"]
    loss.backward()
    assert seen == [True, False]
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.classifier.parameters())
    with pytest.raises(SettingError, match="batch_norm must be 'frozen' or 'frozen_affine'"):
        Jit(forget=(1,), batch_norm="train")
