"""Finetune: the loss, and what a large rate does."""

from functools import partial
from typing import Any

import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.finetune import FineTune
from tests.unlearning.helpers import (
    GONE,
    TrainerOf,
    own_probability,
    run,
)


def test_the_loss_is_the_cross_entropy_of_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(4, 5), torch.tensor([0, 2, 4, 2])
    method = FineTune(forget=GONE)
    method.classifier = nn.Identity()
    terms = method.loss_terms(labelled_batch(logits, labels, GONE))
    loss = -log_softmax(logits.double().numpy(), axis=1)[range(4), labels].mean()
    assert {k: v.item() for k, v in terms.items()} == {"retain": pytest.approx(loss, rel=1e-5)}
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    settings: Any = {"steps": 30, "optimizer": sgd, "batch_size": 9, "max_gradient_norm": 1.0}
    result = run(FineTune(forget=GONE, **settings), kit, archive, trainer_of)
    forget, retain = own_probability(result, archive)
    assert forget < 0.9 < own_probability(kit.classifier, archive)[0]
    assert retain > 0.95
    assert not {*GONE} & set(archive.read)
