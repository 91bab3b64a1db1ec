"""The cache: exact pixels, one decoding, first process wins, clean failures."""

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL.Image import fromarray

from geniu_lightning.data import cache
from geniu_lightning.data.pixels import Form, opened
from geniu_lightning.data.sources import Pictures
from geniu_lightning.errors import UserError


class Painted:
    """A source of a few random pictures that counts how often it is read."""

    def __init__(self, key: str = "painted", shape: tuple[int, ...] = (6, 6), train: int = 7):
        rng = np.random.default_rng(0)
        self.pixels = {
            split: rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            for split, count in (("train", train), ("test", 4))
        }
        self.labels = {split: [k % 3 for k in range(len(p))] for split, p in self.pixels.items()}
        self.names = {"train": ("a", "b", "c"), "test": ("a", "b", "c")}
        self.reads: list[str] = []
        self._key = key

    def key(self) -> str:
        return self._key

    def read(self, split: str) -> Pictures:
        self.reads.append(split)
        return Pictures(partial(self.image, split), self.labels[split], self.names[split])

    def image(self, split: str, k: int) -> Any:
        return fromarray(self.pixels[split][k])


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_pixels_labels_and_names_come_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    source = Painted(shape=shape)
    channels = 3 if len(shape) == 3 else 1
    decoded = cache.load(source, Form(6, channels))
    assert decoded.names == ("a", "b", "c")
    digest = hashlib.sha256()  # kits name their data by this value
    for split in cache.SPLITS:
        pixels = source.pixels[split].reshape(-1, 6, 6, channels).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(decoded.images[split].numpy(), pixels)
        assert decoded.images[split].dtype == torch.uint8
        assert decoded.labels[split].dtype == torch.int64
        assert decoded.labels[split].tolist() == source.labels[split]
        digest.update(np.array(source.labels[split], "<i8").tobytes() + pixels.tobytes())
    assert decoded.fingerprint == digest.hexdigest()


def test_a_set_is_decoded_once_for_each_key_and_form_and_reports_progress(root: Path) -> None:
    source, steps = Painted(shape=(6, 6, 3), train=2001), []

    def load(size: int = 6, channels: int = 1, of: Painted = source) -> cache.Decoded:
        return cache.load(of, Form(size, channels), on_decode=lambda *step: steps.append(step))

    first = load()
    assert steps == [("train", 2000, 2001), ("train", 2001, 2001), ("test", 4, 4)]
    first.images["train"].zero_()  # does not reach the file
    again = load(of=Painted())  # the key decides, not the content
    assert (source.reads, len(steps)) == (["train", "test"], 3)
    assert again.images["train"].any()
    assert load(8, 3).images["test"].shape == (4, 3, 8, 8)
    load(of=Painted("other"))
    assert len(list(root.iterdir())) == 3


def test_pictures_are_resized_bilinearly_and_change_their_channels_by_luma() -> None:
    source = Painted(shape=(9, 9))
    pixels = torch.from_numpy(source.pixels["train"])[:, None].float()
    for size in (4, 15):
        wanted = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        assert (cache.load(source, Form(size, 1)).images["train"] - wanted).abs().max() <= 1.0
    grey = cache.load(source, Form(9, 3)).images["train"]
    assert torch.equal(grey, pixels.byte().expand(-1, 3, -1, -1))
    colour = Painted("colour", (6, 6, 3))
    luma = colour.pixels["train"] @ np.array([0.299, 0.587, 0.114])
    decoded = cache.load(colour, Form(6, 1)).images["train"][:, 0].numpy()
    assert np.abs(decoded - luma).max() <= 1.0
    deep = Painted("deep")
    deep.pixels = {k: p.astype(np.uint16) * np.uint16(257) for k, p in deep.pixels.items()}
    decoded = cache.load(deep, Form(6, 1)).images["train"][:, 0].numpy()
    np.testing.assert_array_equal(decoded, Painted().pixels["train"])


def test_a_picture_that_cannot_be_decoded_is_named(root: Path) -> None:
    buffer = io.BytesIO()
    fromarray(Painted(shape=(40, 40)).pixels["train"][0]).save(buffer, "PNG")
    png = buffer.getvalue()
    broken_chunk = png[:33] + (200).to_bytes(4, "big") + png[37:]  # the chunk IDAT begins at 33
    for content in (png[:400], broken_chunk, b"no picture", None):

        class Spoilt(Painted):
            def image(self, split: str, k: int, content: bytes | None = content) -> Any:
                return opened(content) if (split, k) == ("train", 1) else super().image(split, k)

        with pytest.raises(UserError, match=r"^1 of 7 images of the train .*: image 2 \(.+\)$"):
            cache.load(Spoilt(), Form(6, 1))
    assert list(root.iterdir()) == []


def test_a_folder_of_caches_that_cannot_be_written_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("9 requested and 8 written")  # of NumPy, without a name

    monkeypatch.setattr(cache, "_decode", full)
    with pytest.raises(UserError, match=rf"into {root} \(\$GENIU_CACHE\): 9 requested and 8 wri"):
        cache.load(Painted(), Form(6, 1))
    for name in ("file", "x" * 300):
        place = root / name
        (root / "file").touch()
        monkeypatch.setenv("GENIU_CACHE", str(place))
        with pytest.raises(UserError, match=rf"cannot be decoded into {place} \(\$GENIU_CACHE\)"):
            cache.load(Painted(), Form(6, 1))


def test_the_process_that_loses_the_race_reads_the_winners_cache(root: Path) -> None:
    class Loser(Painted):
        def image(self, split: str, k: int) -> Any:
            if (split, k) == ("test", 0):
                cache.load(Painted(), Form(6, 1))
            return super().image(split, k)

    loser = Loser()
    loser.labels["test"] = [2, 2, 2, 2]
    found, winner = cache.load(loser, Form(6, 1)), cache.load(Painted(), Form(6, 1))
    assert found.fingerprint == winner.fingerprint
    assert found.labels["test"].tolist() == [0, 1, 2, 0]
    assert len(list(root.iterdir())) == 1


def test_an_empty_split_is_refused_and_classes_are_compared_by_name() -> None:
    with pytest.raises(UserError, match=r"^the train split of the data set is empty$"):
        cache.load(Painted(train=0), Form(6, 1))
    source = Painted()
    source.names["test"] = ("c", "d", "a")
    decoded = cache.load(source, Form(6, 1))
    assert decoded.names == ("a", "b", "c", "d")
    assert decoded.labels["test"].tolist() == [2, 3, 0, 2]
    for names, message in (
        (("a", "b\n", "c"), r"a class is named 'b\\n'"),
        (("a", "${oc.env:X}", "c"), "a class is named"),
    ):
        source.names["train"] = names
        source._key = names[1]
        with pytest.raises(UserError, match=message):
            cache.load(source, Form(6, 1))


def test_the_folder_of_caches_is_ours_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == root
    monkeypatch.delenv("GENIU_CACHE")
    assert cache.cache_root() == tmp_path / "xdg" / "geniu_lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == tmp_path / ".cache" / "geniu_lightning"
