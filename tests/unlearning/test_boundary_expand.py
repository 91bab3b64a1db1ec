"""Boundary expand: the shadow class comes, takes the forgotten images, and goes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax
from torch import nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.unlearning.boundary_expand import BoundaryExpand

TrainerOf = Callable[[int], Trainer]
sgd = partial(torch.optim.SGD, lr=0.02)


def prepared(kit: Kit, archive: Any, **settings: Any) -> BoundaryExpand:
    method = BoundaryExpand(forget=(1, 3), **{"steps": 1, "optimizer": sgd} | settings)
    method.prepare(kit, archive.sources(method.access, (1, 3)))
    return method


def test_rows_are_kept_and_one_shadow_comes_in(kit: Kit, archive: Any) -> None:
    head, old = prepared(kit, archive).classifier.head, kit.classifier.head
    assert head.weight.shape == (6, old.in_features)
    assert torch.equal(head.weight[:5], old.weight)
    assert torch.equal(head.bias[:5], old.bias)
    assert head.bias[5] == 0
    assert head.weight.requires_grad
    assert head.bias.requires_grad


def test_the_shadow_row_is_xavier_normal_of_the_wide_head(kit: Kit, archive: Any) -> None:
    kit.classifier = AllCNN(1, 5, width=128).eval().requires_grad_(False)
    row = prepared(kit, archive).classifier.head.weight[5].detach()
    assert row.std() == pytest.approx((2 / (256 + 6)) ** 0.5, rel=0.2)
    assert row.mean().abs() < 0.02


def test_the_term_is_the_cross_entropy_to_the_shadow(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive)
    batch = next(iter(method.batches))
    z = method.classifier(batch.images).detach().double().numpy()
    assert z.shape[1] == 6
    terms = method.loss_terms(batch)
    assert terms.keys() == {"forget"}
    assert batch.forget.all()
    assert terms["forget"].item() == pytest.approx(-log_softmax(z, axis=1)[:, 5].mean(), rel=1e-5)


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_twenty_steps_forget_and_keep_and_leave_the_head_as_wide_as_it_was(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    settings: dict[str, Any] = {"source": source, "batch_size": 18, "max_gradient_norm": 1.0}
    method = BoundaryExpand(forget=(1, 3), steps=20, optimizer=sgd, **settings)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert isinstance(result.head, nn.Linear)
    assert result.head.out_features == 5
    shapes = {k: v.shape for k, v in result.state_dict().items()}
    assert shapes == {k: v.shape for k, v in kit.classifier.state_dict().items()}
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        network(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
        for network in (kit.classifier, result)
    )
    assert after[gone].mean() < before[gone].mean() / 2
    assert after[~gone].mean() > 0.75


def test_the_cut_takes_the_shadow_alone(kit: Kit, archive: Any) -> None:
    method = prepared(kit, archive, batch_size=4)
    torch.manual_seed(1)
    with torch.no_grad():
        method.classifier.head.weight.normal_()
        method.classifier.head.bias.normal_()
    wide = method.classifier(archive.images).detach()
    method.finish()
    torch.testing.assert_close(method.classifier(archive.images), wide[:, :5])
