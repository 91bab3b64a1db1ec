"""Unsir: its noise, its two phases, and what they do."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import (
    labelled_batch,
)
from geniu_lightning.unlearning.unsir import Unsir
from tests.unlearning.helpers import GONE, KEPT, TrainerOf, own_probability, prepared, run

adam = partial(torch.optim.Adam, lr=3e-3)


def unsir(**settings: Any) -> Unsir:
    counts = {"impair_steps": 15, "repair_steps": 5, "noise_images": 8, "noise_steps": 20}
    defaults = {"forget": GONE, "optimizer": adam, "max_gradient_norm": 1.0, "batch_size": 9}
    return Unsir(**defaults | counts | settings)


def test_each_set_has_its_own_mean_and_repair_the_retain_term_alone() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(7, 5), torch.tensor([1, 0, 3, 4, 1, 2, 0])
    method = unsir()
    method.classifier = nn.Identity()
    terms = method.loss_terms(labelled_batch(logits, labels, GONE))
    error = -log_softmax(logits.double().numpy(), axis=1)[np.arange(7), labels.numpy()]
    assert terms["noise"].item() == pytest.approx(error[[0, 2, 4]].mean(), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(error[[1, 3, 5, 6]].mean(), rel=1e-5)
    repair = method.loss_terms(labelled_batch(logits[[1, 3]], labels[[1, 3]], GONE))
    assert repair.keys() == {"retain"}


def test_impair_has_noise_of_every_forget_class_with_the_retain_set(kit: Kit, archive: Any) -> None:
    method = unsir(impair_steps=4, repair_steps=2)
    batches = prepared(method, kit, archive)
    assert len(batches) == 6
    for batch in batches[:4]:
        of_noise, labels = batch.images[batch.forget], batch.labels[batch.forget]
        assert labels.bincount().tolist() == [0, 4, 0, 4]
        assert len(of_noise.unique(dim=0)) == 8
        assert int((~batch.forget).sum()) == 9
        assert (kit.classifier(of_noise).softmax(dim=1).gather(1, labels[:, None]) < 0.5).all()
    assert all(len(b.images) == 9 and not b.forget.any() for b in batches[4:])
    every = torch.cat([batch.images[batch.forget] for batch in batches])
    assert len(every.unique(dim=0)) == 2 * 8
    assert not {*GONE} & set(archive.read)
    archive.opened.clear()
    restricted = unsir(source="proxies")
    wanted = kit.info.spec.normalise(kit.proxies([*KEPT]).images)
    for batch in prepared(restricted, kit, archive):
        assert torch.equal(batch.images[~batch.forget], wanted)
    assert archive.opened == []


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_twenty_steps_forget_and_retain(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    result = run(unsir(source=source), kit, archive, trainer_of)
    forget, retain = own_probability(result, archive)
    assert forget < 0.5
    assert retain > 0.85
