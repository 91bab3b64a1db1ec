from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from geniu_lightning.data import imbalance
from geniu_lightning.data.loader import Batch
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits, HubSet
from geniu_lightning.errors import SettingError, UserError

Make = Callable[..., ImageData]
STEP = partial(imbalance.step, majority=[0, 3], ratio=0.2)


@pytest.fixture(scope="module")
def make() -> Make:
    """Make a data module of digits, which are decoded once."""
    fixed: dict[str, Any] = {
        "name": "digits",
        "source": Digits,
        "image_size": 8,
        "channels": 1,
        "imbalance": imbalance.none,
    }
    return lambda **settings: ImageData(**(fixed | settings))


def attach(data: ImageData, rank: int = 0, world: int = 1) -> ImageData:
    """Stand in for Lightning, which sets the trainer."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)  # type: ignore[assignment]
    data.setup("fit")
    return data


def set_of(data: ImageData, which: str) -> set[int]:
    return set(data.indices(which).tolist())


def test_splits_divide_the_images(make: Make) -> None:
    whole, data = make(imbalance=STEP), make(imbalance=STEP, validation=0.25)
    train, held = set_of(data, "train"), set_of(data, "validation")
    # the training seed decides the order, and not which images are trained on
    other = make(imbalance=STEP, validation=0.25, seed=1)
    assert torch.equal(other.indices("train"), data.indices("train"))
    first, second = (next(iter(one.train_dataloader())).indices for one in (data, other))
    assert not torch.equal(first, second)
    assert held
    assert not train & held
    assert train | held == set_of(whole, "train")
    for forget in ([4], [0, 9], [], range(10)):
        data.set_forget(forget)
        assert not set_of(data, "forget") & set_of(data, "retain")
        assert set_of(data, "forget") | set_of(data, "retain") == train
        assert set(data.labels("forget").tolist()) == set(forget)
        assert set(data.labels("retain").tolist()) == set(range(10)) - set(forget)
    full = make().class_counts
    assert sum(full) == 1442
    few = torch.cat([batch.labels for batch in data.loader("train", seed=1, limit=50)])
    assert few.bincount().tolist() == [5] * 10
    for k, (count, size) in enumerate(zip(data.class_counts, full, strict=True)):
        kept = size if k in (0, 3) else round(0.2 * size)
        assert count == kept - round(0.25 * kept)


def test_evaluation_batches_are_the_normalised_pictures_in_order(make: Make) -> None:
    data = make(imbalance=STEP, validation=0.25, pad=2, flip=True)
    assert data.indices("test").tolist() == list(range(355))
    for split, file in (("test", "test"), ("validation", "train")):
        pictures, where = Digits().read(file), data.indices(split)
        pixels = np.stack([np.asarray(pictures.image(k)) for k in range(len(pictures.labels))])[
            :, None
        ]
        batches = list(data.loader(split, batch_size=50))
        found = torch.cat([batch.images for batch in batches])
        torch.testing.assert_close(found, torch.from_numpy(pixels)[where].float() / 127.5 - 1)
        labels = torch.cat([batch.labels for batch in batches])
        wanted = [pictures.labels[i] for i in where]
        assert labels.tolist() == data.labels(split).tolist() == wanted


def test_the_gate_counts_every_read_by_its_split_and_leaves_the_file_as_it_is(make: Make) -> None:
    data = make(validation=0.1)
    data.set_forget([3])
    assert data.class_counts
    assert data.reads == {}
    counts = {which: len(data.indices(which)) for which in ("validation", "test", "forget")}
    for which in counts:
        assert list(data.loader(which, batch_size=16))
    next(iter(data.loader("retain", seed=1, batch_size=8)))
    first = data.read("train", torch.tensor([5, 5, 6]))
    assert (first.dtype, float(first.min()), float(first.max())) == (torch.float32, 0.0, 1.0)
    before = first.clone()
    first.zero_()
    assert torch.equal(data.read("train", torch.tensor([5, 6])), before[1:])
    assert data.reads == counts | {"retain": 8, "train": 5}


def test_training_batches_are_augmented_in_the_images_range_then_normalised(make: Make) -> None:
    data = make(mean=0.2, std=0.4, channels=3, pad=2, flip=True)

    def differ(batch: Batch) -> float:
        plain = (data.read("train", batch.indices) - 0.2) / 0.4
        return (batch.images - plain).abs().gt(1e-5).flatten(1).any(1).float().mean().item()

    batch, again = (next(iter(data.loader("train", seed=1))) for _ in range(2))
    assert batch.images.shape == (63, 3, 8, 8)  # 1442 images in 23 batches of at most 64
    assert torch.equal(batch.labels, data.all_labels[batch.indices])
    assert torch.equal(batch.images, again.images)
    assert differ(batch) > 0.9
    assert differ(next(iter(data.loader("train")))) == 0.0
    same = torch.arange(20)
    first, second, other = (data.loader("train", seed=1).read(same, s)[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    # black comes in: -0.5 after normalisation; 0 would be a grey that no pixel has
    shifted = next(iter(make(mean=0.2, std=0.4, pad=8).loader("train", seed=1))).images
    assert float(shifted.min()) == pytest.approx(-0.5)
    assert (shifted != 0.0).all()


def test_ranks_share_the_batches_of_every_hook(make: Make) -> None:
    for hook in ("train_dataloader", "val_dataloader"):
        settings = {"validation": 0.2, "batch_size": 32, "seed": 5, "pad": 1}
        alone, *ranks = (
            getattr(attach(make(**settings), rank, world), hook)()
            for rank, world in ((0, 1), (0, 2), (1, 2))
        )
        for whole, *shares in zip(alone, *ranks, strict=True):
            parts = torch.cat([share.indices for share in shares])
            assert sorted(parts.tolist()) == sorted(whole.indices.tolist())
            assert sum(share.weight for share in shares) == pytest.approx(2.0)
    with pytest.raises(UserError, match=r"^1442 images in batches of 4 are too few for 4 process"):
        attach(make(batch_size=4), rank=0, world=4).train_dataloader()
    with pytest.raises(UserError, match="there are no images to read"):
        attach(make()).val_dataloader()


def test_a_wrong_setting_is_named_with_its_group(make: Make) -> None:
    for settings, message in (
        ({"batch_size": 1}, "batch_size must be greater than or equal to 2"),
        ({"pad": 1000}, "pad must be at most image_size, "),
        ({"source": partial(HubSet, hub_id=3)}, "source.hub_id must be a string, got 3"),
        ({"imbalance": partial(imbalance.step, majority=0, ratio=2.0)}, "imbalance.ratio must be"),
    ):
        with pytest.raises(SettingError, match=f"^{message}"):
            make(**settings).setup()


def test_images_are_decoded_by_prepare_data_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path))
    given: list[dict[str, Any]] = []

    def source(**settings: Any) -> Digits:
        given.append(settings)
        return Digits()

    data = ImageData(
        name="mine",
        root="there",
        source=source,
        image_size=8,
        channels=1,
        imbalance=imbalance.none,
    )
    assert (data.name, given) == ("mine", [{"name": "mine", "root": "there"}])
    assert not list(tmp_path.iterdir())
    steps: list[tuple[str, int, int]] = []
    data.prepare_data(lambda *step: steps.append(step))
    assert steps == [("train", 1442, 1442), ("test", 355, 355)]
    data.setup()
    data.prepare_data(lambda *step: steps.append(step))
    assert len(steps) == 2
    assert (len(data.names), len(data.fingerprint)) == (10, 64)
