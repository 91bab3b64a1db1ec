"""Masked distillation: its target, its four kinds of inputs, and what they need."""

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
from geniu_lightning.unlearning.masked_distill import MaskedDistill
from geniu_lightning.unlearning.sources import Access, UnlearnBatch

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)
GONE = (1, 3)


def distill(**settings: Any) -> MaskedDistill:
    defaults: dict[str, Any] = {
        "forget": GONE,
        "steps": 20,
        "optimizer": adam,
        "max_gradient_norm": 1.0,
    }
    return MaskedDistill(**defaults | settings)


def prepared(kit: Kit, archive: Any, **settings: Any) -> tuple[MaskedDistill, list[UnlearnBatch]]:
    method = distill(**settings)
    method.prepare(kit, archive.sources(method.access, GONE))
    assert method.batches is not None
    return method, list(method.batches)


def documented(original: np.ndarray, now: np.ndarray) -> np.ndarray:
    """KL from the retained part of the original's softmax, sample by sample."""
    values = []
    for before, z in zip(original, now, strict=True):
        target = np.zeros_like(before)
        target[[0, 2, 4]] = softmax(before[[0, 2, 4]])
        values.append(rel_entr(target, softmax(z)).sum())
    return np.array(values)


@pytest.mark.parametrize("source", ["proxies", "data", "noise", "mix"])
def test_each_source_gives_the_documented_terms(kit: Kit, archive: Any, source: str) -> None:
    method, (batch, *_) = prepared(kit, archive, source=source, retain_weight=0.3, batch_size=16)
    torch.manual_seed(0)
    with torch.no_grad():  # moved on, so that the original cannot be mistaken for it
        method.classifier.head.weight.add_(0.5 * torch.randn_like(method.classifier.head.weight))
    now = method.classifier(batch.images).detach().double().numpy()
    values = documented(kit.classifier(batch.images).double().numpy(), now)
    gone = np.isin(batch.labels.numpy(), GONE)
    terms = method.loss_terms(batch)
    assert terms["retain"].item() == pytest.approx(0.3 * values[~gone].mean(), rel=1e-4)
    if source in ("noise", "mix"):
        assert not gone.any()
        assert terms.keys() == {"retain"}
    else:
        assert gone.any()
        assert terms["forget"].item() == pytest.approx(values[gone].mean(), rel=1e-4)


def test_noise_is_fresh_gaussian_in_every_step_and_needs_no_generator(
    kit: Kit, archive: Any
) -> None:
    kit.generator = kit.prompts = None
    _, batches = prepared(kit, archive, source="noise", steps=5, batch_size=40)
    images = torch.stack([batch.images for batch in batches])
    assert images.shape == (5, 40, 1, 16, 16)
    assert len(images.flatten(0, 1).unique(dim=0)) == 200
    assert images.mean().abs() < 0.02
    assert images.std() == pytest.approx(1, abs=0.02)


def test_a_mixture_lies_between_two_proxies_of_any_classes(kit: Kit, archive: Any) -> None:
    _, batches = prepared(kit, archive, source="mix", steps=4, batch_size=30)
    ends = kit.info.spec.normalise(kit.proxies().images).flatten(1).double()
    found = []
    for mixed in torch.cat([batch.images for batch in batches]).flatten(1).double():
        best = (np.inf, 0.0, 0, 0)
        for i in range(len(ends)):
            for j in range(i):  # the nearest point on each segment, by projection
                line = ends[i] - ends[j]
                share = float(((mixed - ends[j]) @ line / (line @ line)).clamp(0, 1))
                gap = float((mixed - ends[j] - share * line).norm())
                best = min(best, (gap, share, i, j))
        assert best[0] < 1e-4
        found.append(best[1:])
    shares, first, second = np.array(found).T
    assert set(first) | set(second) == set(range(10))  # forgotten and retained proxies
    inside = shares[(shares > 1e-4) & (shares < 1 - 1e-4)]
    assert len(inside) > 90
    assert inside.mean() == pytest.approx(0.5, abs=0.1)
    assert inside.min() < 0.1
    assert inside.max() > 0.9


@pytest.mark.parametrize("source", ["noise", "mix"])
def test_draws_follow_from_seed_and_step_alone(kit: Kit, archive: Any, source: str) -> None:
    def drawn(seed: int, random_state: int, rank: int = 0) -> torch.Tensor:
        torch.manual_seed(random_state)
        method = distill(source=source, seed=seed, steps=3, batch_size=8)
        method.prepare(kit, archive.sources(Access.NONE, GONE))
        assert method.batches is not None
        method.batches.shard(rank, 2)
        assert len(method.batches) == 3
        return torch.stack([batch.images for batch in method.batches])

    assert torch.equal(drawn(1, 0), drawn(1, 9))
    assert not torch.equal(drawn(1, 0), drawn(2, 0))
    # noise is whole on every rank, mixtures are shared out
    assert torch.equal(drawn(1, 0), drawn(1, 0, rank=1)) == (source == "noise")


@pytest.mark.parametrize(
    ("source", "access"),
    [
        ("proxies", Access.NONE),
        ("noise", Access.NONE),
        ("mix", Access.NONE),
        ("data", Access.FORGET | Access.RETAIN),
    ],
)
def test_only_data_reads_images(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str, access: Access
) -> None:
    method = distill(source=source, steps=2, batch_size=12)
    assert method.access == access
    method.run(kit, archive.sources(Access.FORGET | Access.RETAIN, GONE), trainer_of)
    assert {split for split, *_ in archive.opened} == (
        {"forget", "retain"} if source == "data" else set()
    )


@pytest.mark.parametrize("source", ["proxies", "data", "mix"])
def test_twenty_steps_forget_and_keep(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    method = distill(source=source, batch_size=18)
    result = method.run(kit, archive.sources(method.access, GONE), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor(GONE))
    before, after = (
        network(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
        for network in (kit.classifier, result)
    )
    assert before.mean() > 0.9
    assert after[gone].mean() < 0.3
    assert after[~gone].mean() > 0.75


def test_an_unknown_source_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError, match=r"unlearner.source must be one of proxies, data, noise, mix, got 'hope'"
    ):
        distill(source="hope")
