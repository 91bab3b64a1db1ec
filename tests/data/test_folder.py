"""Folders of pictures: never other ones, and none dropped in silence."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL.Image import Image, new

from geniu_lightning.data import cache
from geniu_lightning.data.pixels import Form
from geniu_lightning.data.sources import HubSet, ImageFolder
from geniu_lightning.errors import DataNotFoundError, UserError

GREY = Form(8, 1)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "caches"))


def paint(value: int) -> Image:
    return new("L", (8, 8), value)


def write(folder: Path, **greys: int) -> Path:
    """Write a picture of one grey for each class into both splits."""
    for split in ("train", "test"):
        for name, grey in greys.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            paint(grey).save(folder / split / name / "0.png")
    return folder


def load(root: Path, name: str = "set") -> cache.Decoded:
    return cache.load(ImageFolder(name, str(root)), GREY)


def test_linked_folders_are_read_and_told_apart(tmp_path: Path) -> None:
    for name, classes in (("pets", {"cat": 1, "dog": 2}), ("cars", {"audi": 3, "bmw": 4})):
        real = write(tmp_path / "real" / name, **classes)
        for split in ("train", "test"):
            (tmp_path / name / split).mkdir(parents=True)
            for kind in classes:
                (tmp_path / name / split / kind).symlink_to(real / split / kind)
    assert load(tmp_path, "pets").names == ("cat", "dog")
    cars = load(tmp_path, "cars")
    assert cars.names == ("audi", "bmw")
    assert cars.images["train"].amax(dim=(1, 2, 3)).tolist() == [3, 4]
    changed = tmp_path / "real/cars/train/bmw/0.png"
    paint(9).save(changed)
    os.utime(changed, ns=(0, 1))
    assert load(tmp_path, "cars").images["train"].amax(dim=(1, 2, 3)).tolist() == [3, 9]
    keys = set()
    link = tmp_path / "linked"
    link.mkdir()
    (link / "loop").symlink_to(link)
    (link / "lost").symlink_to("nowhere")
    for file in ("one", "longer"):  # of a copy of a set of the Hub, in a linked folder
        place = tmp_path / "hub" / file
        place.mkdir(parents=True)
        (place / "train.parquet").write_text(file)
        (link / "data").unlink(missing_ok=True)
        (link / "data").symlink_to(place)
        keys.add(HubSet("linked", str(tmp_path)).key())
    assert len(keys) == 2


def test_what_is_skipped_is_counted_and_systems_files_do_not_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "set", a=1, b=2) / "train"
    with caplog.at_level(logging.INFO):
        plain = load(tmp_path)
    assert not caplog.messages
    systems = ("a/.ipynb_checkpoints/0.png", "a/._0.png", "a/Thumbs.db", ".DS_Store")
    for path in (*systems, "@eaDir/0.png", "a/@eaDir/0.png", "$RECYCLE.BIN/0.png"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("no picture")
    with caplog.at_level(logging.INFO):
        assert load(tmp_path).fingerprint == plain.fingerprint
    assert not caplog.messages
    (folder / "a/sub").mkdir()
    paint(7).save(folder / "a/sub/0.png")
    paint(7).save(folder / "b/picture", "PNG")
    (folder / "c").mkdir()
    (folder / "b/notes.txt").write_text("no picture")
    for name in ("0.png", "labels.csv"):
        (folder / name).write_text("no picture")
    (folder / "b/paper.pdf").write_text("no picture")
    (folder / "b/1.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "b/2.png")
    with caplog.at_level(logging.INFO):
        assert load(tmp_path).fingerprint == plain.fingerprint
    (message,) = caplog.messages
    for part in (
        *("1 folder(s) below a class", "3 file(s) without the ending", "1 class folder(s)"),
        *("2 link(s) that lead nowhere, or no file(s)", "2 file(s) outside the class folders"),
    ):
        assert part in message
    assert "such as a/sub" in message
    shutil.rmtree(folder / "a")
    shutil.rmtree(folder / "b")
    with pytest.raises(DataNotFoundError, match="hold no pictures"):
        load(tmp_path)
    (folder / "c/inner").mkdir()
    paint(7).save(folder / "c/inner/0.png")
    with pytest.raises(DataNotFoundError, match=r"hold no pictures \(such as c\)"):
        load(tmp_path)


def test_all_damaged_pictures_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", a=1, b=2) / "train/a"
    for k in range(15):
        (folder / f"damaged{k:02}.png").write_bytes(b"no picture")
    jpeg = folder / "cut.jpg"
    new("RGB", (64, 64), (9, 99, 199)).save(jpeg)
    jpeg.write_bytes(jpeg.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"16 of 18 images of the train split cannot be") as error:
        load(tmp_path)
    assert f"{jpeg} (" in str(error.value)
    assert f"{folder / 'damaged08.png'} (" in str(error.value)
    assert str(error.value).endswith("and 6 more")
    lost = tmp_path / "set/test/b/lost.png"
    lost.touch()
    with pytest.raises(UserError, match=rf"and 6 more; 1 of 3 images of the test .*: {lost} \("):
        load(tmp_path)
    assert not list((tmp_path / "caches").iterdir())


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path / "set", **{str(k): k for k in (10, 9, 2, 1, 0)})
    decoded = load(tmp_path)
    assert decoded.names == ("0", "1", "2", "9", "10")
    assert decoded.images["test"].amax(dim=(1, 2, 3)).tolist() == [0, 1, 2, 9, 10]


def test_a_set_of_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", a=1)
    with pytest.raises(UserError, match="all images are of one class, a"):
        load(tmp_path)


def test_a_class_may_be_absent_from_a_split(tmp_path: Path) -> None:
    whole = load(write(tmp_path / "whole" / "set", a=1, b=2, c=3).parent)
    for split, other in (("train", "test"), ("test", "train")):
        folder = write(tmp_path / split / "set", a=1, b=2, c=3)
        shutil.rmtree(folder / split / "b")
        decoded = load(folder.parent)
        assert decoded.names == ("a", "b", "c")
        assert decoded.labels[split].tolist() == [0, 2]
        assert decoded.labels[other].tolist() == [0, 1, 2]
        assert decoded.fingerprint != whole.fingerprint
        kept = {k: v for k, v in whole.class_fingerprints[split].items() if k != "b"}
        assert decoded.class_fingerprints[split] == kept
        assert decoded.class_fingerprints[other] == whole.class_fingerprints[other]


def test_a_damaged_cache_is_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "set", a=1, b=2)
    whole = load(tmp_path)
    (place,) = (tmp_path / "caches").iterdir()
    for name in ("train.labels", "test.images", "meta.json"):
        for damage in ("cut", "flip", "lose"):
            content = bytearray((place / name).read_bytes())
            content[len(content) // 2] ^= 1
            match damage:
                case "cut":
                    (place / name).write_bytes(content[:-8])
                case "flip":
                    (place / name).write_bytes(content)
                case "lose":
                    (place / name).unlink()
            caplog.clear()
            again = load(tmp_path)
            assert again.fingerprint == whole.fingerprint
            assert again.names == whole.names
            if (name, damage) != ("meta.json", "lose"):
                assert f"{place} are damaged" in caplog.text, (name, damage)
    for text in ("[1]", "3", "[" * 100_000, '{"checksum": 1}'):
        (place / "meta.json").write_text(text)
        assert load(tmp_path).fingerprint == whole.fingerprint
    cut = load(tmp_path)
    (place / "train.images").write_bytes(b"")  # cut off while a run reads it
    assert cut.images["train"].amax(dim=(1, 2, 3)).tolist() == [1, 2]
