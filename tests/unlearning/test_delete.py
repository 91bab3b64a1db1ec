"""DELETE: the classes that its target masks, 16 bits, and what it forgets."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.delete import Delete
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    TrainerOf,
    own_probability,
    run,
)

LABELS = torch.tensor([1, 0, 3, 4, 1, 2])

FORGOTTEN = np.isin(LABELS.numpy(), GONE)


def logits(seed: int, rows: int = 6) -> tuple[Tensor, np.ndarray]:
    drawn = 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return drawn, drawn.double().numpy()


def masked(original: np.ndarray) -> np.ndarray:
    target = np.zeros_like(original)
    target[:, KEPT] = softmax(original[:, KEPT], axis=1)
    return target


def divergence(target: np.ndarray, now: np.ndarray) -> np.ndarray:
    return rel_entr(target, softmax(now, axis=1)).sum(axis=1)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def on_logits(method: Any, original: Tensor) -> Any:
    """Return a method whose classifier passes its inputs on as logits."""
    method.classifier = nn.Identity()
    method.teacher = lambda images: original
    return method


def test_delete_masks_every_forget_class_in_its_target() -> None:
    (original, before), (now, z) = logits(1), logits(2)
    method = on_logits(Delete(forget=GONE), original)
    found = values(method.loss_terms(labelled_batch(now, LABELS, GONE)))
    expected = divergence(masked(before), z)[FORGOTTEN].mean()
    assert found == pytest.approx({"forget": expected}, rel=1e-5)
    # to the original, an image of class 1 looks like class 3 first of all
    step = torch.zeros(1, 4, requires_grad=True)
    method = on_logits(Delete(forget=GONE), torch.tensor([[0.0, 9.0, 0.0, 8.0]]))
    method.loss_terms(labelled_batch(step, torch.tensor([1]), GONE))["forget"].backward()
    assert (step.grad[0, [1, 3]] > 0).all()  # both are lowered
    assert (step.grad[0, [0, 2]] < 0).all()


def test_delete_is_finite_in_16_bits() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        original = torch.tensor([[60.0, 300.0, -250.0, 280.0]], dtype=dtype)
        now = original.clone().requires_grad_(True)
        method = on_logits(Delete(forget=GONE), original)
        loss = method.loss_terms(labelled_batch(now, torch.tensor([1]), GONE))["forget"]
        loss.backward()
        assert loss.item() == pytest.approx(240, rel=0.01)
        assert now.grad.isfinite().all()
        assert now.grad.any()


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_delete_forgets_without_an_image_of_the_retain_set(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.03)
    settings: Any = {"steps": 20, "optimizer": sgd, "batch_size": 18, "max_gradient_norm": 1.0}
    method = Delete(forget=GONE, source=source, **settings)
    forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
    assert forget < 0.3
    assert retain > 0.75
    assert {split for split, *_ in archive.opened} == ({"forget"} if source == "data" else set())
