"""Data sets decoded once into tensors on disk, and verified whenever they are opened."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from PIL.Image import DecompressionBombError

from geniu_lightning.data.classes import natural
from geniu_lightning.data.pixels import Form, Pixels
from geniu_lightning.data.sources import Pictures, Source
from geniu_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
# of Pillow for a damaged file, and of a value that is no picture
UNREADABLE = (OSError, SyntaxError, DecompressionBombError, AttributeError, TypeError, ValueError)
# of opening a damaged cache
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
NAMED = 10  # pictures that cannot be decoded, by name; the others are counted
SECONDS_OF_DECODING = 24 * 3600.0  # none takes longer
IN_MEMORY = 1 << 30  # bytes; larger files are mapped
SPLITS = ("train", "test")
OnDecode = Callable[[str, int, int], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """A data set as tensors by split, with its class names.

    Attributes:
        images: uint8, `(N, channels, size, size)`.
        labels: int64, `(N,)`.
        names: Class names, in the order of their indices; a class may be absent from one split.
        fingerprint: SHA-256 over all pixels and labels, whatever their source.
        class_fingerprints: SHA-256 over the pixels of each class by split and name.
    """

    images: "dict[str, Tensor]"
    labels: "dict[str, Tensor]"
    names: tuple[str, ...]
    fingerprint: str
    class_fingerprints: dict[str, dict[str, str]]


def cache_root() -> Path:
    """Return the folder of caches: `$GENIU_CACHE`, else the user's own."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "geniu_lightning"
    return Path(os.environ.get("GENIU_CACHE") or own).expanduser()


def prepare(source: Source, form: Form, on_decode: OnDecode | None = None) -> Path:
    """Return the folder of a decoded data set; decode it unless it is there.

    Of several processes that decode, each into a folder of its own, the first one that renames its
    folder wins.

    `on_decode` is called with (split, images done, images in all), every 2,000 images.
    """
    content = f"{FORMAT}|{source.key()}|{form}"
    place = cache_root() / hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:24]
    try:
        if not (place / "meta.json").exists():
            _fill(place, source, form, on_decode)
    except OSError as error:
        raise UserError(
            f"the images cannot be decoded into {place.parent} ($GENIU_CACHE): {error}"
        ) from error
    return place


def _fill(place: Path, source: Source, form: Form, on_decode: OnDecode | None) -> None:
    """Decode a data set into a temporary folder and rename that."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for rest in place.parent.glob(".decoding-*"):  # of a process that was killed
        with suppress(OSError):  # another process may delete it, too
            if rest.stat().st_mtime < time.time() - SECONDS_OF_DECODING:
                shutil.rmtree(rest, ignore_errors=True)
    with TemporaryDirectory(prefix=".decoding-", dir=place.parent) as temporary:
        work = Path(temporary) / "set"
        work.mkdir()
        _decode(source, form, work, on_decode)
        if not (place / "meta.json").exists():
            shutil.rmtree(place, ignore_errors=True)  # the rest of a damaged one
        try:
            work.rename(place)
        except OSError:  # another process was first
            if not (place / "meta.json").exists():
                raise


def load(source: Source, form: Form, on_decode: OnDecode | None = None) -> Decoded:
    """Return a decoded and verified data set; one that is damaged is decoded again."""
    place = prepare(source, form, on_decode)
    with suppress(*DAMAGED):
        return _open(place)
    with FileLock(f"{place}.lock"):  # one process mends it
        try:
            return _open(place)
        except DAMAGED as error:
            log.warning("the decoded images in %s are damaged (%s): decoding again", place, error)
            shutil.rmtree(place, ignore_errors=True)
        return _open(prepare(source, form, on_decode))


def _decode(source: Source, form: Form, folder: Path, on_decode: OnDecode | None) -> None:
    splits = {split: source.read(split) for split in SPLITS}
    for split, pictures in splits.items():
        if not len(pictures.labels):
            raise UserError(f"the {split} split of the data set is empty")
    names = _all_names(splits["train"].names, splits["test"].names)
    for name in names:
        if not name.isprintable() or not name or "${" in name:
            raise UserError(f"a class is named {name!r}: names must be printable, and without ${{")
    if len(names) < 2:
        raise UserError(f"all images are of one class, {names[0]}: a classifier needs two")
    size = form.channels * form.size**2 * sum(len(one.labels) for one in splits.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"the decoded images take {size >> 20:,} MB, and {folder.parents[1]} has {free >> 20:,}"
            " MB left: set $GENIU_CACHE, or a smaller data.image_size"
        )
    whole = hashlib.sha256()
    classes: dict[str, dict[str, str]] = {}
    damaged: list[str] = []
    for split, pictures in splits.items():
        own = np.array([names.index(name) for name in pictures.names], dtype=np.int64)
        labels = own[np.asarray(pictures.labels, dtype=np.int64)]
        labels.tofile(folder / f"{split}.labels")
        whole.update(labels.tobytes())
        each = {int(k): hashlib.sha256() for k in np.unique(labels)}
        decoded = _pixels(pictures, split, form, on_decode, damaged)
        with (folder / f"{split}.images").open("wb") as file:
            for label, pixels in zip(labels.tolist(), decoded, strict=True):
                raw = pixels.tobytes()
                file.write(raw)
                whole.update(raw)
                each[label].update(raw)
        classes[split] = {names[k]: digest.hexdigest() for k, digest in each.items()}
    if damaged:
        raise UserError("; ".join(damaged))
    meta = {
        "counts": {split: len(pictures.labels) for split, pictures in splits.items()},
        "shape": [form.channels, form.size, form.size],
        "names": names,
        "fingerprint": whole.hexdigest(),
        "class_fingerprints": classes,
    }
    (folder / "meta.json").write_text(json.dumps(meta | {"checksum": _checksum(meta)}))


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _all_names(train: tuple[str, ...], test: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names of both splits, in the order of the larger set of names."""
    for larger, smaller in ((train, test), (test, train)):
        if set(smaller) <= set(larger):
            return larger
    return tuple(sorted({*train, *test}, key=natural))


