"""Bad teacher: a teacher for each set, and what twenty steps do."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.batches import labelled_batch
from tests.unlearning.helpers import (
    GONE,
    TrainerOf,
    own_probability,
    prepared,
    run,
)

adam = partial(torch.optim.Adam, lr=3e-3)

LABELS = torch.tensor([1, 0, 3, 4, 1, 2])

FORGOTTEN = np.isin(LABELS.numpy(), GONE)


def logits(seed: int, rows: int = 6) -> tuple[Tensor, np.ndarray]:
    drawn = 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return drawn, drawn.double().numpy()


def divergence(target: np.ndarray, now: np.ndarray) -> np.ndarray:
    return rel_entr(target, softmax(now, axis=1)).sum(axis=1)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize("teacher", ["random", "uniform"])
def test_bad_teacher_has_a_teacher_for_each_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf, teacher: str
) -> None:
    (now, z), (good, good_z), (bad, bad_z) = logits(1), logits(2), logits(3)
    method = BadTeacher(forget=GONE, teacher=teacher)
    method.good, method.ignorant = (lambda images: good), (lambda images: bad)
    terms = method.loss_terms(labelled_batch(now, LABELS, GONE))
    ignorant = softmax(bad_z, axis=1)
    if teacher == "uniform":
        ignorant = np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 6)
    expected = {
        "forget": divergence(ignorant, z)[FORGOTTEN].mean(),
        "retain": divergence(softmax(good_z, axis=1), z)[~FORGOTTEN].mean(),
    }
    assert values(terms) == pytest.approx(expected, rel=1e-5)
    method = BadTeacher(forget=GONE, teacher=teacher, steps=20, optimizer=adam, batch_size=9)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.4
    assert retain > 0.75


def test_the_ignorant_network_is_fresh_and_of_the_unlearning_seed(kit: Kit, archive: Any) -> None:
    weights = []
    for seed in (1, 1, 2):
        method = BadTeacher(forget=GONE, seed=seed)
        prepared(method, kit, archive)
        weights.append(method.ignorant.network.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], kit.classifier.head.weight)
