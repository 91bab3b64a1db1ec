"""The cache: exact pixels, one decoding, first process wins, clean failures."""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL.Image import Image, fromarray
from PIL.Image import open as open_picture

from geniu_lightning.data import cache
from geniu_lightning.data.sources import Pictures
from geniu_lightning.errors import UserError


class Painted:
    """A source of a few random pictures that counts how often it is read."""

    def __init__(
        self,
        key: str = "painted",
        colour: bool = False,
        side: int = 6,
        counts: tuple[int, int] = (7, 4),
        when_read: Callable[[str], object] = lambda split: None,
    ) -> None:
        rng = np.random.default_rng(0)
        shape = (side, side, 3) if colour else (side, side)
        self.pixels = {
            split: rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            for split, count in zip(cache.SPLITS, counts, strict=True)
        }
        self.labels = {split: [k % 3 for k in range(len(p))] for split, p in self.pixels.items()}
        self.names = dict.fromkeys(cache.SPLITS, ("a", "b", "c"))
        self.when_read = when_read
        self.reads: list[str] = []
        self._key = key

    def key(self) -> str:
        return self._key

    def read(self, split: str) -> Pictures:
        self.reads.append(split)
        self.when_read(split)
        return Pictures(self.images(split), self.labels[split], self.names[split])

    def images(self, split: str) -> Iterator[Image]:
        return (fromarray(pixels) for pixels in self.pixels[split])


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "caches"
    monkeypatch.setenv("GENIU_CACHE", str(folder))
    return folder


def assert_same(one: cache.Decoded, other: cache.Decoded) -> None:
    assert (one.fingerprint, one.names) == (other.fingerprint, other.names)
    for split in cache.SPLITS:
        assert torch.equal(one.images[split], other.images[split])
        assert torch.equal(one.labels[split], other.labels[split])


@pytest.mark.parametrize("colour", [False, True])
def test_pixels_labels_and_names_come_back_bit_for_bit(colour: bool) -> None:
    source = Painted(colour=colour)
    decoded = cache.load(source, 6, 3 if colour else 1)
    assert decoded.names == ("a", "b", "c")
    for split in cache.SPLITS:
        pixels = source.pixels[split].reshape(-1, 6, 6, 3 if colour else 1)
        assert decoded.images[split].dtype == torch.uint8
        np.testing.assert_array_equal(decoded.images[split].numpy(), pixels.transpose(0, 3, 1, 2))
        assert decoded.labels[split].dtype == torch.int64
        assert decoded.labels[split].tolist() == source.labels[split]


def test_a_set_is_decoded_once_for_each_key_and_form_and_reports_progress(root: Path) -> None:
    source, steps = Painted(colour=True, counts=(2001, 4)), []

    def load(size: int = 6, channels: int = 1, of: Painted = source) -> cache.Decoded:
        return cache.load(of, size, channels, on_decode=lambda *step: steps.append(step))

    first = load()
    assert steps == [("train", 2000, 2001), ("train", 2001, 2001), ("test", 4, 4)]
    first.images["train"].zero_()  # does not reach the file
    again = load(of=Painted())  # the key decides, not the content
    assert source.reads == ["train", "test"]
    assert again.images["train"].any()
    assert len(steps) == 3
    assert load(8, 3).images["test"].shape == (4, 3, 8, 8)
    load(of=Painted("other"))
    assert len(list(root.iterdir())) == 3


def test_the_fingerprint_is_a_function_of_pixels_and_labels(tmp_path: Path) -> None:
    relabelled, repainted = Painted("relabelled"), Painted("repainted")
    relabelled.labels["test"][0] = 2
    repainted.pixels["test"][-1, -1, -1] ^= 1
    here = cache.load(Painted(), 6, 1)
    assert_same(cache.load(Painted("elsewhere"), 6, 1, folder=str(tmp_path / "there")), here)
    others = [cache.load(s, n, 1) for s, n in ((relabelled, 6), (repainted, 6), (Painted(), 7))]
    assert len({here.fingerprint, *(other.fingerprint for other in others)}) == 4
    # a kit names its data by this value
    digest = hashlib.sha256()
    for split in cache.SPLITS:
        digest.update(np.array(Painted().labels[split], "<i8").tobytes())
        digest.update(Painted().pixels[split].tobytes())
    assert here.fingerprint == digest.hexdigest()


