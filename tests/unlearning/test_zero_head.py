"""Zero_head: rows of zeros, and centred ones."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.zero_head import ZeroHead
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


def zeroed(kit: Kit, archive: Any, forget: tuple[int, ...], **settings: Any) -> nn.Module:
    return run(ZeroHead(forget=forget, **settings), kit, archive, no_trainer)


def test_forget_rows_are_zero_and_win_where_every_retained_logit_is_negative(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    before = kit.classifier(images).numpy()
    for forget in FORGETS:
        result, rest = zeroed(kit, archive, forget), retained(forget)
        assert same_but_the_head(result, kit.classifier)
        for name in ("weight", "bias"):
            expected = getattr(kit.classifier.head, name).clone()
            expected[list(forget)] = 0
            assert torch.equal(getattr(result.head, name), expected)
        answers = result(images).argmax(dim=1).numpy()
        negative = before[:, rest].max(axis=1) < 0
        assert negative.any()
        assert not negative.all()
        assert np.isin(answers[negative], forget).all()
        best = np.array(rest)[before[:, rest].argmax(axis=1)]
        assert np.array_equal(answers[~negative], best[~negative])


def test_renormalised_it_is_the_logit_mask_in_every_answer(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    for forget in (*FORGETS, (1, 3, 4), (0, 1, 3, 4)):
        found, rest = zeroed(kit, archive, forget, renormalise=True), retained(forget)
        assert same_but_the_head(found, kit.classifier)
        mask = run(LogitMask(forget=forget), kit, archive, no_trainer)
        assert torch.equal(found(images).argmax(dim=1), mask(images).argmax(dim=1))
        if len(rest) > 1:
            rows = kit.classifier.head.weight.double().numpy()
            expected = np.zeros_like(rows)
            expected[rest] = rows[rest] - rows[rest].mean(axis=0)
            np.testing.assert_allclose(found.head.weight.numpy(), expected, atol=1e-6)
