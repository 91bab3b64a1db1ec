"""Fine-tuning: cross-entropy on what is kept, and nothing else is read."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.sources import Access, marked

TrainerOf = Callable[[int], Trainer]


def test_the_term_is_the_cross_entropy_of_retained_images_alone() -> None:
    torch.manual_seed(1)
    logits, labels = 3 * torch.randn(5, 5), torch.tensor([1, 0, 3, 4, 2])
    (name, term), *more = FineTune(forget=(1, 3)).loss_terms(marked(logits, labels, (1, 3))).items()
    log_p = log_softmax(logits.double().numpy(), axis=1)
    assert (name, more) == ("retain", [])
    assert term.item() == pytest.approx(-np.mean([log_p[1, 0], log_p[3, 4], log_p[4, 2]]), rel=1e-5)


@pytest.mark.parametrize(("source", "access"), [("data", Access.RETAIN), ("proxies", Access.NONE)])
def test_twenty_steps_fit_what_is_kept_and_read_nothing_else(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str, access: Access
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    method = FineTune(forget=(1, 3), steps=20, optimizer=sgd, batch_size=9, source=source)
    result = method.run(kit, archive.sources(access, (1, 3)), trainer_of)
    assert method.access == access
    assert set(archive.read) == ({0, 2, 4} if access else set())
    kept = ~torch.isin(archive.labels, torch.tensor([1, 3]))
    before, after = (
        torch.nn.functional.cross_entropy(n(archive.images[kept]), archive.labels[kept])
        for n in (kit.classifier, result)
    )
    assert not torch.equal(kit.classifier.head.weight, result.head.weight)
    assert source == "proxies" or after < before


def test_twenty_steps_on_proxies_fit_the_retained_proxies(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    method = FineTune(forget=(1, 3), steps=20, optimizer=sgd, source="proxies")
    result = method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
    proxies = kit.proxies([0, 2, 4])
    images = kit.info.spec.normalise(proxies.images)
    before, after = (
        torch.nn.functional.cross_entropy(n(images), proxies.labels)
        for n in (kit.classifier, result)
    )
    assert after < before
