"""Distributions of a kit: what is drawn, what a deletion leaves, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import Kit
from tests.kit.small_kits import content, forge, make_kit, with_distribution

LABELS = torch.tensor([0, 2, 2, 1])


def draw(kit: Kit, labels: torch.Tensor = LABELS, seed: int = 1) -> torch.Tensor:
    assert kit.distribution is not None
    return kit.distribution.draw(labels, torch.Generator().manual_seed(seed))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "kit.safetensors"
    with_distribution(make_kit()).save(path)
    return path


def test_what_is_read_draws_what_was_written(saved: Path) -> None:
    written, read = with_distribution(make_kit()), Kit.load(saved)
    written.distribution.decoder.load_state_dict(read.distribution.decoder.state_dict())
    assert read.info.contents == ("prompts", "distribution")
    images = draw(read)
    assert torch.equal(images, draw(written))
    assert not torch.equal(images, draw(read, seed=2))
    assert (images.shape, images.dtype) == ((4, 1, 16, 16), torch.float32)
    assert 0 <= images.min() <= images.max() <= 1


def test_samples_come_in_batches_as_training_had_them(saved: Path) -> None:
    kit = Kit.load(saved)
    loader = kit.sample_loader([2, 0], [6, 3], batch_size=3, seed=5)
    first, second = ([*loader] for _ in range(2))
    assert sorted(torch.cat([b.labels for b in first]).tolist()) == [0] * 3 + [2] * 6
    drawn = torch.cat([b.images for b in (*first, *second)])
    assert len(drawn.flatten(1).unique(dim=0)) == 18
    again = kit.sample_loader([2, 0], [6, 3], batch_size=3, seed=5)
    assert all(torch.equal(a.images, b.images) for a, b in zip(again, first, strict=True))
    spread = kit.info.spec.restore(first[0].images)
    assert 0 <= spread.min() <= spread.max() <= 1.0001
    with pytest.raises(KitError, match="kit=distribution"):
        make_kit().sample_loader([0], [1], 2, 0)


def test_a_class_is_deleted_by_leaving_its_mixture_out(saved: Path, tmp_path: Path) -> None:
    kit = Kit.load(saved)
    assert kit.distribution is not None
    assert kit.info.distribution is not None
    described = kit.info.distribution.without((1,))
    info = replace(kit.info, generator=None, forgotten=(1,), distribution=described)
    left = kit.distribution.without([1])
    Kit(kit.classifier, info, distribution=left).save(tmp_path / "left.safetensors")
    _, before = content(saved)
    _, after = content(tmp_path / "left.safetensors")
    gone = {f"distribution.1.{name}" for name in ("weights", "means", "factors")}
    held = {k for k in before if k.startswith(("distribution.", "decoder."))}
    assert held - gone == {k for k in after if not k.startswith("classifier.")}
    assert all(before[name] == after[name] for name in after)
    again = Kit.load(tmp_path / "left.safetensors")
    with pytest.raises(KitError, match="no distribution"):
        draw(again)
    with pytest.raises(KitError, match=r"no distribution of 1 \(dog\)"):
        again.sample_loader([0, 1], [1, 1], 2, 0)


FACTORS = torch.eye(8).repeat(2, 1, 1).half()
MEANS = [f"distribution.{k}.means" for k in range(3)]


@pytest.mark.parametrize(
    ("changed", "more", "said"),
    [
        ({}, {"distribution.2.means": None}, "not those that it describes"),
        ({}, {"distribution.7.means": FACTORS[0]}, "belongs to no part"),
        ({}, {"distribution.2.factors": FACTORS[:1]}, "do not fit each other"),
        ({}, {"distribution.2.factors": FACTORS * torch.inf}, "not finite"),
        (
            {},
            {f"distribution.{k}.means": FACTORS[:, 0, :5].contiguous() for k in range(3)},
            "does not do for",
        ),
        ({}, {"decoder.to_image.bias": None}, "do not fit the network"),
        ({"distribution": None}, {}, "belongs to no part"),
        ({"forgotten": [1]}, {}, "classes that remain"),
        ({"distribution": {"classes": [0]}}, {}, "decoder"),
    ],
)
def test_a_forged_distribution_is_refused_in_a_sentence(
    saved: Path, tmp_path: Path, changed: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    forge(tmp_path / "forged.safetensors", saved, changed, more)
    with pytest.raises(KitError, match=said) as caught:
        Kit.load(tmp_path / "forged.safetensors")
    assert len(str(caught.value)) < 400