def test_pictures_are_resized_bilinearly_and_change_their_channels_by_luma() -> None:
    source = Painted(side=9)
    pixels = torch.from_numpy(source.pixels["train"])[:, None].float()
    for size in (4, 15):
        wanted = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        assert (cache.load(source, size, 1).images["train"] - wanted).abs().max() <= 1.0
    grey = cache.load(source, 9, 3).images["train"]
    assert torch.equal(grey, pixels.byte().expand(-1, 3, -1, -1))
    colour = Painted("colour", colour=True)
    luma = colour.pixels["train"] @ np.array([0.299, 0.587, 0.114])
    decoded = cache.load(colour, 6, 1).images["train"][:, 0].numpy()
    assert np.abs(decoded - luma).max() <= 1.0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])  # both are how Pillow opens 16 bits
def test_sixteen_bit_pictures_keep_their_greys(dtype: type[np.generic]) -> None:
    source = Painted()
    source.pixels = {k: p.astype(dtype) * dtype(257) for k, p in source.pixels.items()}
    for channels in (1, 3):
        decoded = cache.load(source, 6, channels).images["train"].numpy()
        for channel in range(channels):
            np.testing.assert_array_equal(decoded[:, channel], Painted().pixels["train"])


@pytest.mark.parametrize("error", [RuntimeError("broken file"), KeyboardInterrupt()])
def test_a_failure_leaves_no_folder_and_the_next_load_decodes(
    root: Path, error: BaseException
) -> None:
    def fail(split: str) -> None:
        # a reader sees no complete cache while another one decodes
        assert [p.name[:10] for p in root.iterdir()] == [".decoding-"]
        if split == "test":
            raise error

    with pytest.raises(type(error)):
        cache.load(Painted(when_read=fail), 6, 1)
    assert list(root.iterdir()) == []
    assert len(cache.load(Painted(), 6, 1).images["train"]) == 7


def test_a_picture_that_cannot_be_decoded_is_named(root: Path) -> None:
    buffer = io.BytesIO()
    fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    png = buffer.getvalue()
    broken_chunk = png[:33] + (200).to_bytes(4, "big") + png[37:]  # the chunk IDAT begins at 33
    for content in (png[:400], broken_chunk, b"no picture", None):

        class Spoilt(Painted):
            def images(self, split: str, content: bytes | None = content) -> Iterator[Any]:
                yield next(super().images(split))
                yield content and open_picture(io.BytesIO(content))

        with pytest.raises(UserError, match=r"^image 2 of the train split cannot be decoded: ."):
            cache.load(Spoilt(), 6, 1)
    assert list(root.iterdir()) == []


def test_the_process_that_loses_the_race_reads_the_winners_cache(root: Path) -> None:
    winner: list[cache.Decoded] = []
    loser = Painted(when_read=lambda split: winner or winner.append(cache.load(Painted(), 6, 1)))
    loser.labels["test"][0] = 2
    assert_same(cache.load(loser, 6, 1), winner[0])
    assert len(list(root.iterdir())) == 1


def test_an_empty_split_and_splits_with_different_classes_are_refused(root: Path) -> None:
    for counts, split in (((0, 4), "train"), ((7, 0), "test")):
        with pytest.raises(UserError, match=f"^the {split} split of the data set is empty$"):
            cache.load(Painted(counts=counts), 6, 1)
    source = Painted()
    source.names["test"] = ("a", "c", "b")
    with pytest.raises(UserError, match=r"splits have different classes: a, b, c and a, c, b$"):
        cache.load(source, 6, 1)
    assert list(root.iterdir()) == []


def test_the_folder_of_caches_is_the_given_one_then_ours_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root("~/mine") == tmp_path / "mine"
    assert cache.cache_root(None) == tmp_path / "ours"
    monkeypatch.delenv("GENIU_CACHE")
    assert cache.cache_root(None) == tmp_path / "xdg" / "geniu_lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root(None) == tmp_path / ".cache" / "geniu_lightning"
