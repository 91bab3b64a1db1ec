"""Bad teacher: a teacher for each set, and what twenty steps do."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.batches import labelled_batch
from tests.unlearning.helpers import (
    FORGOTTEN,
    GONE,
    LABELS,
    Lab,
    divergence,
    logits,
    on_logits,
    values,
)


def test_bad_teacher_has_a_teacher_for_each_set() -> None:
    (now, z), (good, good_z), (bad, bad_z) = logits(1), logits(2), logits(3)
    for teacher, ignorant in {
        "random": softmax(bad_z, axis=1),
        "uniform": np.array([[1 / 3, 0, 1 / 3, 0, 1 / 3]] * 6),
    }.items():
        method = on_logits(BadTeacher(forget=GONE, teacher=teacher), good)
        method.ignorant = lambda images: bad
        expected = {
            "forget": divergence(ignorant, z)[FORGOTTEN].mean(),
            "retain": divergence(softmax(good_z, axis=1), z)[~FORGOTTEN].mean(),
        }
        found = values(method.loss_terms(labelled_batch(now, LABELS, GONE)))
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_ignorant_network_is_fresh_and_of_the_unlearning_seed(lab: Lab) -> None:
    weights = []
    for seed in (1, 1, 2):
        method = BadTeacher(forget=GONE, seed=seed)
        lab.prepared(method)
        weights.append(method.ignorant.network.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], lab.kit.classifier.head.weight)
