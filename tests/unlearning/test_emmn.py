"""EMMN: which noise it takes, what it minimises, and what twenty steps do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.emmn import Emmn
from geniu_lightning.unlearning.sources import Access, marked

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)


def emmn(**settings: Any) -> Emmn:
    defaults = {
        "forget": (1, 3),
        "impair_steps": 20,
        "optimizer": adam,
        "max_gradient_norm": 1.0,
        "images_per_class": 8,
        "noise_steps": 20,
        "batch_size": 20,
    }
    return Emmn(**defaults | settings)


def test_the_loss_is_the_mean_over_all_noise_labelled_with_its_class() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(6, 5), torch.tensor([1, 0, 3, 4, 1, 2])
    method = emmn()
    method.classifier = nn.Identity()
    terms = method.loss_terms(marked(logits, labels, (1, 3)))
    expected = -log_softmax(logits.double().numpy(), axis=1)[np.arange(6), labels.numpy()].mean()
    assert terms.keys() == {"noise"}
    assert terms["noise"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_batches_hold_different_noise_of_every_class_and_then_of_the_retained_alone(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    method = emmn(forget=forget, impair_steps=3, repair_steps=2)
    method.prepare(kit, archive.sources(Access.NONE, forget))
    batches = list(method.batches)
    kept = [k for k in range(5) if k not in forget]
    assert len(batches) == 5
    for batch in batches[:3]:
        counts = batch.labels.bincount(minlength=5)
        assert (counts == counts[0]).all()
        assert len(batch.images.unique(dim=0)) == len(batch.images)
    for batch in batches[3:]:
        assert sorted(batch.labels.unique().tolist()) == kept
        assert not batch.forget.any()
    everything = torch.cat([b.images for b in batches[:3]])
    assert len(everything.unique(dim=0)) == 5 * 8  # two batches are an epoch: all of it came
    assert archive.opened == []


def test_noise_is_wrong_about_forgotten_classes_and_right_about_the_others(
    kit: Kit, archive: Any
) -> None:
    method = emmn(noise_steps=60, images_per_class=4)
    method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
    (batch, *_) = method.batches
    p = kit.classifier(batch.images).softmax(dim=1).gather(1, batch.labels[:, None]).squeeze(1)
    assert (p[batch.forget] < 0.4).all(), p
    assert (p[~batch.forget] > 0.9).all(), p


def test_steps_fit_the_noise_of_every_class(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    method = emmn()
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    (batch, *_) = method.batches
    error = [
        nn.functional.cross_entropy(network(batch.images), batch.labels)
        for network in (kit.classifier, result)
    ]
    assert error[1] < error[0] / 2
    assert archive.opened == []


def test_sixty_steps_take_more_of_the_forgotten_classes_than_of_the_others(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = emmn(impair_steps=60)
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        n(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
        for n in (kit.classifier, result)
    )
    assert before.min() > 0.5
    assert after[gone].mean() < 0.4
    assert after[~gone].mean() > after[gone].mean() + 0.2


def test_no_steps_make_no_noise(kit: Kit, archive: Any, trainer_of: TrainerOf) -> None:
    method = emmn(impair_steps=0)
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    assert method.batches is None
    assert torch.equal(result.head.weight, kit.classifier.head.weight)


def test_it_reads_nothing_and_has_no_source_to_choose() -> None:
    assert emmn().access is Access.NONE
    with pytest.raises(TypeError, match="source"):
        emmn(source="data")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images_per_class": 0}, "unlearner.images_per_class must be at least 1, got 0"),
        ({"noise_steps": -1}, "unlearner.noise_steps must be at least 0, got -1"),
        ({"noise_rate": 0.0}, "unlearner.noise_rate must be positive and finite, got 0.0"),
        ({"penalty": -0.1}, "unlearner.penalty must be at least 0 and finite, got -0.1"),
        ({"batch_size": 1}, "unlearner.batch_size must be at least 2, got 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        emmn(**settings)
