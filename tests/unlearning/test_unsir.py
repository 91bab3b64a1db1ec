"""UNSIR: which noise stands beside which images, what it minimises, and what it does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.sources import Access, marked
from geniu_lightning.unlearning.unsir import Unsir

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)


def unsir(**settings: Any) -> Unsir:
    defaults = {
        "forget": (1, 3),
        "impair_steps": 15,
        "repair_steps": 5,
        "optimizer": adam,
        "max_gradient_norm": 1.0,
        "noise_images": 8,
        "noise_steps": 20,
        "batch_size": 9,
    }
    return Unsir(**defaults | settings)


def own_probability(network: nn.Module, archive: Any) -> Tensor:
    """Mean probability of each class's own name on its training images."""
    p = network(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
    return torch.stack([p[archive.labels == k].mean() for k in range(5)])


def test_each_side_has_its_own_mean() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(7, 5), torch.tensor([1, 0, 3, 4, 1, 2, 0])
    method = unsir()
    method.classifier = nn.Identity()
    terms = method.loss_terms(marked(logits, labels, (1, 3)))
    error = -log_softmax(logits.double().numpy(), axis=1)[np.arange(7), labels.numpy()]
    assert terms["noise"].item() == pytest.approx(error[[0, 2, 4]].mean(), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(error[[1, 3, 5, 6]].mean(), rel=1e-5)


def test_repair_has_the_retained_term_alone_and_it_has_a_gradient() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    method = unsir()
    method.classifier = nn.Identity()
    terms = method.loss_terms(marked(logits, torch.tensor([0, 2, 4]), (1, 3)))
    assert terms.keys() == {"retain"}
    terms["retain"].backward()
    assert logits.grad.ne(0).all()


def test_impair_has_different_noise_of_both_classes_beside_retained_images(
    kit: Kit, archive: Any
) -> None:
    method = unsir(impair_steps=4, repair_steps=2)
    method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    batches = list(method.batches)
    assert len(batches) == 6
    for batch in batches[:4]:
        noise, images = batch.images[batch.forget], batch.images[~batch.forget]
        assert batch.labels[batch.forget].bincount().tolist() == [0, 4, 0, 4]  # its own class
        assert len(noise.unique(dim=0)) == 8
        assert len(images) == 9
        p = kit.classifier(noise).softmax(dim=1).gather(1, batch.labels[batch.forget][:, None])
        assert (p < 0.5).all()
    for batch in batches[4:]:
        assert not batch.forget.any()
        assert len(batch.images) == 9
    every = torch.cat([batch.images[batch.forget] for batch in batches])
    assert len(every.unique(dim=0)) == 2 * 8
    assert not {1, 3} & set(archive.read)


def test_repair_goes_on_reading_where_impair_left_off(kit: Kit, archive: Any) -> None:
    method = unsir(impair_steps=2, repair_steps=1)
    method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    images = torch.cat([batch.images[~batch.forget] for batch in method.batches])
    assert len(images.unique(dim=0)) == 27  # every retained image once


def test_the_restricted_form_takes_retained_proxies_and_reads_nothing(
    kit: Kit, archive: Any
) -> None:
    method = unsir(source="proxies")
    assert method.access is Access.NONE
    method.prepare(kit, archive.sources(Access.NONE, (1, 3)))
    wanted = kit.info.spec.normalise(kit.proxies([0, 2, 4]).images)
    for batch in method.batches:
        assert torch.equal(batch.images[~batch.forget], wanted)
    assert archive.opened == []


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_twenty_steps_lower_the_forgotten_classes_and_keep_the_others(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    method = unsir(source=source)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    before, after = own_probability(kit.classifier, archive), own_probability(result, archive)
    assert after[[1, 3]].mean() < before[[1, 3]].mean() / 2
    assert after[[0, 2, 4]].mean() > before[[0, 2, 4]].mean() - 0.1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"noise_images": 0}, "unlearner.noise_images must be at least 1, got 0"),
        ({"noise_rate": float("nan")}, "unlearner.noise_rate must be positive and finite, got nan"),
        ({"source": "noise"}, "unlearner.source must be one of data, proxies, got 'noise'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        unsir(**settings)
