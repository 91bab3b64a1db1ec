"""GENIU's tuning: the one batch of all proxies, and what may take their place."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning import geniu as module
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.geniu import Geniu
from tests.unlearning.helpers import GONE, Lab


def geniu(**settings: Any) -> Geniu:
    adam = partial(torch.optim.Adam, lr=3e-3)
    defaults = {"forget": GONE, "steps": 20, "optimizer": adam, "max_gradient_norm": 1.0}
    return Geniu(**defaults | settings)


def test_every_step_takes_all_proxies_in_one_batch_decoded_once(lab: Lab) -> None:
    decoded: list[int] = []
    lab.kit.generator.register_forward_hook(lambda *_: decoded.append(1))
    for per_class in (None, 1):
        proxies = lab.kit.proxies(per_class=per_class)
        images = lab.kit.info.spec.normalise(proxies.images)
        assert len(images) == 5 * (per_class or 2)
        seen: list[UnlearnBatch] = []
        method = geniu(steps=4, proxies_per_class=per_class)
        terms = method.loss_terms
        method.loss_terms = lambda batch, terms=terms, seen=seen: seen.append(batch) or terms(batch)
        decoded.clear()
        lab.run(method)
        assert len(decoded) == 1
        assert len(seen) == 4
        for batch in seen:
            assert torch.equal(batch.images, images)
            assert torch.equal(batch.labels, proxies.labels)
            assert torch.equal(batch.forget, torch.isin(proxies.labels, torch.tensor(GONE)))


def test_prompts_and_decoded_noise_take_the_place_of_proxies(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch, *_) = lab.prepared(geniu(proxy="prompt", proxies_per_class=1))
    assert torch.equal(batch.images, lab.kit.prompts[:, 0])
    assert batch.labels.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(module, "NOISE_DRAWS", 40)
    method = geniu(proxy="decoded_noise")
    labels = iter(range(10**6))

    def every_class(images: Tensor) -> Tensor:  # draw i is labelled i mod 5
        return torch.eye(5)[torch.tensor([next(labels) % 5 for _ in images])]

    method.teacher = every_class
    torch.manual_seed(0)
    batch = method.all_proxies(lab.kit)
    assert batch.labels.tolist() == [k for k in range(5) for _ in range(2)]
    torch.manual_seed(0)
    expected = lab.kit.info.spec.normalise(lab.kit.decode(torch.randn(200, 1, 16, 16)[:10]))
    order = [k + 5 * i for k in range(5) for i in range(2)]
    torch.testing.assert_close(batch.images, expected[order], rtol=1e-4, atol=1e-4)
    for answer, side in ((1, "retained"), (0, "forget")):
        method.teacher = lambda images, k=answer: torch.eye(5)[[k]].expand(len(images), 5)
        with pytest.raises(UserError, match=f"classifies none as a {side} class"):
            method.all_proxies(lab.kit)
