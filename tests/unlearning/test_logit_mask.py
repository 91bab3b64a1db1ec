"""Logit mask: it forbids the answer and leaves everything else as it was."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.logit_mask import LogitMask
from geniu_lightning.unlearning.sources import Access

FORGETS = [(0,), (2,), (1, 3)]


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("a mask needs no trainer")


def masked(kit: Kit, archive: Any, forget: tuple[int, ...]) -> nn.Module:
    return LogitMask(forget=forget).run(kit, archive.sources(Access.NONE, forget), no_trainer)


@pytest.fixture
def images(archive: Any) -> Tensor:
    """Return images of every class, and noise of every size: some predictions are errors."""
    noise = torch.randn(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.cat([archive.images, noise * torch.linspace(0.1, 1000, 60).view(-1, 1, 1, 1)])


@pytest.mark.parametrize("forget", FORGETS)
def test_a_forgotten_class_is_never_answered(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    gone = torch.tensor(forget)
    assert torch.isin(kit.classifier(images).argmax(dim=1), gone).any()  # it was, before
    assert not torch.isin(masked(kit, archive, forget)(images).argmax(dim=1), gone).any()


@pytest.mark.parametrize("forget", FORGETS)
def test_predictions_change_only_where_a_forgotten_class_was_answered(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    before, after = kit.classifier(images), masked(kit, archive, forget)(images)
    kept = torch.tensor([k for k in range(5) if k not in forget])
    assert torch.equal(after[:, kept], before[:, kept])
    was_kept = torch.isin(before.argmax(dim=1), kept)
    assert torch.equal(after.argmax(dim=1)[was_kept], before.argmax(dim=1)[was_kept])
    runner_up = kept[before[:, kept].argmax(dim=1)]
    assert torch.equal(after.argmax(dim=1), runner_up)


@pytest.mark.parametrize("forget", FORGETS)
def test_features_and_all_but_the_forgotten_rows_are_bitwise_the_same(
    kit: Kit, archive: Any, images: Tensor, forget: tuple[int, ...]
) -> None:
    result = masked(kit, archive, forget)
    assert torch.equal(result.features(images), kit.classifier.features(images))
    before, after = kit.classifier.state_dict(), result.state_dict()
    gone = list(forget)
    for name, old in before.items():
        if not name.startswith("head."):
            assert torch.equal(old, after[name]), name
    assert (after["head.weight"][gone] == 0).all()
    assert (after["head.bias"][gone] == -1e4).all()
    kept = [k for k in range(5) if k not in forget]
    for name in ("head.weight", "head.bias"):
        assert torch.equal(before[name][kept], after[name][kept])


def test_logits_and_the_loss_of_a_forgotten_label_stay_finite(
    kit: Kit, archive: Any, images: Tensor
) -> None:
    logits = masked(kit, archive, (1, 3))(images)
    assert logits.isfinite().all()
    for half in (logits, logits.half(), logits.bfloat16()):
        assert half.isfinite().all()
        assert half.log_softmax(dim=1).isfinite().all()
    assert F.cross_entropy(logits, torch.full((len(images),), 3)).isfinite()


def test_the_depth_of_the_mask_is_a_setting(kit: Kit, archive: Any) -> None:
    method = LogitMask(forget=(2,), offset=77.0)
    result = method.run(kit, archive.sources(Access.NONE, (2,)), no_trainer)
    assert result.head.bias[2] == -77.0
    assert method.steps == 0
