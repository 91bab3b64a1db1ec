"""Emmn: which noise it takes, its loss, and what sixty steps do."""

from functools import partial
from typing import Any

import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.emmn import Emmn
from tests.unlearning.helpers import (
    GONE,
    LABELS,
    Lab,
    logits,
    on_logits,
    values,
)

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


def test_the_loss_is_the_mean_over_all_noise_and_steps_lower_it(lab: Lab) -> None:
    now, z = logits(1)
    found = on_logits(emmn()).loss_terms(labelled_batch(now, LABELS, GONE))
    expected = -log_softmax(z, axis=1)[range(6), LABELS].mean()
    assert values(found) == {"noise": pytest.approx(expected, rel=1e-5)}
    method = emmn(impair_steps=40)
    result = lab.run(method)
    (batch, *_) = method.batches
    before, after = (
        nn.functional.cross_entropy(network(batch.images), batch.labels)
        for network in (lab.kit.classifier, result)
    )
    assert after < before / 2
    forget, retain = lab.own_probability(result)
    assert forget < 0.4
    assert retain > forget + 0.2
