"""Emmn: which noise it takes, its loss, and what sixty steps do."""

from functools import partial
from typing import Any

import torch

from geniu_lightning.unlearning.emmn import Emmn
from tests.unlearning.helpers import GONE, Lab

adam = partial(torch.optim.Adam, lr=3e-3)


def emmn(**settings: Any) -> Emmn:
    counts = {"impair_steps": 20, "images_per_class": 8, "noise_steps": 20, "batch_size": 20}
    counts |= {"repair_steps": 0, "repair_rate": 1e-3}
    defaults = {"forget": GONE, "optimizer": adam, "max_gradient_norm": 1.0}
    return Emmn(**defaults | counts | settings)


def test_noise_of_every_class_comes_first_and_then_of_the_retained_alone(lab: Lab) -> None:
    method = emmn(impair_steps=3, repair_steps=2, noise_steps=60)
    batches = lab.prepared(method)
    assert len(batches) == 5
    for batch in batches[:3]:
        counts = batch.labels.bincount(minlength=5)
        assert (counts == counts[0]).all()
        p = lab.kit.classifier(batch.images).softmax(dim=1)
        own = p.gather(1, batch.labels[:, None]).squeeze(1)
        assert (own[batch.forget] < 0.4).all()
        assert (own[~batch.forget] > 0.9).all()
    for batch in batches[3:]:
        assert {*batch.labels.tolist()} == {*range(5)} - {*GONE}
    everything = torch.cat([b.images for b in batches[:3]])
    assert len(everything.unique(dim=0)) == 5 * 8  # two batches are an epoch
    assert lab.opened == []
