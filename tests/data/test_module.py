from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from geniu_lightning.data import imbalance
from geniu_lightning.data.loader import Batch
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits, HubSet
from geniu_lightning.errors import UserError

Make = Callable[..., ImageData]
LOCAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One decoded set of digits for the tests of this file."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def make(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("GENIU_CACHE", str(caches))
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
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)
    data.setup("fit")
    return data


def set_of(data: ImageData, which: str) -> set[int]:
    return set(data.indices(which).tolist())


STEP = partial(imbalance.step, majority=[0, 3], ratio=0.2)


def test_forget_and_retain_divide_the_training_images(make: Make) -> None:
    data = make(imbalance=STEP, validation=0.1)
    for forget in ([4], [0, 9], [], range(10)):
        data.set_forget(forget)
        gone, kept = set_of(data, "forget"), set_of(data, "retain")
        assert not gone & kept
        assert gone | kept == set_of(data, "train")
        assert set(data.labels("forget").tolist()) == set(forget)
        assert set(data.labels("retain").tolist()) == set(range(10)) - set(forget)


def test_class_counts_are_those_that_imbalance_and_validation_leave(make: Make) -> None:
    whole = make().class_counts
    assert sum(whole) == 1442
    counts = make(imbalance=STEP, validation=0.25).class_counts
    for k, (count, size) in enumerate(zip(counts, whole, strict=True)):
        kept = size if k in (0, 3) else round(0.2 * size)
        assert count == kept - round(0.25 * kept)


def test_the_test_set_is_untouched_by_imbalance_and_validation(make: Make) -> None:
    data = make(imbalance=STEP, validation=0.25, pad=2, flip=True)
    test = Digits().read("test")
    assert data.labels("test").tolist() == list(test.labels)
    pixels = np.stack([np.asarray(image) for image in test.images])[:, None] / np.float32(255)
    read = data.read("test", data.indices("test"))
    np.testing.assert_array_equal(read.numpy(), pixels)
    loader = data.loader("test", batch_size=50)
    batches = list(loader)
    torch.testing.assert_close(torch.cat([b.images for b in batches]), read * 2 - 1)
    assert torch.cat([b.labels for b in batches]).tolist() == list(test.labels)


def test_validation_is_cut_from_training_images_alone(make: Make) -> None:
    whole, data = make(imbalance=STEP), make(imbalance=STEP, validation=0.25)
    train, held = set_of(data, "train"), set_of(data, "validation")
    assert held
    assert not train & held
    assert train | held == set_of(whole, "train")
    data.set_forget([0])
    assert not held & (set_of(data, "forget") | set_of(data, "retain"))
    # the pixels, too, are those of the training file
    pictures = Digits().read("train")
    pixels = np.stack([np.asarray(image) for image in pictures.images])[:, None]
    batch = next(iter(data.loader("validation", batch_size=1000)))
    wanted = torch.from_numpy(pixels)[data.indices("validation")].float() / 127.5 - 1
    torch.testing.assert_close(batch.images, wanted)
    assert batch.labels.tolist() == [pictures.labels[i] for i in data.indices("validation")]


def test_training_seed_does_not_decide_which_images_are_trained_on(make: Make) -> None:
    one, two = (make(imbalance=STEP, validation=0.2, seed=seed) for seed in (0, 1))
    for which in ("train", "validation", "test"):
        assert torch.equal(one.indices(which), two.indices(which))
    first, second = (next(iter(attach(data).train_dataloader())) for data in (one, two))
    assert not torch.equal(first.indices, second.indices)


def test_the_gate_counts_every_read_by_its_split(make: Make) -> None:
    data = make(validation=0.1)
    data.set_forget([3])
    assert data.reads == {}
    data.labels("train")
    assert data.class_counts
    assert data.reads == {}
    counts = {which: len(data.indices(which)) for which in ("validation", "test", "forget")}
    for which in counts:
        for _ in data.loader(which, batch_size=16):
            pass
    assert data.reads == counts
    next(iter(data.loader("retain", seed=1, batch_size=8)))
    data.read("train", torch.tensor([5, 5, 6]))
    data.exemplars(torch.tensor([0, 1]))
    assert data.reads == counts | {"retain": 8, "train": 5}


