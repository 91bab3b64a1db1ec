"""Unsir: its noise, its two phases, and what they do."""

from functools import partial
from typing import Any

import torch

from geniu_lightning.unlearning.unsir import Unsir
from tests.unlearning.helpers import GONE, KEPT, Lab

adam = partial(torch.optim.Adam, lr=3e-3)


def unsir(**settings: Any) -> Unsir:
    counts = {"impair_steps": 15, "repair_steps": 5, "noise_images": 8, "noise_steps": 20}
    counts |= {"repair_rate": 1e-3}
    defaults = {"forget": GONE, "optimizer": adam, "max_gradient_norm": 1.0, "batch_size": 9}
    return Unsir(**defaults | counts | settings)


def test_impair_has_noise_of_every_forget_class_with_the_retain_set(lab: Lab) -> None:
    method = unsir(impair_steps=4, repair_steps=2)
    batches = lab.prepared(method)
    assert len(batches) == 6
    for batch in batches[:4]:
        of_noise, labels = batch.images[batch.forget], batch.labels[batch.forget]
        assert labels.bincount().tolist() == [0, 4, 0, 4]
        assert len(of_noise.unique(dim=0)) == 8
        assert int((~batch.forget).sum()) == 9
        assert (lab.kit.classifier(of_noise).softmax(dim=1).gather(1, labels[:, None]) < 0.5).all()
    assert all(len(b.images) == 9 and not b.forget.any() for b in batches[4:])
    every = torch.cat([batch.images[batch.forget] for batch in batches])
    assert len(every.unique(dim=0)) == 2 * 8
    assert not {*GONE} & set(lab.read)
    lab.opened.clear()
    restricted = unsir(source="proxies")
    wanted = lab.kit.info.spec.normalise(lab.kit.proxies([*KEPT]).images)
    for batch in lab.prepared(restricted):
        assert torch.equal(batch.images[~batch.forget], wanted)
    assert lab.opened == []
