"""MU-Mis: slopes against a hand-made network, where it stops, and what steps do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import mu_mis
from geniu_lightning.unlearning.mu_mis import MuMis
from geniu_lightning.unlearning.sources import Access, UnlearnBatch, marked

TrainerOf = Callable[[int], Trainer]
sgd = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


class Squared(nn.Module):
    """z_k = Σ_j w_jk x_j², whose slope is 2 w_jk x_j."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** 2 @ self.weight


def on_squares(monkeypatch: pytest.MonkeyPatch, weight: Tensor, drawn: list[int]) -> MuMis:
    monkeypatch.setattr(mu_mis, "random_retained_labels", lambda *_: torch.tensor(drawn))
    method = MuMis(forget=(1, 3), irrelevant_weight=0.6)
    method.classifier = Squared(weight)
    return method


def test_terms_and_their_gradient_are_the_documented_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    labels, drawn = [1, 0, 3, 4, 3, 1], [2, 2, 0, 2, 4, 0]
    x, w = torch.randn(6, 1, 2, 2), torch.randn(4, 5)
    method = on_squares(monkeypatch, w, drawn)
    terms = method.loss_terms(marked(x, torch.tensor(labels), (1, 3)))
    sum(terms.values()).backward()
    points, weight = x.double().numpy().reshape(6, 4), w.double().numpy()
    own, other, gradient, shut = 0.0, 0.0, np.zeros((4, 5)), 0
    for i in (0, 2, 4, 5):  # the forgotten ones
        slopes = ((2 * weight * points[i][:, None]) ** 2).sum(axis=0)
        y, c = labels[i], drawn[i]
        if slopes[y] <= slopes[c]:
            shut += 1
            continue
        own += slopes[y] / 4
        other += slopes[c] / 4
        gradient[:, y] += 8 * weight[:, y] * points[i] ** 2 / 4
        gradient[:, c] -= 0.6 * 8 * weight[:, c] * points[i] ** 2 / 4
    assert 0 < shut < 4  # both kinds are in the batch
    assert terms["own"].item() == pytest.approx(own, rel=1e-5)
    assert terms["irrelevant"].item() == pytest.approx(-0.6 * other, rel=1e-5)
    np.testing.assert_allclose(method.classifier.weight.grad.numpy(), gradient, rtol=1e-4)


def test_an_image_counts_until_its_own_class_moves_it_no_more_than_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.zeros(4, 5)
    weight[:, 1], weight[:, 3], weight[:, 0] = 1.0, 3.0, 2.0
    method = on_squares(monkeypatch, weight, [0, 0])
    batch = marked(torch.ones(2, 1, 2, 2), torch.tensor([1, 3]), (1, 3))
    terms = method.loss_terms(batch)
    # the first image is done, the second is not; the mean is still over both
    assert terms["own"].item() == pytest.approx(4 * 36 / 2)
    assert terms["irrelevant"].item() == pytest.approx(-0.6 * 4 * 16 / 2)
    equal = on_squares(monkeypatch, torch.ones(4, 5), [0, 0]).loss_terms(batch)
    assert [term.item() for term in equal.values()] == [0, 0]


def test_shares_of_two_processes_add_up_to_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(4)
    x, labels = torch.randn(6, 1, 2, 2), torch.tensor([1, 3, 1, 1, 3, 3])
    drawn, w = [0, 2, 4, 0, 2, 4], torch.randn(4, 5)

    def terms(keep: slice, share: float) -> list[float]:
        method = on_squares(monkeypatch, w, drawn[keep])
        found = method.loss_terms(marked(x[keep], labels[keep], (1, 3), share))
        return [term.item() for term in found.values()]

    whole = terms(slice(None), 1.0)
    shares = [terms(slice(rank, None, 2), 1.0) for rank in (0, 1)]
    assert np.mean(shares, axis=0) == pytest.approx(whole, rel=1e-5)


def test_the_other_class_is_drawn_anew_from_the_retained_ones(
    kit: Kit, archive: Any, trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    draw = mu_mis.random_retained_labels

    def noted(*arguments: Any) -> Tensor:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(mu_mis, "random_retained_labels", noted)
    method = MuMis(forget=(1, 3), steps=6, optimizer=sgd)
    method.run(kit, archive.sources(Access.FORGET, (1, 3)), trainer_of)
    assert {int(c) for classes in drawn for c in classes} == {0, 2, 4}
    assert not torch.equal(drawn[0], drawn[1])


def test_images_and_kit_get_no_gradient(kit: Kit, archive: Any) -> None:
    method = MuMis(forget=(1, 3), steps=1, optimizer=sgd)
    method.prepare(kit, archive.sources(Access.FORGET, (1, 3)))
    batch: UnlearnBatch = next(iter(method.batches))
    sum(method.loss_terms(batch).values()).backward()
    assert not batch.images.requires_grad
    assert batch.images.grad is None
    assert all(p.grad is None and not p.requires_grad for p in kit.classifier.parameters())
    assert all(p.grad is not None for p in method.classifier.parameters())


def test_slopes_stay_in_32_bits_under_mixed_precision(kit: Kit, archive: Any) -> None:
    method = MuMis(forget=(1, 3), steps=1, optimizer=sgd)
    method.prepare(kit, archive.sources(Access.FORGET, (1, 3)))
    batch = next(iter(method.batches))
    torch.manual_seed(0)
    plain = method.loss_terms(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.loss_terms(batch)
    assert all(torch.equal(term, mixed[name]) for name, term in plain.items())


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_forty_steps_take_the_own_class_back(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    quick = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    method = MuMis(forget=(1, 3), source=source, steps=40, optimizer=quick, max_gradient_norm=1.0)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert method.access == (Access.FORGET if source == "data" else Access.NONE)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))

    def slopes(network: nn.Module) -> Tensor:
        images = archive.images[gone].clone().requires_grad_(True)
        own = network(images).gather(1, archive.labels[gone][:, None]).sum()
        return torch.autograd.grad(own, images)[0].square().sum()

    before, after = (
        n(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).flatten().detach()
        for n in (kit.classifier, result)
    )
    assert slopes(result) < 0.8 * slopes(kit.classifier)
    assert after[gone].mean() < before[gone].mean() - 0.1
    assert after[~gone].mean() > after[gone].mean() + 0.2


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=f"unlearner.irrelevant_weight must be .* got {weight}"):
        MuMis(forget=(1,), irrelevant_weight=weight)


def test_batch_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner.batch_norm must be frozen .* got 'train'"):
        MuMis(forget=(1,), batch_norm="train")
