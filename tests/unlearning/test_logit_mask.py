"""Logit_mask: the answers that it forbids, and what stays."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_mask import LogitMask
from tests.unlearning.helpers import (
    GONE,
    no_trainer,
    run,
)

FORGETS = [(0,), (2,), GONE]


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:, None] + archive.images[None]).flatten(0, 1) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


def retained(forget: tuple[int, ...]) -> list[int]:
    return [k for k in range(5) if k not in forget]


def same_but_the_head(result: nn.Module, original: nn.Module) -> bool:
    after, before = result.state_dict(), original.state_dict()
    return all(torch.equal(after[k], t) for k, t in before.items() if not k.startswith("head."))


def test_a_forget_class_is_never_answered_and_all_else_is_the_same(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images)
    for forget in FORGETS:
        result = run(LogitMask(forget=forget), kit, archive, no_trainer)
        assert same_but_the_head(result, kit.classifier)
        assert torch.isin(before.argmax(dim=1), torch.tensor(forget)).any()  # answered before
        after, rest = result(images), torch.tensor(retained(forget))
        assert torch.equal(after[:, rest], before[:, rest])
        assert torch.equal(after.argmax(dim=1), rest[before[:, rest].argmax(dim=1)])
        assert (result.head.weight[list(forget)] == 0).all()
        assert (result.head.bias[list(forget)] == -1e4).all()
        for half in (after, after.half(), after.bfloat16()):
            assert half.log_softmax(dim=1).isfinite().all()
        assert F.cross_entropy(after, torch.full((len(images),), forget[0])).isfinite()
    shallow = run(LogitMask(forget=(2,), offset=77.0), kit, archive, no_trainer)
    assert shallow.head.bias[2] == -77.0
