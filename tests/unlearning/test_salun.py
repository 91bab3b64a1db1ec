"""SalUn: which weights it chooses, that no other ever moves, and what twenty steps do."""

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
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.salun import SalUn, largest
from geniu_lightning.unlearning.sources import Access

TrainerOf = Callable[[int], Trainer]
BOTH = Access.FORGET | Access.RETAIN
rough = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1)
adam = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


def salun(**settings: Any) -> SalUn:
    return SalUn(**{"forget": (1, 3), "steps": 5, "optimizer": rough, "batch_size": 9} | settings)


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


# ---- the mask --------------------------------------------------------------------------------


def test_the_mask_is_of_the_signed_sum_image_by_image(kit: Kit, archive: Any) -> None:
    # in batches of one class, so that signs differ between batches
    order = archive.labels.argsort(stable=True)
    archive.images, archive.labels = archive.images[order], archive.labels[order]
    method = salun(share=0.3, batch_size=3)
    method.prepare(kit, archive.sources(BOTH, (1, 3)))
    network = kit.classifier.double().requires_grad_(True)
    signed, absolute = 0, 0
    for image, label in zip(archive.images, archive.labels, strict=True):
        if int(label) in (1, 3):
            loss = -network(image[None].double()).log_softmax(dim=1)[0, label]
            gradient = flat(torch.autograd.grad(loss, list(network.parameters()))).numpy()
            signed, absolute = signed + gradient, absolute + np.abs(gradient)
    count = round(0.3 * len(signed))
    expected, other = (
        np.isin(np.arange(len(g)), np.argsort(-np.abs(g))[:count]) for g in (signed, absolute)
    )
    mask = flat(method.masks).numpy()
    assert mask.sum() == count
    # a rounding error may swap two at the threshold; sums of absolute values choose others
    assert (mask != expected).sum() <= 4
    assert (other != expected).sum() > 40


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.45, 4), (0.5, 5), (1.0, 10)])
def test_ties_go_to_the_first_and_the_count_is_exact(share: float, count: int) -> None:
    tensors = [torch.ones(2, 3), -torch.ones(4)]
    masks = largest(tensors, share)
    assert [m.shape for m in masks] == [t.shape for t in tensors]
    assert flat(masks).tolist() == [True] * count + [False] * (10 - count)


def test_the_ranking_is_over_all_tensors_together_by_absolute_value() -> None:
    masks = largest([torch.tensor([0.1, 0.2]), torch.tensor([[-5.0], [3.0]])], 0.5)
    assert [m.tolist() for m in masks] == [[False, False], [[True], [True]]]


# ---- what moves ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [rough, adam])
def test_weights_off_the_mask_stay_to_the_bit_under_momentum_and_decay(
    kit: Kit, archive: Any, trainer_of: TrainerOf, optimizer: Any
) -> None:
    method = salun(optimizer=optimizer)
    result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    before, after = flat(kit.classifier.parameters()), flat(result.parameters())
    mask = flat(method.masks)
    assert torch.equal(before[~mask], after[~mask])
    assert (before[mask] != after[mask]).float().mean() > 0.9


def test_the_gradient_is_masked_before_its_norm_is_bounded(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    plain = partial(torch.optim.SGD, lr=1.0)
    method = salun(share=0.05, steps=1, optimizer=plain, max_gradient_norm=1e-3)
    result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    step = flat(result.parameters()).double() - flat(kit.classifier.parameters()).double()
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_with_all_weights_it_is_random_labelling(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    settings = {"forget": (1, 3), "steps": 5, "optimizer": rough, "batch_size": 9}
    results: list[nn.Module] = [
        method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
        for method in (SalUn(share=1.0, **settings), RandomLabel(**settings))
    ]
    assert torch.equal(*(flat(network.parameters()) for network in results))


def test_twenty_steps_forget_and_keep(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    method = salun(steps=20, optimizer=sgd, max_gradient_norm=1.0)
    result = method.run(kit, archive.sources(BOTH, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        n(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).flatten()
        for n in (kit.classifier, result)
    )
    assert before.min() > 0.5
    assert after[gone].mean() < 0.3
    assert after[~gone].mean() > 0.8


def test_proxies_are_measured_and_tuned_on_without_opening_an_image(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = salun(source="proxies")
    method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert archive.opened == []
    assert 0 < flat(method.masks).float().mean() < 1


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=rf"unlearner.share must lie in \(0, 1\], got {share}"):
        salun(share=share)
