import hashlib
import io
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, new

from geniu_lightning.data import cache
from geniu_lightning.data.map_dataset import MapDataset
from geniu_lightning.data.pixels import Form
from geniu_lightning.data.sources import Digits, HubSet, ImageFolder, Pictures
from geniu_lightning.errors import DataNotFoundError, UserError


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for each test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "caches"))


def paint(value: int, side: int = 8) -> Image:
    return new("L", (side, side), value)


def write_set(
    folder: Path,
    train: Sequence[Any] = (1, 0),
    test: Sequence[Any] = (0, 1),
    names: Sequence[str] | None = ("cat", "dog"),
    image_column: str = "image",
    label_column: str = "label",
    first: int = 10,
) -> Path:
    """Write a data set as the Hub serves it: one parquet file a split; grey 8×8 pictures."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    for split, labels, start in (("train", train, first), ("test", test, first + 100)):
        columns = {
            image_column: [paint(start + k) for k in range(len(labels))],
            label_column: list(labels),
        }
        rows = datasets.Dataset.from_dict(columns).cast_column(image_column, datasets.Image())
        if names is not None:
            rows = rows.cast_column(label_column, datasets.ClassLabel(names=list(names)))
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def write_folder(folder: Path, classes: Sequence[str] = ("dog", "cat"), each: int = 2) -> Path:
    for split, start in (("train", 0), ("test", 100)):
        for k, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(each):
                paint(start + 10 * k + i).save(place / f"{i}.png")
    return folder


def greys(pictures: Pictures) -> list[int]:
    return [int(np.asarray(pictures.image(k))[0, 0]) for k in range(len(pictures.labels))]


# --- digits ---


def test_digits_are_divided_without_loss_a_fifth_of_each_for_testing() -> None:
    from sklearn.datasets import load_digits

    splits = {split: Digits(name="digits", root="nowhere").read(split) for split in cache.SPLITS}
    train, test = (Counter(splits[split].labels) for split in cache.SPLITS)
    assert (train.total(), test.total()) == (1442, 355)
    assert all(test[k] == (train[k] + test[k]) // 5 for k in range(10))
    arrays = {
        split: [np.asarray(found.image(k)) for k in range(len(found.labels))]
        for split, found in splits.items()
    }
    whole = Counter(
        (array.tobytes(), label)
        for split in cache.SPLITS
        for array, label in zip(arrays[split], splits[split].labels, strict=True)
    )
    pixels, labels = load_digits(return_X_y=True)
    pixels = np.floor(pixels * 255 / 16 + 0.5).astype(np.uint8)  # the halves, 8, go to 128 too
    assert whole == Counter((p.tobytes(), int(k)) for p, k in zip(pixels, labels, strict=True))
    # the division is frozen: another one would make results incomparable with all earlier ones
    digest = hashlib.sha256(bytes(splits["test"].labels) + b"".join(map(bytes, arrays["test"])))
    assert digest.hexdigest() == "f91477f95f44d2315e51b7022349df9424ab5a807eaa2750912ef56fa7cd5255"
    assert splits["test"].names == tuple("0123456789")


# --- sets of the Hub ---


def test_a_local_copy_is_read_with_its_class_labels_in_the_sets_order(tmp_path: Path) -> None:
    write_set(tmp_path / "pets", names=("zebra", "ant"), image_column="img", label_column="fine")
    columns = {"image_column": "img", "label_column": "fine"}
    source = HubSet("pets", str(tmp_path), hub_id="nobody/pets", **columns)
    train, test = source.read("train"), source.read("test")
    assert (greys(train), list(train.labels), train.names) == ([10, 11], [1, 0], ("zebra", "ant"))
    assert (greys(test), list(test.labels), test.names) == ([110, 111], [0, 1], ("zebra", "ant"))
    swapped = HubSet("pets", str(tmp_path), train_split="test", test_split="train", **columns)
    assert greys(swapped.read("train")) == [110, 111]


def test_bare_labels_are_sorted_into_classes_and_missing_ones_are_refused(tmp_path: Path) -> None:
    for labels, names in ((["dog", "ant", "dog"], ("ant", "dog")), ([10, 9, 10], ("9", "10"))):
        write_set(tmp_path / names[0], labels, labels, names=None)
        pictures = HubSet(names[0], str(tmp_path)).read("train")
        assert (list(pictures.labels), pictures.names) == ([1, 0, 1], names)
    for k, (bad, of) in enumerate(
        (([0, -1], ("a", "b")), ([0, None], ("a", "b")), ([1, None], None))
    ):
        write_set(tmp_path / str(k), bad, bad, of)
        with pytest.raises(UserError, match=r"^the column 'label' has images without a label$"):
            HubSet(str(k), str(tmp_path)).read("test")


def test_columns_that_hold_no_pictures_or_labels_are_refused(tmp_path: Path) -> None:
    import datasets

    png = io.BytesIO()
    paint(9).save(png, "PNG")
    picture = png.getvalue()

    def write(name: str, images: list[Any], labels: list[Any]) -> HubSet:
        for split in ("train", "test"):
            rows = datasets.Dataset.from_dict({"image": images, "label": labels})
            (tmp_path / name).mkdir(exist_ok=True)
            rows.to_parquet(str(tmp_path / name / f"{split}-00000-of-00001.parquet"))
        return HubSet(name, str(tmp_path))

    for k, (images, labels, message) in enumerate(
        (
            (["a", "b"], [0, 1], "'image' holds no pictures .*string"),
            ([[1.0], [2.0]], [0, 1], "'image' holds no pictures"),
            ([picture] * 2, [[0], [1]], "'label' holds a list where a label must be"),
            ([picture] * 2, [0.0, math.nan], "'label' has images without a label"),
            ([picture] * 2, [b"x", b"y"], "'label' holds a bytes where a label must be"),
        )
    ):
        with pytest.raises(UserError, match=f"column {message}"):
            write(str(k), images, labels).read("train")
    lacking = write("lacking", [picture, None], [0, 1])
    with pytest.raises(UserError, match=r"1 of 2 images of the train split .*image 2"):
        cache.load(lacking, Form(8, 1))
    numbers = write("numbers", [picture] * 3, [1, -1, 0]).read("train")
    assert numbers.names == ("-1", "0", "1")
    bare = write("bytes", [picture] * 2, ["a10", "a9"]).read("train")
    assert (greys(bare), bare.labels, bare.names) == ([9, 9], [1, 0], ("a9", "a10"))


def test_a_missing_column_or_split_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    write_set(tmp_path / "pets")
    for setting, message in (
        ("image_column", "column 'none', only image, label; set data.source"),
        ("label_column", "column 'none', only image, label; set data.source"),
        ("test_split", "split 'none': .*'train', 'test'.*; set data.source"),
    ):
        with pytest.raises(UserError, match=f"pets has no {message}"):
            HubSet("pets", str(tmp_path), **{setting: "none"}).read("test")


def test_a_set_that_cannot_be_read_names_its_places_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the Hub is away\nTraceback: line 1\nline 2")

    folder, load = tmp_path / "pets", datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", fail)
    for hub_id, rest in (
        ("nobody/pets", "nobody/pets be loaded from the Hugging Face Hub (the Hub is away"),
        (None, "it be loaded from the Hugging Face Hub (no Hub id is given"),
    ):
        with pytest.raises(DataNotFoundError, match=re.escape(f"at {folder} (data.root")) as error:
            HubSet("pets", str(tmp_path), hub_id=hub_id).read("train")
        assert f"nor could {rest}; data" in str(error.value)
    monkeypatch.setattr(datasets, "load_dataset", load)
    folder.mkdir()
    for _ in range(2):
        with pytest.raises(DataNotFoundError, match=r"holds no data set that can be read .*\)\Z"):
            HubSet("pets", str(tmp_path), hub_id="nobody/pets").read("train")
        (folder / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    write_set(folder, train=())
    with pytest.raises(DataNotFoundError, match=r"holds no data set that can be read .*\)\Z"):
        HubSet("pets", str(tmp_path)).read("train")


def test_without_a_network_the_hub_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    asked: list[str] = []

    def unreached(_: Any, hub_id: str, **__: Any) -> None:
        asked.append(hub_id)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreached)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataNotFoundError, match=r"data.root or \$GENIU_DATA.*Offline"):
        HubSet("pets", str(tmp_path), hub_id="nobody/pets").read("train")
    assert asked == ["nobody/pets"]


def test_a_class_may_be_absent_from_one_split_of_a_table(tmp_path: Path) -> None:
    for k, names in enumerate((None, ("a", "b", "c"))):
        write_set(tmp_path / str(k), train=(0, 1, 2), test=(0, 1), names=names)
        decoded = cache.load(HubSet(str(k), str(tmp_path)), Form(8, 1))
        assert decoded.names == (names or ("0", "1", "2"))
        assert decoded.labels["test"].tolist() == [0, 1]


def test_the_root_is_the_given_one_then_that_of_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HubSet("pets").local == Path("data/pets")
    monkeypatch.setenv("GENIU_DATA", str(tmp_path))
    assert HubSet("pets").local == tmp_path / "pets"
    assert HubSet("pets", "elsewhere").local == Path("elsewhere/pets")


def test_the_key_names_the_content_and_a_changed_copy_is_decoded_anew(tmp_path: Path) -> None:
    folder, root = write_set(tmp_path / "here" / "pets"), str(tmp_path / "here")
    before = HubSet("pets", root).key()
    decoded = cache.load(HubSet("pets", root), Form(8, 1))
    shutil.copytree(folder, tmp_path / "there" / "pets")
    assert HubSet("pets", str(tmp_path / "there")).key() == before
    assert HubSet("pets", root, label_column="fine").key() != before
    assert HubSet("pets", root, test_split="train").key() != before
    write_set(folder, first=50)
    parquet = folder / "train-00000-of-00001.parquet"
    os.utime(parquet, ns=(0, parquet.stat().st_mtime_ns + 1))
    assert HubSet("pets", root).key() != before
    after = cache.load(HubSet("pets", root), Form(8, 1))
    assert after.fingerprint != decoded.fingerprint
    assert after.images["train"][:, 0, 0, 0].tolist() == [50, 51]
    remote = [
        HubSet("x", root, **{"hub_id": "a/x", **changed}).key()
        for changed in ({}, {"hub_id": "b/x"}, {"config": "small"}, {"revision": "small"})
    ]
    assert len(set(remote)) == 4


# --- folders of images ---


def test_a_folder_of_images_is_read_class_by_class_whatever_its_names(tmp_path: Path) -> None:
    for root, classes in (("a", ("dog", "cat")), ("b", ("train", "boat")), ("c", ("x [y]", "a"))):
        folder = write_folder(tmp_path / root / "set", classes=classes)
        for split, other in (("train", "test"), ("test", "train")):
            path = folder / split / classes[0] / "0.png"
            path.rename(path.with_name(f"{other}_[0].png"))  # sounds like a split and a pattern
        source = ImageFolder("set", str(tmp_path / root))
        train, test = source.read("train"), source.read("test")
        assert train.names == test.names == tuple(sorted(classes))
        # the first class was written first, with the smaller greys, and is last by name
        assert list(train.labels) == list(test.labels) == [0, 0, 1, 1]
        (a, b, *rest), (c, d, *others) = greys(train), greys(test)
        assert (a, b, sorted(rest)) == (10, 11, [0, 1])
        assert (c, d, sorted(others)) == (110, 111, [100, 101])


def test_a_folder_without_folders_of_classes_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    for missing in ("test", "train"):
        shutil.rmtree(folder / missing)
        for flat in (False, True):
            if flat:
                (folder / missing).mkdir()
                paint(3).save(folder / missing / "0.png")
            with pytest.raises(DataNotFoundError, match=f"{missing} does not exist or has no fold"):
                cache.load(ImageFolder("pets", str(tmp_path)), Form(8, 1))


# --- torch data sets ---


class Pairs:
    """A map-style data set with a transform that draws at random."""

    def __init__(self, images: Sequence[Any], labels: Sequence[Any], noise: bool = False) -> None:
        self.images, self.labels, self.noise = images, labels, noise
        self.draw = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self.images[index]
        if self.noise:
            image = image + torch.randint(200, image.shape, generator=self.draw, dtype=image.dtype)
        return image, self.labels[index]


TEST = Pairs([paint(7)], [1])


def test_a_torch_data_set_gives_pictures_and_tensors(tmp_path: Path) -> None:
    floats = torch.linspace(0, 1, 64).view(1, 8, 8)
    colours = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    train = Pairs([paint(9), floats, floats[0], colours], [0, torch.tensor(1), np.int64(0), 1])
    source = MapDataset("mine", train=train, test=TEST, names=["cat", "dog"])
    decoded = cache.load(source, Form(8, 3))
    assert decoded.names == ("cat", "dog")
    assert decoded.labels["train"].tolist() == [0, 1, 0, 1]
    images = decoded.images["train"]
    assert (images[0] == 9).all()
    wanted = torch.from_numpy(np.rint(np.linspace(0, 255, 64)).astype(np.uint8)).view(1, 8, 8)
    assert torch.equal(images[1], wanted.expand(3, 8, 8))
    assert torch.equal(images[2], images[1])
    assert torch.equal(images[3], colours)


def test_a_random_transform_is_frozen_in_the_cache_until_the_version_changes() -> None:
    train = Pairs([torch.zeros(1, 8, 8, dtype=torch.uint8)] * 3, [0, 1, 2], noise=True)
    test = Pairs([paint(7)], [1])
    train.classes = test.classes = ["a", "b", "c"]  # type: ignore[attr-defined]

    def load(version: str) -> cache.Decoded:
        return cache.load(MapDataset("mine", train=train, test=test, version=version), Form(8, 1))

    first = load("1")
    assert first.names == ("a", "b", "c")
    assert load("1").fingerprint == first.fingerprint
    assert load("2").fingerprint != first.fingerprint
    longer = Pairs([paint(1)] * 4, [0, 1, 2, 0])
    one, other = (MapDataset("mine", train=t, test=test).key() for t in (longer, train))
    assert one != other


def test_a_sample_of_a_torch_data_set_that_does_not_fit_is_refused() -> None:
    for image, label, message in (
        (
            torch.full((1, 8, 8), -0.5),
            0,
            "1 of 1 images .*: image 1 .* without normalisation: set data",
        ),
        (
            torch.zeros(8, 8, 3),
            0,
            r"1 of 1 images .*: image 1 .*must have shape \(1 or 3, H, W\)",
        ),
        (
            np.zeros((8, 8)),
            0,
            "1 of 1 images .*: image 1 .*ndarray",
        ),
        (paint(1), 2, "labels of the train set lie in 2 to 2, but there are 2 classes"),
        (paint(1), "cat", "a sample of the train set must be a pair of an image and an integer"),
    ):
        source = MapDataset("mine", train=Pairs([image], [label]), test=TEST, names=["cat", "dog"])
        with pytest.raises(UserError, match=message):
            cache.load(source, Form(8, 1))
