import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray, new

from geniu_lightning.data import cache
from geniu_lightning.data.sources import Digits, HubSet, ImageFolder, Pictures
from geniu_lightning.errors import DataNotFoundError, UserError


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no cache or data folder of the user."""
    import datasets
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "caches"))
    monkeypatch.delenv("GENIU_DATA", raising=False)


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
    return [int(np.asarray(image)[0, 0]) for image in pictures.images]


# --- digits ---


def test_digits_are_divided_without_loss_or_overlap() -> None:
    from sklearn.datasets import load_digits

    whole: Counter[tuple[bytes, int]] = Counter()
    for split in ("train", "test"):
        pictures = Digits().read(split)
        arrays = [np.asarray(image) for image in pictures.images]
        whole += Counter((a.tobytes(), k) for a, k in zip(arrays, pictures.labels, strict=True))
    pixels, labels = load_digits(return_X_y=True)
    pixels = np.floor(pixels * 255 / 16 + 0.5).astype(np.uint8)  # the halves, 8, go to 128 too
    assert whole == Counter((p.tobytes(), int(k)) for p, k in zip(pixels, labels, strict=True))


def test_a_fifth_of_each_digit_is_the_test_set() -> None:
    train, test = (Counter(Digits().read(split).labels) for split in ("train", "test"))
    assert (train.total(), test.total()) == (1442, 355)
    for k in range(10):
        assert test[k] == (train[k] + test[k]) // 5


def test_the_division_of_the_digits_is_frozen() -> None:
    # other numbers here would make results incomparable with all earlier ones
    pictures = Digits(name="digits", root="nowhere").read("test")
    digest = hashlib.sha256(bytes(pictures.labels))
    for image in pictures.images:
        digest.update(image.tobytes())
    assert digest.hexdigest() == "f91477f95f44d2315e51b7022349df9424ab5a807eaa2750912ef56fa7cd5255"
    assert pictures.names == tuple("0123456789")
    assert Digits().key() == "digits-1"


def test_digits_are_grey_pictures_over_the_whole_range() -> None:
    images = list(Digits().read("train").images)
    assert {(image.mode, image.size) for image in images} == {("L", (8, 8))}
    values = set().union(*(np.unique(image).tolist() for image in images))
    assert values == {round(k * 255 / 16) for k in range(17)}


# --- sets of the Hub ---


def test_a_local_copy_is_read_with_the_names_of_its_class_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "pets")
    source = HubSet("pets", str(tmp_path), hub_id="nobody/pets")
    train, test = source.read("train"), source.read("test")
    assert (greys(train), list(train.labels), train.names) == ([10, 11], [1, 0], ("cat", "dog"))
    assert (greys(test), list(test.labels), test.names) == ([110, 111], [0, 1], ("cat", "dog"))


def test_class_labels_keep_the_order_that_the_set_gives_them(tmp_path: Path) -> None:
    write_set(tmp_path / "pets", names=("zebra", "ant"))
    assert HubSet("pets", str(tmp_path)).read("train").names == ("zebra", "ant")


def test_string_labels_are_sorted_into_classes(tmp_path: Path) -> None:
    write_set(tmp_path / "pets", ["dog", "ant", "dog"], ["ant", "dog"], names=None)
    pictures = HubSet("pets", str(tmp_path)).read("train")
    assert (list(pictures.labels), pictures.names) == ([1, 0, 1], ("ant", "dog"))


def test_bare_integers_are_sorted_by_number_and_close_gaps(tmp_path: Path) -> None:
    write_set(tmp_path / "numbers", [10, 9, 10], [9, 10], names=None)
    pictures = HubSet("numbers", str(tmp_path)).read("train")
    assert (list(pictures.labels), pictures.names) == ([1, 0, 1], ("9", "10"))


def test_strings_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "pets", ["dog", "ant"], ["ant", "cow"], names=None)
    with pytest.raises(UserError, match=r"different classes: ant, dog and ant, cow$"):
        cache.load(HubSet("pets", str(tmp_path)), 8, 1)


def test_other_columns_and_splits_can_be_named(tmp_path: Path) -> None:
    write_set(tmp_path / "pets", image_column="img", label_column="fine")
    source = HubSet(
        "pets",
        str(tmp_path),
        image_column="img",
        label_column="fine",
        train_split="test",
        test_split="train",
    )
    assert greys(source.read("train")) == [110, 111]
    assert greys(source.read("test")) == [10, 11]


@pytest.mark.parametrize("column", ["image_column", "label_column"])
def test_a_missing_column_is_refused_with_those_there_are(tmp_path: Path, column: str) -> None:
    folder = write_set(tmp_path / "pets")
    with pytest.raises(UserError) as error:
        HubSet("pets", str(tmp_path), **{column: "img"}).read("train")
    assert str(error.value) == (
        f"{folder} has no column 'img', only image, label; set data.source.image_column and"
        " data.source.label_column"
    )


def test_a_missing_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "pets")
    with pytest.raises(UserError) as error:
        HubSet("pets", str(tmp_path), test_split="valid").read("test")
    message = str(error.value)
    assert message.startswith(f"{folder} has no split 'valid': ")
    assert "'train', 'test'" in message
    assert message.endswith("; set data.source.train_split and data.source.test_split")


def test_a_set_that_is_nowhere_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as error:
        HubSet("pets", str(tmp_path), hub_id="nobody/pets").read("train")
    message = str(error.value)
    assert f"neither at {tmp_path / 'pets'} (data.root, data.name)" in message
    assert "nor could nobody/pets be loaded from the Hugging Face Hub (" in message
    assert message.endswith("; data.source.hub_id)")
    assert "\n" not in message


def test_of_an_error_of_many_lines_the_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the Hub is away\nTraceback: line 1\nline 2")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataNotFoundError, match=r"\(the Hub is away; data\.source\.hub_id\)$"):
        HubSet("pets", str(tmp_path), hub_id="nobody/pets").read("train")


def test_a_set_that_is_nowhere_and_has_no_id_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as error:
        HubSet("pets", str(tmp_path)).read("train")
    assert str(error.value) == (
        f"the data set is neither at {tmp_path / 'pets'} (data.root, data.name) nor could it be"
        " loaded from the Hugging Face Hub (no Hub id is given; data.source.hub_id)"
    )


@pytest.mark.parametrize("hub_id", [None, "nobody/pets"])
@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_a_local_folder_that_cannot_be_read_is_told_as_such(
    tmp_path: Path, content: bytes | None, hub_id: str | None
) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    if content is not None:
        (folder / "train-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataNotFoundError) as error:
        HubSet("pets", str(tmp_path), hub_id=hub_id).read("train")
    message = str(error.value)
    assert message.startswith(f"{folder} holds no data set that can be read (")
    assert "Hugging Face Hub" not in message
    assert "\n" not in message


def test_the_root_is_the_given_one_then_that_of_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HubSet("pets").local == Path("data/pets")
    monkeypatch.setenv("GENIU_DATA", str(tmp_path))
    assert HubSet("pets").local == tmp_path / "pets"
    assert HubSet("pets", "elsewhere").local == Path("elsewhere/pets")


def test_the_key_of_a_local_copy_moves_with_it_and_changes_with_its_files(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "here" / "pets")
    before = HubSet("pets", str(tmp_path / "here")).key()
    shutil.copytree(folder, tmp_path / "there" / "pets")
    shutil.copytree(folder, tmp_path / "deep" / "down" / "pets")
    assert HubSet("pets", str(tmp_path / "there")).key() == before
    assert HubSet("pets", str(tmp_path / "here"), label_column="fine").key() != before
    assert HubSet("pets", str(tmp_path / "here"), test_split="train").key() != before
    parquet = folder / "train-00000-of-00001.parquet"
    stat = parquet.stat()
    os.utime(parquet, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert HubSet("pets", str(tmp_path / "here")).key() != before


def test_the_key_of_a_set_on_the_hub_names_what_would_be_loaded(tmp_path: Path) -> None:
    keys = {
        HubSet("x", str(tmp_path), hub_id=hub_id, config=config, revision=revision).key()
        for hub_id in ("a/x", "b/x")
        for config in (None, "small")
        for revision in (None, "v1")
    }
    assert len(keys) == 8


def test_a_local_copy_that_was_written_anew_is_decoded_anew(tmp_path: Path) -> None:
    write_set(tmp_path / "pets")
    source = HubSet("pets", str(tmp_path))
    before = cache.load(source, 8, 1)
    write_set(tmp_path / "pets", first=50)
    after = cache.load(source, 8, 1)
    assert after.fingerprint != before.fingerprint
    assert after.images["train"][:, 0, 0, 0].tolist() == [50, 51]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([-1, -1], ("cat", "dog")),
        ([0, -1], ("cat", "dog")),
        ([0, None], ("cat", "dog")),
        (["cat", None], None),
        ([1, None], None),
    ],
)
def test_images_without_a_label_are_refused(
    tmp_path: Path, labels: Sequence[Any], names: Sequence[str] | None
) -> None:
    write_set(tmp_path / "pets", labels, labels, names)
    with pytest.raises(UserError) as error:
        HubSet("pets", str(tmp_path)).read("test")
    assert str(error.value) == "the column 'label' has images without a label"


# --- folders of images ---


def test_a_folder_of_images_is_read_class_by_class(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets")
    source = ImageFolder("pets", str(tmp_path))
    train, test = source.read("train"), source.read("test")
    assert train.names == test.names == ("cat", "dog")
    # dog was written first, with the smaller greys
    assert (greys(train), list(train.labels)) == ([10, 11, 0, 1], [0, 0, 1, 1])
    assert (greys(test), list(test.labels)) == ([110, 111, 100, 101], [0, 0, 1, 1])


def test_file_names_that_sound_like_splits_do_not_move_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", each=1)
    for name in ("cat", "dog"):
        (folder / "train" / name / "0.png").rename(folder / "train" / name / "test_0.png")
        (folder / "test" / name / "0.png").rename(folder / "test" / name / "train_0.png")
    source = ImageFolder("pets", str(tmp_path))
    assert greys(source.read("train")) == [10, 0]
    assert greys(source.read("test")) == [110, 100]


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_class_called_like_a_split_does_not_move_images(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "vehicles", classes=(name, "boat"))
    source = ImageFolder("vehicles", str(tmp_path))
    train, test = source.read("train"), source.read("test")
    assert train.names == test.names == ("boat", name)
    assert (greys(train), list(train.labels)) == ([10, 11, 0, 1], [0, 0, 1, 1])
    assert (greys(test), list(test.labels)) == ([110, 111, 100, 101], [0, 0, 1, 1])


def test_brackets_in_names_do_not_lose_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", classes=("dog [big]", "cat"))
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "0 [1].png")
    pictures = ImageFolder("pets", str(tmp_path)).read("train")
    assert pictures.names == ("cat", "dog [big]")
    assert sorted(greys(pictures)) == [0, 1, 10, 11]


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [("train", "ant, dog and ant, cat, dog"), ("test", "ant, cat, dog and ant, dog")],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_whose_splits_have_different_classes_is_refused(
    tmp_path: Path, lacks: str, sentence: str, empty: bool
) -> None:
    folder = write_folder(tmp_path / "pets", classes=("ant", "cat", "dog"))
    shutil.rmtree(folder / lacks / "cat")
    if empty:
        (folder / lacks / "cat").mkdir()
    with pytest.raises(UserError, match=f"different classes: {sentence}$"):
        cache.load(ImageFolder("pets", str(tmp_path)), 8, 1)


def test_a_file_that_is_no_picture_is_named_by_its_number(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets")
    (folder / "train" / "dog" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"^image 4 of the train split cannot be decoded: "):
        cache.load(ImageFolder("pets", str(tmp_path)), 8, 1)


def test_sixteen_bit_files_keep_their_greys(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", each=1)
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    fromarray(ramp * np.uint16(257)).save(folder / "train" / "cat" / "0.png")
    image = cache.load(ImageFolder("pets", str(tmp_path)), 8, 1).images["train"][0, 0]
    np.testing.assert_array_equal(image.numpy(), ramp)


def test_grey_pictures_of_any_size_become_colour_squares(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", each=1)
    wide = np.tile(np.linspace(0, 255, 20, dtype=np.uint8), (10, 1))
    fromarray(wide).save(folder / "train" / "cat" / "0.png")
    new("RGB", (30, 30), (250, 100, 7)).save(folder / "train" / "dog" / "0.png")
    images = cache.load(ImageFolder("pets", str(tmp_path)), 16, 3).images["train"]
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(images[0, 0], images[0, 2])
    row = images[0, 0, 5].int()
    assert (row[1:] > row[:-1]).all()
    assert torch.equal(images[0, 0], images[0, 0, :1].expand(16, 16))
    assert images[1, :, 3, 3].tolist() == [250, 100, 7]


def test_a_folder_and_a_set_of_the_hub_with_the_same_images_are_the_same_data(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path / "a" / "pets", each=1)
    write_folder(tmp_path / "b" / "renamed", each=1)
    prints = {
        cache.load(ImageFolder(name, str(tmp_path / root)), 8, 1).fingerprint
        for root, name in (("a", "pets"), ("b", "renamed"))
    }
    folder = tmp_path / "c"
    write_set(folder / "pets", train=[0, 1], test=[0, 1])
    for split, greys_of in (("train", (10, 0)), ("test", (110, 100))):
        import datasets

        rows = {"image": [paint(g) for g in greys_of], "label": ["cat", "dog"]}
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
            str(folder / "pets" / f"{split}-00000-of-00001.parquet")
        )
    prints.add(cache.load(HubSet("pets", str(folder)), 8, 1).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("missing", ["train", "test"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_without_folders_of_classes_is_refused(
    tmp_path: Path, missing: str, flat: bool
) -> None:
    folder = write_folder(tmp_path / "pets")
    shutil.rmtree(folder / missing)
    if flat:
        (folder / missing).mkdir()
        paint(3).save(folder / missing / "0.png")
    with pytest.raises(DataNotFoundError) as error:
        ImageFolder("pets", str(tmp_path)).read("train")
    assert str(error.value) == (
        f"{folder / missing} does not exist or has no folders of classes; a folder"
        " of images is <data.root>/<data.name>/{train,test}/<class>/*.png"
    )
