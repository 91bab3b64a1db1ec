"""Mu_mis: slopes, the rule of each image, and what lowering them does."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning import mu_mis
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.mu_mis import MuMis
from tests.unlearning.helpers import GONE, KEPT, Lab


class Squared(nn.Module):
    """z_k = Σ_j w_jk x_j², whose slope is 2 w_jk x_j."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** 2 @ self.weight


def on_squares(patch: pytest.MonkeyPatch, weight: Tensor, drawn: list[int]) -> MuMis:
    patch.setattr(mu_mis, "random_retained_labels", lambda *_: torch.tensor(drawn))
    method = MuMis(forget=GONE, irrelevant_weight=0.6)
    method.classifier = Squared(weight)
    return method


def test_terms_and_their_gradient_are_the_documented_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    labels, drawn = [1, 0, 3, 4, 3, 1], [2, 2, 0, 2, 4, 0]
    x, w = torch.randn(6, 1, 2, 2), torch.randn(4, 5)
    method = on_squares(monkeypatch, w, drawn)
    terms = method.loss_terms(labelled_batch(x, torch.tensor(labels), GONE))
    sum(terms.values()).backward()
    points, weight = x.double().numpy().reshape(6, 4), w.double().numpy()
    own, other, gradient, idle = 0.0, 0.0, np.zeros((4, 5)), 0
    for i in (0, 2, 4, 5):  # of the forget set
        slopes = ((2 * weight * points[i][:, None]) ** 2).sum(axis=0)
        y, c = labels[i], drawn[i]
        if slopes[y] <= slopes[c]:
            idle += 1
            continue
        own += slopes[y] / 4
        other += slopes[c] / 4
        gradient[:, y] += 8 * weight[:, y] * points[i] ** 2 / 4
        gradient[:, c] -= 0.6 * 8 * weight[:, c] * points[i] ** 2 / 4
    assert 0 < idle < 4  # both kinds are in the batch
    assert terms["own"].item() == pytest.approx(own, rel=1e-5)
    assert terms["irrelevant"].item() == pytest.approx(-0.6 * other, rel=1e-5)
    np.testing.assert_allclose(method.classifier.weight.grad.numpy(), gradient, rtol=1e-4)
    # equal slopes count 0
    batch = labelled_batch(torch.ones(2, 1, 2, 2), torch.tensor([1, 3]), GONE)
    equal = on_squares(monkeypatch, torch.ones(4, 5), [0, 0]).loss_terms(batch)
    assert [term.item() for term in equal.values()] == [0, 0]


def test_shares_of_two_processes_add_up_to_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(4)
    x, labels = torch.randn(6, 1, 2, 2), torch.tensor([1, 3, 1, 1, 3, 3])
    drawn, w = [0, 2, 4, 0, 2, 4], torch.randn(4, 5)

    def terms(part: slice) -> list[float]:
        method = on_squares(monkeypatch, w, drawn[part])
        found = method.loss_terms(labelled_batch(x[part], labels[part], GONE))
        return [term.item() for term in found.values()]

    shares = [terms(slice(rank, None, 2)) for rank in (0, 1)]
    assert np.mean(shares, axis=0) == pytest.approx(terms(slice(None)), rel=1e-5)


def test_slopes_are_in_32_bits_and_the_other_class_is_drawn_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    draw = mu_mis.random_retained_labels

    def noted(*arguments: Any) -> Tensor:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(mu_mis, "random_retained_labels", noted)
    method = MuMis(forget=GONE, steps=6, optimizer=partial(torch.optim.SGD, lr=1e-3))
    lab.run(method)
    assert {int(c) for classes in drawn for c in classes} == {*KEPT}
    assert not torch.equal(drawn[0], drawn[1])
    (batch, *_) = lab.prepared(method)
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(method.loss_terms(batch))
    assert all(torch.equal(term, found[1][name]) for name, term in found[0].items())
    assert not batch.images.requires_grad
    with pytest.raises(SettingError, match="batch_norm must be 'frozen' or 'frozen_affine'"):
        MuMis(forget=(1,), batch_norm="train")
