import io
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

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
        seed: int = 0,
        counts: tuple[int, int] = (7, 4),
        names: tuple[tuple[str, ...], tuple[str, ...]] = (("a", "b", "c"),) * 2,
        when_read: Callable[[str], object] = lambda split: None,
    ) -> None:
        rng = np.random.default_rng(seed)
        shape = (side, side, 3) if colour else (side, side)
        self.pixels = {
            split: rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            for split, count in zip(cache.SPLITS, counts, strict=True)
        }
        self.labels = {split: [k % 3 for k in range(len(p))] for split, p in self.pixels.items()}
        self.names = dict(zip(cache.SPLITS, names, strict=True))
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
    assert one.fingerprint == other.fingerprint
    assert one.names == other.names
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


def test_a_set_is_decoded_once() -> None:
    source = Painted()
    first = cache.load(source, 6, 1)
    assert source.reads == ["train", "test"]
    assert_same(cache.load(source, 6, 1), first)
    assert_same(cache.load(Painted(seed=1), 6, 1), first)  # the key alone decides
    assert source.reads == ["train", "test"]


def test_other_sizes_channels_and_keys_are_other_caches(root: Path) -> None:
    source = Painted(colour=True)
    shapes = {
        (size, channels): cache.load(source, size, channels).images["train"].shape
        for size in (6, 8)
        for channels in (1, 3)
    }
    assert shapes == {(s, c): (7, c, s, s) for s in (6, 8) for c in (1, 3)}
    assert len(source.reads) == 8
    cache.load(Painted(key="other"), 6, 1)
    assert len(list(root.iterdir())) == 5


def test_writing_into_the_images_does_not_reach_the_file() -> None:
    source = Painted()
    cache.load(source, 6, 1).images["train"].zero_()
    np.testing.assert_array_equal(
        cache.load(source, 6, 1).images["train"][:, 0].numpy(), source.pixels["train"]
    )
    assert source.reads == ["train", "test"]


def test_equal_data_have_equal_fingerprints_wherever_they_come_from(tmp_path: Path) -> None:
    here = cache.load(Painted(), 6, 1)
    there = cache.load(Painted(key="elsewhere"), 6, 1, folder=str(tmp_path / "there"))
    assert_same(there, here)


def test_other_pixels_labels_or_sizes_have_other_fingerprints() -> None:
    relabelled = Painted(key="relabelled")
    relabelled.labels["test"][0] = 2
    repainted = Painted(key="repainted")
    repainted.pixels["test"][-1, -1, -1] ^= 1
    prints = {
        cache.load(source, size, 1).fingerprint
        for source, size in [(Painted(), 6), (relabelled, 6), (repainted, 6), (Painted(), 7)]
    }
    assert len(prints) == 4


@pytest.mark.parametrize("size", [4, 6, 15])
def test_pictures_are_resized_bilinearly(size: int) -> None:
    source = Painted(side=9)
    pixels = torch.from_numpy(source.pixels["train"])[:, None].float()
    wanted = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    assert (cache.load(source, size, 1).images["train"] - wanted).abs().max() <= 1.0


def test_grey_becomes_three_equal_channels_and_colour_its_luma() -> None:
    grey = cache.load(Painted(), 6, 3).images["train"]
    assert torch.equal(grey[:, 0], torch.from_numpy(Painted().pixels["train"]))
    assert torch.equal(grey, grey[:, :1].expand(-1, 3, -1, -1))
    source = Painted(key="colour", colour=True)
    luma = source.pixels["train"] @ np.array([0.299, 0.587, 0.114])
    decoded = cache.load(source, 6, 1).images["train"][:, 0].numpy()
    assert np.abs(decoded - luma).max() <= 1.0


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])  # both are how Pillow opens 16 bits
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_pictures_keep_their_greys(dtype: type[np.generic], channels: int) -> None:
    source = Painted()
    source.pixels = {k: p.astype(dtype) * dtype(257) for k, p in source.pixels.items()}
    decoded = cache.load(source, 6, channels).images["train"].numpy()
    for channel in range(channels):
        np.testing.assert_array_equal(decoded[:, channel], Painted().pixels["train"])


def test_decoding_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    cache.load(Painted(counts=(2001, 4)), 6, 1, on_decode=lambda *step: told.append(step))
    assert told == [("train", 2000, 2001), ("train", 2001, 2001), ("test", 4, 4)]
    cache.load(Painted(counts=(2001, 4)), 6, 1, on_decode=lambda *step: told.append(step))
    assert len(told) == 3


