"""Zero head: which rows it empties, that an empty row still answers, and when it does not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.zero_head import ZeroHead

FORGETS = [(0,), (2,), (1, 3)]


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("an empty row needs no trainer")


def zeroed(kit: Kit, archive: Any, forget: tuple[int, ...], **settings: Any) -> nn.Module:
    method = ZeroHead(forget=forget, **settings)
    return method.run(kit, archive.sources(Access.NONE, forget), no_trainer)


def kept_of(forget: tuple[int, ...]) -> list[int]:
    return [k for k in range(5) if k not in forget]


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, mixtures of two, and noise of every size."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = (archive.images[:-1] + archive.images[1:]) / 2
    loud = noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)
    return torch.cat([archive.images, mixed, loud])


@pytest.mark.parametrize("forget", FORGETS)
def test_forgotten_rows_are_zero_and_all_else_is_bitwise_the_same(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    after = zeroed(kit, archive, forget).state_dict()
    for name, old in kit.classifier.state_dict().items():
        if name.startswith("head."):
            assert old[list(forget)].all()
            old = old.clone()
            old[list(forget)] = 0
        assert torch.equal(after[name], old), name


@pytest.mark.parametrize("forget", FORGETS)
def test_a_forgotten_class_is_answered_just_where_every_retained_logit_is_negative(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    kept, before = kept_of(forget), kit.classifier(images).numpy()
    answers = zeroed(kit, archive, forget)(images).argmax(dim=1).numpy()
    negative = before[:, kept].max(axis=1) < 0
    assert negative.any()
    assert not negative.all()
    assert np.isin(answers[negative], forget).all()
    best = np.array(kept)[before[:, kept].argmax(axis=1)]
    assert np.array_equal(answers[~negative], best[~negative])


@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_it_hardly_hides_what_a_trained_network_says_of_the_forgotten_images(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    gone = torch.isin(archive.labels, torch.tensor(forget))
    answers = zeroed(kit, archive, forget)(archive.images[gone]).argmax(dim=1)
    assert torch.isin(answers, torch.tensor(forget)).float().mean() > 0.9


# ---- renormalised ----------------------------------------------------------------------------


@pytest.mark.parametrize("forget", FORGETS)
def test_retained_rows_are_centred_on_their_own_mean(
    kit: Kit, archive: Any, forget: tuple[int, ...]
) -> None:
    found = zeroed(kit, archive, forget, renormalise=True)
    kept, old = kept_of(forget), kit.classifier.state_dict()
    for name, tensor in found.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, old[name]), name
            continue
        rows = old[name].double().numpy()
        expected = np.zeros_like(rows)
        for k in kept:
            expected[k] = rows[k] - sum(rows[j] for j in kept) / len(kept)
        np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("forget", [*FORGETS, (1, 3, 4)])
def test_renormalised_it_is_the_logit_mask_in_every_answer(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    mask = LogitMask(forget=forget)
    masked = mask.run(kit, archive.sources(Access.NONE, forget), no_trainer)
    plain, centred = (zeroed(kit, archive, forget, renormalise=b) for b in (False, True))
    expected = masked(images).argmax(dim=1)
    assert torch.equal(centred(images).argmax(dim=1), expected)
    assert not torch.equal(plain(images).argmax(dim=1), expected)


def test_renormalised_a_single_retained_class_is_the_only_answer(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    answers = zeroed(kit, archive, (0, 1, 3, 4), renormalise=True)(images).argmax(dim=1)
    assert (answers == 2).all()


# ---- what it refuses -------------------------------------------------------------------------


def test_nothing_to_forget_is_refused() -> None:
    with pytest.raises(UserError, match="there is no class to forget"):
        ZeroHead(forget=())


def test_steps_are_refused(kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]) -> None:
    method = ZeroHead(forget=(1, 3), steps=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(UserError, match="ZeroHead has no batches: set its steps to 0"):
        method.run(kit, archive.sources(Access.NONE, (1, 3)), trainer_of)
