"""Synthetic embeddings: the features, their classes, and that nothing but the head moves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.synthetic_embeddings import SyntheticEmbeddings

TrainerOf = Callable[[int], Trainer]
sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def embeddings(**settings: Any) -> SyntheticEmbeddings:
    defaults: dict[str, Any] = {
        "forget": (1, 3),
        "steps": 20,
        "optimizer": sgd,
        "per_class": 40,
        "batch_size": 60,
    }
    return SyntheticEmbeddings(**defaults | settings)


def head_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


@pytest.mark.parametrize("law", ["normal", "rectified"])
def test_each_class_has_its_number_of_features_that_the_head_names_so(law: str) -> None:
    head = head_of(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(5))
    features, labels = embeddings(law=law, per_class=100).embeddings(head)
    assert torch.equal(labels, torch.arange(5).repeat_interleave(100))
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert len(features.unique(dim=0)) == 500
    if law == "rectified":
        assert (features >= 0).all()
        assert (features == 0).double().mean() == pytest.approx(0.5, abs=0.02)
    else:
        assert features.std() == pytest.approx(1, abs=0.02)
        assert (features < 0).double().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("law", ["normal", "rectified"])
def test_a_class_that_draws_never_reach_is_filled_up_along_its_row(law: str) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    head = head_of(weight, torch.tensor([0.0, -200.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(law=law, max_draws=100).embeddings(head)
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    made = features[labels == 1]
    assert len(made.unique(dim=0)) == 40
    assert law == "normal" or (made >= 0).all()
    assert made.norm(dim=1).min() > 2 * features[labels == 0].norm(dim=1).max()


def test_a_class_that_no_feature_reaches_is_present_and_bounded() -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    weight[3] = weight[1] / 2  # wherever 3 rises, 1 rises more
    head = head_of(weight, torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(max_draws=40).embeddings(head)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    assert features[labels == 3].norm(dim=1).max() < 4 * 16**0.5


def test_a_row_of_zeros_leaves_features_finite() -> None:
    head = head_of(torch.zeros(3, 8), torch.tensor([1.0, 0.0, 0.0]))
    features, labels = embeddings(forget=(0,), max_draws=40).embeddings(head)
    assert features.isfinite().all()
    assert torch.equal(labels.bincount(), torch.full((3,), 40))


def test_features_and_their_order_follow_from_the_seed_alone(kit: Kit, archive: Any) -> None:
    def drawn(seed: int, random_state: int, rank: int) -> Tensor:
        torch.manual_seed(random_state)
        method = embeddings(seed=seed, steps=3)
        method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
        method.batches.shard(rank, 2)
        return torch.stack([batch.images for batch in method.batches])

    first = drawn(1, 0, 0)
    assert first.shape == (3, 60, 8)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, drawn(1, 9, 1))
    assert not torch.equal(first, drawn(2, 0, 0))


def test_both_terms_are_the_documented_formula(kit: Kit, archive: Any) -> None:
    method = embeddings(retain_weight=0.3)
    method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
    batch = next(iter(method.batches))
    gone = np.isin(batch.labels.numpy(), (1, 3))
    assert batch.forget.tolist() == gone.tolist()
    weight, bias = (p.double().numpy() for p in kit.classifier.head.parameters())
    torch.manual_seed(0)
    change = torch.randn_like(method.classifier.head.weight)
    with torch.no_grad():  # moved on, so that the original cannot be mistaken for it
        method.classifier.head.weight.add_(change)
    values = []
    for h in batch.images.double().numpy():
        target, kept = np.zeros(5), (weight @ h + bias)[[0, 2, 4]]
        target[[0, 2, 4]] = softmax(kept)
        now = softmax((weight + change.double().numpy()) @ h + bias)
        values.append(rel_entr(target, now).sum())
    values = np.array(values)
    terms = method.loss_terms(batch)
    assert terms.keys() == {"forget", "retain"}
    assert terms["forget"].item() == pytest.approx(values[gone].mean(), rel=1e-4)
    assert terms["retain"].item() == pytest.approx(0.3 * values[~gone].mean(), rel=1e-4)


@pytest.mark.parametrize("law", ["normal", "rectified"])
def test_a_run_forgets_by_the_head_alone_and_reads_nothing(
    kit: Kit, archive: Any, trainer_of: TrainerOf, law: str
) -> None:
    kit.generator = kit.prompts = None  # weights alone are enough
    decaying = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    method = embeddings(law=law, steps=60, optimizer=decaying)
    method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
    # under several processes a parameter without a gradient is an error
    assert [k for k, p in method.classifier.named_parameters() if p.requires_grad] == [
        "head.weight",
        "head.bias",
    ]
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert archive.opened == []
    before = kit.classifier.state_dict()
    moved = {k for k, v in result.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}
    named = result.head(next(iter(method.batches)).images).softmax(dim=1)
    assert named[:, [1, 3]].sum(dim=1).mean() < 0.2
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    right = result(archive.images).argmax(dim=1) == archive.labels
    assert right[~gone].float().mean() > 0.75


@pytest.mark.parametrize("name", ["per_class", "max_draws", "batch_size"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"unlearner.{name} must be at least 1, got 0"):
        embeddings(**{name: 0})


def test_an_unknown_law_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"unlearner.law must be .* normal, rectified, got 'u'"):
        embeddings(law="u")
