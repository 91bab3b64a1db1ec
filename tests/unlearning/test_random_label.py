"""Random labels: which are drawn, what is minimised, and what twenty steps do."""

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
from geniu_lightning.unlearning import random_label
from geniu_lightning.unlearning.losses import random_retained_labels
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.sources import Access, marked

TrainerOf = Callable[[int], Trainer]
sgd = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


def test_labels_are_drawn_from_all_retained_classes_evenly_and_from_no_other() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(random_retained_labels(7000, 7, (1, 3)), minlength=7)
    assert counts[[1, 3]].tolist() == [0, 0]
    # 5 classes of 1400 each; the deviation of one count is 33
    assert (counts[[0, 2, 4, 5, 6]] - 1400).abs().max() < 170


def test_both_terms_are_means_of_their_side(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    drawn = torch.tensor([2, 2, 0, 2, 4, 4])
    monkeypatch.setattr(random_label, "random_retained_labels", lambda *_: drawn)
    # before it is prepared, the classifier says what it is given
    terms = RandomLabel(forget=(1, 3), retain_weight=0.3).loss_terms(marked(logits, labels, (1, 3)))
    log_p = log_softmax(logits.double().numpy(), axis=1)
    forget = -np.mean([log_p[0, 2], log_p[2, 0], log_p[4, 4]])
    retain = -np.mean([log_p[1, 0], log_p[3, 4], log_p[5, 2]])
    assert terms["forget"].item() == pytest.approx(forget, rel=1e-5)
    assert terms["retain"].item() == pytest.approx(0.3 * retain, rel=1e-5)


def test_a_forgotten_image_is_never_taught_a_forgotten_name_and_each_step_draws_anew() -> None:
    logits, labels = torch.zeros(64, 4, requires_grad=True), torch.tensor([1, 3]).repeat(32)
    method, batch = RandomLabel(forget=(1, 3)), marked(logits, labels, (1, 3))
    taught = []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(method.loss_terms(batch)["forget"], logits)
        taught.append(gradient.argmin(dim=1))  # the only logit that is pushed up
    assert {int(k) for names in taught for k in names} == {0, 2}
    assert not torch.equal(*taught)


def test_twenty_steps_forget_and_keep(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    method = RandomLabel(
        forget=(1, 3), steps=20, optimizer=sgd, batch_size=9, max_gradient_norm=1.0
    )
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        n(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).flatten()
        for n in (kit.classifier, result)
    )
    assert method.access == Access.FORGET | Access.RETAIN
    assert before.min() > 0.5
    assert after[gone].mean() < 0.3
    assert after[~gone].mean() > 0.8


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=f"unlearner.retain_weight must be .* got {weight}"):
        RandomLabel(forget=(1,), retain_weight=weight)


def test_without_a_weight_no_retained_image_is_declared_or_read(
    kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]
) -> None:
    adam = partial(torch.optim.Adam, lr=0.01)
    method = RandomLabel(forget=(1, 3), retain_weight=0, steps=2, optimizer=adam, batch_size=6)
    assert method.access == Access.FORGET
    method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert set(archive.read) == {1, 3}
    assert RandomLabel(forget=(1,), retain_weight=0, source="proxies").access == Access.NONE