def _pixels(
    pictures: Pictures,
    split: str,
    form: Form,
    on_decode: OnDecode | None,
    damaged: list[str],
) -> Iterator[Pixels]:
    """Yield the pixels of each picture; add a sentence to `damaged` at the end if any is."""
    total = len(pictures.labels)
    named: list[str] = []
    count = 0
    for k in range(total):
        try:  # a damaged one is black until all are known
            pixels = form.pixels(pictures.image(k))
        except UNREADABLE as error:
            count += 1
            if count <= NAMED:
                name = pictures.files[k] if pictures.files else f"image {k + 1}"
                named.append(f"{name} ({error})")
            pixels = np.zeros((form.channels, form.size, form.size), dtype=np.uint8)
        yield pixels
        if on_decode is not None and ((k + 1) % 2000 == 0 or k + 1 == total):
            on_decode(split, k + 1, total)
    if named:
        more = f", and {count - NAMED} more" if count > NAMED else ""
        damaged.append(
            f"{count} of {total} images of the {split} split cannot be decoded:"
            f" {'; '.join(named)}{more}"
        )


def fingerprint(source: Source, form: Form, on_decode: OnDecode | None = None) -> str:
    """Return the fingerprint of a data set, which is decoded if no cache has it."""
    place = prepare(source, form, on_decode)
    try:
        return str(_meta(place)["fingerprint"])
    except DAMAGED:
        return load(source, form, on_decode).fingerprint


def _meta(place: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((place / "meta.json").read_text())
    if meta.pop("checksum") != _checksum(meta):
        raise ValueError("the checksum of meta.json does not match")
    return meta


def _open(place: Path) -> Decoded:
    """Return the set in a folder; raise `ValueError` if it is not what was decoded."""
    import torch  # takes seconds

    meta = _meta(place)
    images, labels = {}, {}
    digest = hashlib.sha256()
    for split, count in meta["counts"].items():
        shape = (count, *meta["shape"])
        files = place / f"{split}.labels", place / f"{split}.images"
        for file, size in zip(files, (8 * count, int(np.prod(shape))), strict=True):
            if file.stat().st_size != size:
                raise ValueError(f"{file.name} has {file.stat().st_size} bytes instead of {size}")
        known = np.fromfile(files[0], dtype=np.int64)
        if files[1].stat().st_size <= IN_MEMORY:
            pixels = np.fromfile(files[1], dtype=np.uint8)
        else:
            pixels = np.memmap(files[1], dtype=np.uint8, mode="c")
        digest.update(known.data)
        digest.update(pixels.data)
        labels[split] = torch.from_numpy(known)
        images[split] = torch.from_numpy(pixels).view(shape)
    if digest.hexdigest() != meta["fingerprint"]:
        raise ValueError("the checksum of the images does not match")
    names = tuple(meta["names"])
    return Decoded(images, labels, names, meta["fingerprint"], meta["class_fingerprints"])