def test_nothing_under_the_final_name_is_seen_while_decoding(root: Path) -> None:
    seen: list[list[str]] = []
    source = Painted(when_read=lambda split: seen.append([p.name for p in root.iterdir()]))
    cache.load(source, 6, 1)
    assert all(len(names) == 1 and names[0].startswith(".decoding-") for names in seen)
    assert not any(p.name.startswith(".") for p in root.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("broken file"), KeyboardInterrupt()])
@pytest.mark.parametrize("split", cache.SPLITS)
def test_a_failure_leaves_no_folder_behind_and_the_next_load_decodes(
    root: Path, split: str, error: BaseException
) -> None:
    def fail(now: str) -> None:
        if now == split:
            raise error

    with pytest.raises(type(error)):
        cache.load(Painted(when_read=fail), 6, 1)
    assert list(root.iterdir()) == []
    assert len(cache.load(Painted(), 6, 1).images["train"]) == 7


def test_a_picture_that_fails_half_way_leaves_no_folder_behind(root: Path) -> None:
    class Torn(Painted):
        def images(self, split: str) -> Iterator[Image]:
            yield from list(super().images(split))[:3]
            raise OSError("truncated picture")

    with pytest.raises(UserError) as error:
        cache.load(Torn(), 6, 1)
    assert str(error.value) == "image 4 of the train split cannot be decoded: truncated picture"
    assert list(root.iterdir()) == []


def spoilt(content: bytes) -> Image:
    return open_picture(io.BytesIO(content))


def png() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


# IHDR, 33 bytes; IDAT begins there, and its data eight bytes later
TRUNCATED = png()[:400]
BROKEN_CHUNK = png()[:33] + (200).to_bytes(4, "big") + png()[37:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: spoilt(TRUNCATED),
        lambda: spoilt(BROKEN_CHUNK),
        lambda: spoilt(b"no picture"),
        lambda: None,
    ],
    ids=["truncated", "broken chunk", "no picture", "missing"],
)
def test_a_picture_that_cannot_be_decoded_is_named(
    root: Path, make: Callable[[], Image | None]
) -> None:
    class Spoilt(Painted):
        def images(self, split: str) -> Iterator[Image]:
            for k, image in enumerate(super().images(split)):
                yield make() if (split, k) == ("test", 1) else image  # type: ignore[misc]

    with pytest.raises(UserError, match=r"^image 2 of the test split cannot be decoded: ."):
        cache.load(Spoilt(), 6, 1)
    assert list(root.iterdir()) == []


def test_who_loses_the_race_reads_what_the_winner_wrote(root: Path) -> None:
    winner: list[cache.Decoded] = []

    def overtake(split: str) -> None:
        if split == "test":
            winner.append(cache.load(Painted(), 6, 1))

    loser = cache.load(Painted(when_read=overtake), 6, 1)
    assert_same(loser, winner[0])
    assert len(list(root.iterdir())) == 1


def test_two_processes_that_decode_at_once_read_the_same_set(root: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(2, timeout=20), fork.Queue()

    def work() -> None:
        decoded = cache.load(Painted(when_read=lambda split: barrier.wait()), 6, 1)
        results.put((decoded.fingerprint, decoded.images["test"].sum().item()))

    processes = [fork.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    wanted = cache.load(Painted(), 6, 1)
    assert found == [(wanted.fingerprint, Painted().pixels["test"].sum())] * 2
    assert len(list(root.iterdir())) == 1


def test_splits_with_different_classes_are_refused(root: Path) -> None:
    with pytest.raises(UserError) as error:
        cache.load(Painted(names=(("a", "b", "c"), ("a", "c", "b"))), 6, 1)
    assert str(error.value) == (
        "the train and test splits have different classes: a, b, c and a, c, b"
    )
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("counts", "split"), [((0, 4), "train"), ((7, 0), "test")])
def test_an_empty_split_is_refused(root: Path, counts: tuple[int, int], split: str) -> None:
    with pytest.raises(UserError) as error:
        cache.load(Painted(counts=counts), 6, 1)
    assert str(error.value) == f"the {split} split of the data set is empty"
    assert list(root.iterdir()) == []


def test_the_folder_of_caches_is_the_given_one_then_ours_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "ours"))
    assert cache.cache_root(str(tmp_path / "given")) == tmp_path / "given"
    assert cache.cache_root(None) == tmp_path / "ours"
    monkeypatch.delenv("GENIU_CACHE")
    assert cache.cache_root(None) == tmp_path / "xdg" / "geniu_lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root(None) == tmp_path / ".cache" / "geniu_lightning"
    assert cache.cache_root("~/mine") == tmp_path / "mine"
