"""DELETE: the classes that its target masks, 16 bits, and what it forgets."""

import pytest
import torch

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.delete import Delete
from tests.unlearning.helpers import (
    FORGOTTEN,
    GONE,
    LABELS,
    divergence,
    logits,
    masked,
    on_logits,
    values,
)


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
