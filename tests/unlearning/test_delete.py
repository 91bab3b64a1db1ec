"""DELETE: which classes the target leaves out, 16 bits, and what it reads."""

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
from geniu_lightning.unlearning.delete import Delete
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, marked

TrainerOf = Callable[[int], Trainer]


class Answers(nn.Module):
    """Says the same of every batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def on_logits(original: Tensor, forget: tuple[int, ...] = (1, 3)) -> Delete:
    """The method with a classifier that passes its images on as logits."""
    method = Delete(forget=forget)
    method.teacher = Teacher(Answers(original))
    return method


def test_the_term_is_the_documented_formula_and_masks_every_forgotten_class() -> None:
    torch.manual_seed(2)
    original, logits = 3 * torch.randn(4, 5), 3 * torch.randn(4, 5)
    found = on_logits(original).loss_terms(marked(logits, torch.tensor([1, 3, 3, 1]), (1, 3)))
    values = []
    for before, z in zip(original.double().numpy(), logits.double().numpy(), strict=True):
        target = np.zeros(5)
        target[[0, 2, 4]] = softmax(before[[0, 2, 4]])
        values.append(rel_entr(target, softmax(z)).sum())
    assert found.keys() == {"forget"}
    assert found["forget"].item() == pytest.approx(np.mean(values), rel=1e-5)


def test_forgotten_images_are_not_handed_to_another_forgotten_class() -> None:
    # to the original, an image of class 1 looks like class 3 first of all
    original = torch.tensor([[0.0, 9.0, 0.0, 8.0]])
    logits = torch.zeros(1, 4, requires_grad=True)
    on_logits(original).loss_terms(marked(logits, torch.tensor([1]), (1, 3)))["forget"].backward()
    assert logits.grad is not None
    assert (logits.grad[0, [1, 3]] > 0).all()  # a step lowers both
    assert (logits.grad[0, [0, 2]] < 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_and_its_gradient_are_finite_in_16_bits(dtype: torch.dtype) -> None:
    original = torch.tensor([[60.0, 300.0, -250.0, 280.0]], dtype=dtype)
    logits = original.clone().requires_grad_(True)
    loss = on_logits(original).loss_terms(marked(logits, torch.tensor([1]), (1, 3)))["forget"]
    loss.backward()
    assert loss.item() == pytest.approx(240, rel=0.01)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_a_run_in_bf16_stays_finite(kit: Kit, archive: Any) -> None:
    def trainer(steps: int) -> Trainer:
        return Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            precision="bf16-mixed",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    method = Delete(forget=(1, 3), steps=3, optimizer=partial(torch.optim.SGD, lr=0.01))
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer)
    assert all(tensor.isfinite().all() for tensor in result.state_dict().values())


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_twenty_steps_forget_and_keep_without_a_retained_image(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    settings: dict[str, Any] = {
        "steps": 20,
        "optimizer": partial(torch.optim.SGD, lr=0.03),
        "batch_size": 18,
        "max_gradient_norm": 1.0,
    }
    method = Delete(forget=(1, 3), source=source, **settings)
    result = method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    right = result(archive.images).argmax(dim=1) == archive.labels
    assert right[gone].float().mean() < 0.3
    assert right[~gone].float().mean() > 0.75
    assert {split for split, *_ in archive.opened} == ({"forget"} if source == "data" else set())
    assert method.access == (Access.FORGET if source == "data" else Access.NONE)


@pytest.mark.parametrize("source", ["noise", "mix"])
def test_inputs_without_a_class_are_refused(source: str) -> None:
    with pytest.raises(
        UserError, match=f"unlearner.source must be one of data, proxies, got '{source}'"
    ):
        Delete(forget=(1,), source=source)
