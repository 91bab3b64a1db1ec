"""Bad teacher: who teaches what, the divergence, and what twenty steps do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.sources import marked

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)


@pytest.mark.parametrize("teacher", ["random", "uniform"])
def test_each_side_has_its_teacher_and_its_mean_is_over_images_not_classes(teacher: str) -> None:
    torch.manual_seed(1)
    now, good, bad = 3 * torch.randn(3, 6, 5)
    labels = torch.tensor([1, 0, 3, 4, 1, 2])
    method = BadTeacher(forget=(1, 3), teacher=teacher)
    method.good, method.ignorant = (lambda images: good), (lambda images: bad)
    terms = method.loss_terms(marked(now, labels, (1, 3)))
    p = softmax(now.double().numpy(), axis=1)
    kept = softmax(good.double().numpy(), axis=1)
    gone = softmax(bad.double().numpy(), axis=1)
    if teacher == "uniform":
        gone = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 6)
    forget = np.mean(rel_entr(gone, p).sum(axis=1)[[0, 2, 4]])
    retain = np.mean(rel_entr(kept, p).sum(axis=1)[[1, 3, 5]])
    assert terms["forget"].item() == pytest.approx(forget, rel=1e-5)
    assert terms["retain"].item() == pytest.approx(retain, rel=1e-5)


def test_the_ignorant_one_is_new_still_and_of_the_unlearning_seed(kit: Kit, archive: Any) -> None:
    weights = []
    for seed in (1, 1, 2):
        method = BadTeacher(forget=(1, 3), seed=seed)
        method.prepare(kit, archive.sources(method.access, (1, 3)))
        network = method.ignorant.network
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
        weights.append(network.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], kit.classifier.head.weight)


def test_steps_move_the_student_and_neither_teacher(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = BadTeacher(forget=(1, 3), steps=1, optimizer=adam, batch_size=9)
    method.prepare(kit, archive.sources(method.access, (1, 3)))
    before = {k: t.clone() for k, t in method.ignorant.network.state_dict().items()}
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert not torch.equal(result.head.weight, kit.classifier.head.weight)
    for teacher, expected in (
        (method.good, kit.classifier.state_dict()),
        (method.ignorant, before),
    ):
        said = teacher.network.state_dict()
        assert all(torch.equal(t, said[name]) for name, t in expected.items())


@pytest.mark.parametrize("teacher", ["random", "uniform"])
def test_twenty_steps_forget_and_keep(
    kit: Kit, archive: Any, trainer_of: TrainerOf, teacher: str
) -> None:
    method = BadTeacher(forget=(1, 3), teacher=teacher, steps=20, optimizer=adam, batch_size=9)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    p = result(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).flatten()
    assert p[gone].mean() < 0.4
    assert p[~gone].mean() > 0.75


def test_an_unknown_teacher_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"teacher must be one of random, uniform, got 'good'"):
        BadTeacher(forget=(1,), teacher="good")
