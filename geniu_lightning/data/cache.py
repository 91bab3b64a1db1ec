"""Data sets decoded once into tensors on disk, and memory-mapped after that."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL.Image import DecompressionBombError, Image, Resampling, fromarray
from torch import Tensor

from geniu_lightning.data.sources import Pictures, Source
from geniu_lightning.errors import UserError

FORMAT = 1
# of Pillow for a damaged file, and of a value that is no picture
UNREADABLE = (OSError, SyntaxError, DecompressionBombError, AttributeError, ValueError)
SPLITS = ("train", "test")
OnDecode = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Decoded:
    """A data set as tensors by split, with its class names."""

    images: dict[str, Tensor]  # uint8, (N, channels, size, size), mapped from the file
    labels: dict[str, Tensor]  # int64, (N,)
    names: tuple[str, ...]
    fingerprint: str  # SHA-256 over all pixels and labels, whatever their source


def cache_root(folder: str | None) -> Path:
    """Return the folder of caches: the given one, else `$GENIU_CACHE`, else the user's own."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "geniu_lightning"
    return Path(folder or os.environ.get("GENIU_CACHE") or own).expanduser()


def load(
    source: Source,
    size: int,
    channels: int,
    folder: str | None = None,
    on_decode: OnDecode | None = None,
) -> Decoded:
    """Return a decoded data set; decode it first if no cache has it.

    Of several processes that decode, each into a folder of its own, the first one that renames its
    folder wins.

    Pictures of another size are resized bilinearly. `on_decode` is called with (split, images
    done, images in all), every 2,000 images.
    """
    content = f"{FORMAT}|{source.key()}|{size}|{channels}"
    place = cache_root(folder) / hashlib.sha256(content.encode()).hexdigest()[:24]
    if not (place / "meta.json").exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".decoding-", dir=place.parent) as temporary:
            work = Path(temporary) / "set"
            work.mkdir()
            _decode(source, size, channels, work, on_decode)
            try:
                work.rename(place)
            except OSError:  # another process was first
                if not (place / "meta.json").exists():
                    raise
    return _open(place)


def _decode(
    source: Source, size: int, channels: int, folder: Path, on_decode: OnDecode | None
) -> None:
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    names: tuple[str, ...] = ()
    for split in SPLITS:
        pictures = source.read(split)
        counts[split] = len(pictures.labels)
        if not counts[split]:
            raise UserError(f"the {split} split of the data set is empty")
        if names and pictures.names != names:
            raise UserError(
                f"the train and test splits have different classes: {', '.join(names[:10])}"
                f" and {', '.join(pictures.names[:10])}"
            )
        names = pictures.names
        labels = np.asarray(pictures.labels, dtype=np.int64)
        labels.tofile(folder / f"{split}.labels")
        digest.update(labels.tobytes())
        with (folder / f"{split}.images").open("wb") as file:
            for pixels in _pixels(pictures, split, size, channels, on_decode):
                file.write(pixels)
                digest.update(pixels)
    meta = {
        "counts": counts,
        "shape": [channels, size, size],
        "names": names,
        "fingerprint": digest.hexdigest(),
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _pixels(
    pictures: Pictures, split: str, size: int, channels: int, on_decode: OnDecode | None
) -> Iterator[bytes]:
    total = len(pictures.labels)
    images = iter(pictures.images)
    for done in range(1, total + 1):
        try:
            yield _to_array(next(images), size, channels).tobytes()
        except UNREADABLE as error:
            raise UserError(
                f"image {done} of the {split} split cannot be decoded: {error}"
            ) from error
        if on_decode is not None and (done % 2000 == 0 or done == total):
            on_decode(split, done, total)


def _to_array(
    picture: Image, size: int, channels: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if picture.mode.startswith("I"):  # 16 bits: a conversion would cut them off at 255
        picture = fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Resampling.BILINEAR)
    array = np.asarray(picture, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def _open(place: Path) -> Decoded:
    meta = json.loads((place / "meta.json").read_text())
    images, labels = {}, {}
    for split, count in meta["counts"].items():
        shape = [count, *meta["shape"]]
        flat = torch.from_file(
            str(place / f"{split}.images"),
            shared=False,
            size=int(np.prod(shape)),
            dtype=torch.uint8,
        )
        images[split] = flat.view(shape)
        labels[split] = torch.from_numpy(np.fromfile(place / f"{split}.labels", dtype=np.int64))
    return Decoded(images, labels, tuple(meta["names"]), meta["fingerprint"])
