"""Synthetic_embeddings: the features that it draws, and the head that it trains."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.unlearning.synthetic_embeddings import SyntheticEmbeddings
from tests.unlearning.helpers import (
    GONE,
    Lab,
    divergence,
    masked,
    move_head,
    same_but_the_head,
    values,
)


def embeddings(**settings: Any) -> SyntheticEmbeddings:
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    defaults = {"forget": GONE, "steps": 20, "optimizer": sgd, "per_class": 40, "batch_size": 60}
    return SyntheticEmbeddings(**defaults | settings)


def head_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head


@pytest.mark.parametrize("law", ["normal", "rectified"])
def test_each_class_has_its_number_of_features_that_the_head_answers_so(law: str) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    head = head_of(weight, torch.zeros(5))
    features, labels = embeddings(law=law, per_class=100).embeddings(head)
    assert torch.equal(labels, torch.arange(5).repeat_interleave(100))
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert len(features.unique(dim=0)) == 500
    negative = (features < 0).double().mean()
    if law == "rectified":
        assert negative == 0
        assert (features == 0).double().mean() == pytest.approx(0.5, abs=0.02)
    else:
        assert features.std() == pytest.approx(1, abs=0.02)
        assert negative == pytest.approx(0.5, abs=0.02)
    # a class that no draw reaches is filled up along its row
    head = head_of(weight, torch.tensor([0.0, -200.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(law=law, max_draws=100).embeddings(head)
    assert torch.equal(head(features).argmax(dim=1), labels)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    filled = features[labels == 1]
    assert len(filled.unique(dim=0)) == 40
    assert law == "normal" or (filled >= 0).all()
    assert filled.norm(dim=1).min() > 2 * features[labels == 0].norm(dim=1).max()


def test_a_class_that_no_feature_reaches_is_present_and_bounded() -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    weight[3] = weight[1] / 2  # wherever 3 rises, 1 rises more
    head = head_of(weight, torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0]))
    features, labels = embeddings(max_draws=40).embeddings(head)
    assert torch.equal(labels.bincount(), torch.full((5,), 40))
    assert features[labels == 3].norm(dim=1).max() < 4 * 16**0.5
    zeros = head_of(torch.zeros(3, 8), torch.tensor([1.0, 0.0, 0.0]))
    features, labels = embeddings(forget=(0,), max_draws=40).embeddings(zeros)
    assert features.isfinite().all()
    assert torch.equal(labels.bincount(), torch.full((3,), 40))


def test_terms_are_the_documented_formula_on_features_of_the_seed(lab: Lab) -> None:
    def drawn(seed: int, rank: int) -> Tensor:
        torch.manual_seed(rank)  # the global state must not matter
        method = embeddings(seed=seed, steps=3)
        lab.prepared(method)
        method.batches.shard(rank, 2)
        return torch.stack([batch.images for batch in method.batches])

    first = drawn(1, 0)
    assert first.shape == (3, 60, 8)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, drawn(1, 1))
    assert not torch.equal(first, drawn(2, 0))
    method = embeddings(retain_weight=0.3)
    (batch, *_) = lab.prepared(method)
    forgotten = np.isin(batch.labels.numpy(), GONE)
    head = lab.kit.classifier.head
    move_head(method)
    before, now = (
        (h.weight @ batch.images.T).T.detach().double().numpy() + h.bias.detach().double().numpy()
        for h in (head, method.classifier.head)
    )
    loss = divergence(masked(before), now)
    expected = {"forget": loss[forgotten].mean(), "retain": 0.3 * loss[~forgotten].mean()}
    assert values(method.loss_terms(batch)) == pytest.approx(expected, rel=1e-4)


def test_the_head_alone_is_trained_and_forgets(lab: Lab) -> None:
    lab.kit.generator = lab.kit.prompts = None  # weights are enough
    decaying = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    for law in ("normal", "rectified"):
        method = embeddings(law=law, steps=60, optimizer=decaying)
        result = lab.run(method)
        assert same_but_the_head(result, lab.kit.classifier)
        p = result.head(next(iter(method.batches)).images).softmax(dim=1)
        assert p[:, GONE].sum(dim=1).mean() < 0.2
        assert lab.own_probability(result)[1] > 0.6
