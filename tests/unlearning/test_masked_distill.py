"""Masked distillation: its terms on every source of inputs, and what it forgets."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.masked_distill import MaskedDistill
from geniu_lightning.unlearning.sources import Access
from tests.unlearning.helpers import GONE, Lab, divergence, masked, move_head, values

adam = partial(torch.optim.Adam, lr=3e-3)


def distill(**settings: Any) -> MaskedDistill:
    defaults = {"forget": GONE, "steps": 20, "optimizer": adam, "max_gradient_norm": 1.0}
    return MaskedDistill(**defaults | settings)


@pytest.mark.parametrize("source", ["proxies", "data", "noise", "mix"])
def test_masked_distill_has_the_documented_terms_on_every_source(lab: Lab, source: str) -> None:
    method = distill(source=source, retain_weight=0.3, batch_size=16)
    both = Access.FORGET | Access.RETAIN
    assert method.access == (both if source == "data" else Access.NONE)
    (batch, *_) = lab.prepared(method)
    move_head(method)
    now = method.classifier(batch.images).detach().double().numpy()
    loss = divergence(masked(lab.kit.classifier(batch.images).double().numpy()), now)
    forgotten = np.isin(batch.labels.numpy(), GONE)
    expected = {"retain": 0.3 * loss[~forgotten].mean()}
    assert forgotten.any() == (source in ("proxies", "data"))
    if forgotten.any():
        expected["forget"] = loss[forgotten].mean()
    assert values(method.loss_terms(batch)) == pytest.approx(expected, rel=1e-4)
    assert {split for split, *_ in lab.opened} == (
        {"forget", "retain"} if source == "data" else set()
    )


def test_masked_distill_mixes_two_proxies_of_any_classes(lab: Lab) -> None:
    batches = lab.prepared(distill(source="mix", steps=2, batch_size=30))
    ends = lab.kit.info.spec.normalise(lab.kit.proxies().images).flatten(1).double()
    i, j = torch.triu_indices(10, 10, offset=1)
    lines = ends[i] - ends[j]
    shares, pairs = [], set()
    for mixed in torch.cat([batch.images for batch in batches]).flatten(1).double():
        share = (((mixed - ends[j]) * lines).sum(1) / lines.square().sum(1)).clamp(0, 1)
        gaps = (mixed - ends[j] - share[:, None] * lines).norm(dim=1)
        best = int(gaps.argmin())
        assert gaps[best] < 1e-4
        shares.append(float(share[best]))
        pairs |= {int(i[best]), int(j[best])}
    assert pairs == set(range(10))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.15)


def test_masked_distill_needs_no_generator_for_noise(lab: Lab) -> None:
    lab.kit.generator = lab.kit.prompts = None
    (batch, *_) = lab.prepared(distill(source="noise", steps=1, batch_size=4))
    assert batch.images.shape == (4, 1, 16, 16)
    with pytest.raises(
        SettingError,
        match=r"source must be 'proxies', 'distribution', 'archive', 'data', 'noise' or 'mix'",
    ):
        distill(source="hope")


def test_noise_is_fresh_whole_and_of_the_seed(lab: Lab) -> None:
    def drawn(seed: int, rank: int) -> Tensor:
        torch.manual_seed(rank)  # the global state must not matter
        method = distill(source="noise", steps=5, batch_size=40, seed=seed)
        lab.prepared(method)
        method.batches.shard(rank, 2)
        return torch.stack([batch.images for batch in method.batches])

    images = drawn(1, 0)
    assert images.shape == (5, 40, 1, 16, 16)
    assert len(images.flatten(0, 1).unique(dim=0)) == 200
    assert images.mean().abs() < 0.02
    assert images.std() == pytest.approx(1, abs=0.02)
    assert torch.equal(images, drawn(1, 1))
    assert not torch.equal(images, drawn(2, 0))
