"""Random labels and SalUn: their terms, the mask, and what they do."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.salun import SalUn, largest
from geniu_lightning.unlearning.sources import Access
from tests.unlearning.helpers import GONE, Lab

sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)

COMMON: Any = {"forget": GONE, "steps": 20, "batch_size": 9, "max_gradient_norm": 1.0}


def test_random_labels_are_retained_ones_drawn_anew_in_each_step() -> None:
    logits, same = torch.zeros(64, 4, requires_grad=True), torch.tensor([1, 3]).repeat(32)
    method, batch, taught = RandomLabel(forget=GONE), labelled_batch(logits, same, GONE), []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(method.loss_terms(batch)["forget"], logits)
        taught.append(gradient.argmin(dim=1))  # the only logit that is raised
    assert {int(k) for labels in taught for k in labels} == {0, 2}
    assert not torch.equal(*taught)


def test_random_label_without_a_retain_weight_reads_the_forget_set_alone(lab: Lab) -> None:
    settings = COMMON | {"retain_weight": 0, "optimizer": sgd, "steps": 2}
    assert RandomLabel(**settings).access == Access.FORGET
    lab.run(RandomLabel(**settings))
    assert set(lab.read) == set(GONE)
    assert RandomLabel(**settings, source="proxies").access == Access.NONE


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def test_salun_masks_by_the_signed_sum_over_images(lab: Lab) -> None:
    # in batches of one class, so that signs differ between batches
    order = lab.labels.argsort(stable=True)
    lab.images, lab.labels = lab.images[order], lab.labels[order]
    method = SalUn(forget=GONE, share=0.3, batch_size=3)
    lab.prepared(method)
    network = lab.kit.classifier.double().requires_grad_(True)
    signed, absolute = 0, 0
    for image, label in zip(lab.images, lab.labels, strict=True):
        if int(label) in GONE:
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
    for share, first in [(0.1, 1), (0.45, 4), (0.5, 5), (1.0, 10)]:  # ties go to the first
        masks = largest([torch.ones(2, 3), -torch.ones(4)], share)
        assert flat(masks).tolist() == [True] * first + [False] * (10 - first)
    masks = largest([torch.tensor([0.1, 0.2]), torch.tensor([[-5.0], [3.0]])], 0.5)
    assert [m.tolist() for m in masks] == [[False, False], [[True], [True]]]


def test_salun_keeps_unmasked_weights_to_the_bit(lab: Lab) -> None:
    rough = partial(torch.optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1)
    adam = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    settings: Any = {"forget": GONE, "steps": 5, "batch_size": 9}
    for optimizer in (rough, adam):
        method = SalUn(optimizer=optimizer, **settings)
        result = lab.run(method)
        before, after = flat(lab.kit.classifier.parameters()), flat(result.parameters())
        mask = flat(method.masks)
        assert torch.equal(before[~mask], after[~mask])
        assert (before[mask] != after[mask]).float().mean() > 0.9
    both = [
        lab.run(method)
        for method in (
            SalUn(share=1.0, optimizer=rough, **settings),
            RandomLabel(optimizer=rough, **settings),
        )
    ]
    assert torch.equal(*(flat(network.parameters()) for network in both))
    # the gradient is masked before its norm is bounded
    plain = partial(torch.optim.SGD, lr=1.0)
    settings |= {"steps": 1, "share": 0.05, "max_gradient_norm": 1e-3}
    result = lab.run(SalUn(optimizer=plain, **settings))
    step = flat(result.parameters()).double() - flat(lab.kit.classifier.parameters()).double()
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-2)