def test_reading_gives_floats_in_zero_to_one_and_leaves_the_file_as_it_is(make: Make) -> None:
    data = make()
    where = data.indices("train")[:20]
    first = data.read("train", where)
    assert (first.dtype, first.shape) == (torch.float32, (20, 1, 8, 8))
    assert (float(first.min()), float(first.max())) == (0.0, 1.0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(data.read("train", where), kept)
    assert torch.equal(data.exemplars(where), kept)


def test_batches_are_normalised_and_labelled(make: Make) -> None:
    data = make(mean=0.2, std=0.4, channels=3)
    batch = next(iter(data.loader("train", seed=3)))
    assert batch.images.shape == (63, 3, 8, 8)  # 1442 images in 23 batches of at most 64
    torch.testing.assert_close(
        batch.images, (data.read("train", batch.indices) - 0.2) / 0.4, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(batch.labels, data.all_labels[batch.indices])
    lowest, highest = float(batch.images.min()), float(batch.images.max())
    assert (lowest, highest) == pytest.approx((-0.5, 2.0))


def test_training_batches_are_augmented_and_evaluation_is_not(make: Make) -> None:
    data = make(pad=2, flip=True)

    def differ(batch: Batch) -> float:
        plain = data.spec.normalise(data.read("train", batch.indices))
        return (batch.images != plain).flatten(1).any(1).float().mean().item()

    assert differ(next(iter(data.loader("train", seed=1)))) > 0.9
    assert differ(next(iter(data.loader("train")))) == 0.0
    again = [next(iter(data.loader("train", seed=1))).images for _ in range(2)]
    assert torch.equal(*again)


def test_each_batch_is_augmented_with_the_seed_that_the_loader_gives_it(make: Make) -> None:
    loader = make(pad=2, flip=True).loader("train", seed=1)
    same = torch.arange(20)
    first, again, other = (loader.read(same, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_black_comes_in_where_an_image_was_shifted_from(make: Make) -> None:
    # augmented before it is normalised: black is -1; 0 would be grey, which no pixel is exactly
    batch = next(iter(make(pad=8).loader("train", seed=1)))
    assert float(batch.images.min()) == -1.0
    assert (batch.images != 0.0).all()


def test_ranks_share_the_training_and_validation_batches(make: Make) -> None:
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


def test_a_training_batch_too_small_for_the_processes_is_refused(make: Make) -> None:
    data = attach(make(batch_size=4), rank=0, world=4)
    with pytest.raises(UserError, match=r"^1442 images in batches of 4 are too few for 4 process"):
        data.train_dataloader()
    with pytest.raises(UserError, match=r"^training\.batch_size must be at least 2, got 1$"):
        make(batch_size=1)


def test_validating_without_validation_images_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="there are no images to read"):
        attach(make()).val_dataloader()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"channels": 2}, "data.channels must be 1 or 3, got 2"),
        ({"image_size": 0}, "data.image_size must be at least 1, got 0"),
        ({"pad": -1}, "data.pad must be at least 0, got -1"),
        ({"validation": 1.0}, "data.validation must lie in [0, 1), got 1.0"),
        (
            {"mean": [0.1, 0.2]},
            "data.mean and data.std must be one value or 1, data.std above 0;"
            " got [0.1, 0.2] and 0.5",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    make: Make, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        make(**settings)
    assert str(error.value) == sentence


def test_name_and_root_reach_the_source(make: Make) -> None:
    given: list[dict[str, Any]] = []

    def source(**settings: Any) -> Digits:
        given.append(settings)
        return Digits()

    assert make(source=source, name="mine", root="there").name == "mine"
    assert given == [{"name": "mine", "root": "there"}]


class Linear(pl.LightningModule):
    """Counts the images that it validates on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.trained: list[int] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.trained += batch.indices.tolist()
        return F.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)

    def on_validation_epoch_start(self) -> None:
        self.validated.append([])

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated[-1] += batch.indices.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: ImageData, sanity: int) -> Linear:
    model = Linear()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    return model


def test_lightning_trains_and_validates_on_every_image_once_an_epoch(make: Make) -> None:
    data = make(validation=0.2, batch_size=128)
    model = fit(data, sanity=0)
    assert model.validated == [data.indices("validation").tolist()] * 2
    assert sorted(model.trained) == sorted(data.indices("train").tolist() * 2)


def test_lightnings_sanity_check_does_not_shorten_the_first_validation(make: Make) -> None:
    data = make(validation=0.2, batch_size=128)
    assert fit(data, sanity=2).validated[1:] == [data.indices("validation").tolist()] * 2


@pytest.mark.skipif(
    not (LOCAL / "kmnist_subset").is_dir(), reason=f"there is no kmnist_subset in {LOCAL}"
)
def test_a_local_copy_of_a_set_of_the_hub_has_its_published_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data = ImageData(
        name="kmnist_subset",
        root=str(LOCAL),
        source=partial(HubSet, hub_id="tanganke/kmnist"),
        image_size=28,
        channels=1,
        imbalance=STEP,
        cache_folder=str(tmp_path / "caches"),
    )
    assert len(data.names) == 10
    assert data.all_labels.bincount().tolist() == [800] * 10
    assert data.labels("test").bincount().tolist() == [200] * 10
    assert data.class_counts == [800 if k in (0, 3) else 160 for k in range(10)]
    assert data.read("test", data.indices("test")[:5]).shape == (5, 1, 28, 28)
