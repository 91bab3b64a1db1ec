"""Sources of images: a name becomes pictures, labels and class names.

A source has two methods. `key()` names its content in a few words and is cheap: the cache is found
by it. `read(split)` returns the pictures, and is called once for each split. No torch is imported
here: a run is named by its data before torch is needed.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL.Image import OPEN, fromarray, registered_extensions

from geniu_lightning.data.classes import natural
from geniu_lightning.data.pixels import opened
from geniu_lightning.errors import DataNotFoundError, UserError, first_line
from geniu_lightning.settings.checked import checked

SECONDS_FOR_THE_HUB = 10.0
log = logging.getLogger(__name__)


class Pictures(NamedTuple):
    """One split: pictures of any size, decoded one by one.

    Attributes:
        image: Returns the k-th picture, of PIL.
        labels: Class of each picture.
        names: Class names in the order of their labels; those of a class without pictures may be
            missing.
        files: Name of each picture, if it has one, for messages.
    """

    image: Callable[[int], Any]
    labels: Sequence[int]
    names: tuple[str, ...]
    files: Sequence[str] = ()


class Source(Protocol):
    """What `ImageData` reads from."""

    def key(self) -> str:
        """Name the content, down to sizes and times of files, cheaply: the key of the cache."""

    def read(self, split: str) -> Pictures:
        """Read `"train"` or `"test"`, once for each cache."""


@checked
class Digits:
    """Scikit-learn's 1,797 handwritten digits, 8×8 grey; no network, no files.

    There is no official split: a fifth of each class, drawn with a fixed key, is the test set.

    Source:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """

    def __init__(self, name: str = "digits", root: str | None = None) -> None:
        """Ignore the arguments of a source: the set ships with scikit-learn."""

    def key(self) -> str:
        """Return a constant."""
        return "digits-1"

    def read(self, split: str) -> Pictures:
        """Return one split; pixel values 0 to 16 are spread over 0 to 255."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        rng = np.random.Generator(np.random.PCG64(0))
        test = np.zeros(len(bunch.target), dtype=bool)
        for k in range(10):
            members = np.flatnonzero(bunch.target == k)
            test[rng.permutation(members)[: len(members) // 5]] = True
        chosen = np.flatnonzero(test if split == "test" else ~test)
        pixels = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
        return Pictures(
            image=lambda k: fromarray(pixels[k]),
            labels=bunch.target[chosen].tolist(),
            names=tuple(str(k) for k in range(10)),
        )


@checked
class HubSet:
    """An image-classification set: a local copy where there is one, else the Hugging Face Hub.

    Args:
        name: Folder of the local copy below `root`.
        root: Folder of local copies; `None` is `$GENIU_DATA`, else `data`.
        hub_id: Id on the Hub, such as `"ylecun/mnist"`; `None` looks at the local copy only.
        config: Configuration of the set on the Hub, where it has several.
        revision: Commit or tag on the Hub.
        label_column: Of a `ClassLabel`, integers or strings.
        train_split: Name of the training split, as the set has it.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        hub_id: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        image_column: str = "image",
        label_column: str = "label",
        train_split: str = "train",
        test_split: str = "test",
    ) -> None:
        self.local = Path(root or os.environ.get("GENIU_DATA") or "data").expanduser() / name
        self.hub_id = hub_id
        self.config = config
        self.revision = revision
        self.columns = (image_column, label_column)
        self.splits = {"train": train_split, "test": test_split}

    def key(self) -> str:
        """Name the files of the local copy, or the id on the Hub."""
        what = f"{self.columns}{sorted(self.splits.items())}"
        if self.local.is_dir():
            return f"{what}{_listing(self.local)}"
        return f"{what}{self.hub_id}@{self.config}@{self.revision}"

    def read(self, split: str) -> Pictures:
        """Return one split."""
        rows = self._rows(self.splits[split])
        image_column, label_column = self.columns
        for column in self.columns:
            if column not in rows.column_names:
                raise UserError(
                    f"{self.hub_id or self.local} has no column {column!r}, only"
                    f" {', '.join(rows.column_names)}; set data.source.image_column and"
                    " data.source.label_column"
                )
        labels, names = _labels(rows, label_column)
        rows = _encoded(rows, image_column)

        def image(k: int) -> Any:
            found = rows[k][image_column]
            return opened(found["bytes"] or Path(found["path"]))

        return Pictures(image, labels, names)

    def _rows(self, split: str) -> Any:  # a datasets.Dataset; the package is imported late
        import datasets

        datasets.disable_progress_bars()
        where = str(self.local) if self.local.is_dir() else self.hub_id
        if where is None:
            raise self._not_found("no Hub id is given")
        if not self.local.is_dir():
            _go_offline_unless_reached(where)
        try:
            local = {} if self.local.is_dir() else {"name": self.config, "revision": self.revision}
            return datasets.load_dataset(where, split=split, **local)
        except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, ValueError) and "split" in str(error).lower():
                raise UserError(
                    f"{where} has no split {split!r}: {error}; set data.source.train_split and"
                    " data.source.test_split"
                ) from error
            raise self._not_found(first_line(error)) from error

    def _not_found(self, reason: str) -> DataNotFoundError:
        if self.local.is_dir():
            return DataNotFoundError(f"{self.local} holds no data set that can be read ({reason})")
        return DataNotFoundError(
            f"the data set is neither at {self.local} (data.root or $GENIU_DATA, data.name) nor"
            f" could {self.hub_id or 'it'} be loaded from the Hugging Face Hub ({reason};"
            " data.source.hub_id)"
        )


@checked
class ImageFolder(HubSet):
    """A folder of pictures: `<root>/<name>/{train,test}/<class>/*.png` (or jpg, …).

    Class folders and pictures may be links. A class may be absent from one split.
    """

    def __init__(self, name: str, root: str | None = None) -> None:
        super().__init__(name, root)

    def key(self) -> str:
        """Name the pictures with the sizes and times of their files, and what is skipped."""
        parts = ["folder"]
        for split in self.splits:
            files, skipped = self._files(split)
            parts += [f"{_place(path)}{_stat(path)}" for path in files]
            parts += [split, *skipped]  # so that a change of these is told
        return "|".join(parts)

    def read(self, split: str) -> Pictures:
        """Return one split; what is skipped is counted in one line of the log."""
        files, skipped = self._files(split)
        if skipped:
            what = ", ".join(f"{n} {reason}" for reason, n in Counter(skipped.values()).items())
            log.info("skipped in %s: %s, such as %s", self.local / split, what, min(skipped))
        found = sorted({path.parent.name for path in files}, key=natural)
        return Pictures(
            image=lambda k: opened(files[k]),
            labels=[found.index(path.parent.name) for path in files],
            names=tuple(found),
            files=[str(path) for path in files],
        )

    def _files(self, split: str) -> tuple[list[Path], dict[str, str]]:
        """Return a split's pictures by class and name, and why other files were skipped."""
        folder = self.local / split
        inside = _visible(folder) if folder.is_dir() else []
        classes = [path for path in inside if path.is_dir()]
        if not classes:
            raise DataNotFoundError(
                f"{folder} does not exist or has no folders of classes; a folder of images is"
                " <data.root>/<data.name>/{train,test}/<class>/*.png"
            )
        endings = {ending for ending, kind in registered_extensions().items() if kind in OPEN}
        files: list[Path] = []
        others = (path for path in inside if path not in classes)
        skipped = {_place(path): "file(s) beside the class folders" for path in others}
        for place in sorted(classes, key=lambda path: natural(path.name)):
            before = len(files)
            for path in _visible(place):
                if path.is_dir():
                    skipped[_place(path)] = "folder(s) below a class"
                elif path.suffix.lower() not in endings:
                    skipped[_place(path)] = "file(s) without the ending of a picture"
                elif not path.is_file():
                    skipped[_place(path)] = "link(s) that lead nowhere, or no file(s)"
                else:
                    files.append(path)
            if len(files) == before:
                skipped[place.name] = "class folder(s) without pictures"
        if not files:
            raise DataNotFoundError(
                f"the class folders of {folder} hold no pictures (such as {min(skipped)}); a folder"
                " of images is <data.root>/<data.name>/{train,test}/<class>/*.png"
            )
        return files, skipped


@runtime_checkable
class MapStyle(Protocol):
    """A map-style `torch.utils.data.Dataset` of (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@checked
class MapDataset:
    """Two map-style torch data sets of (image, label), with transforms of their own.

    An image is a PIL picture or a tensor of shape `(C, H, W)` or `(H, W)`, uint8 or float in
    [0, 1]. Every sample is read when the cache is made, and never again: a random transform is
    frozen. Random shifts and mirrored images are `pad` and `flip` of `ImageData`, normalisation its
    `mean` and `std`.

    Args:
        name: Part of the cache's key.
        root: Not used.
        names: In the order of their labels; `None` takes `train.classes`, else the labels.
        version: Part of the cache's key: change it when samples or transforms change.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        *,
        train: MapStyle,
        test: MapStyle,
        names: Sequence[str] | None = None,
        version: str = "",
    ) -> None:
        self.name = name
        self.sets = {"train": train, "test": test}
        self.names = names
        self.version = version

    def key(self) -> str:
        """Name the set, its version, and the type and length of each split."""
        splits = [(type(s).__module__, type(s).__qualname__, len(s)) for s in self.sets.values()]
        return f"map|{self.name}|{self.version}|{splits}"

    def read(self, split: str) -> Pictures:
        """Return one split."""
        samples = self.sets[split]
        try:
            labels = [int(samples[k][1]) for k in range(len(samples))]
        except (TypeError, ValueError, LookupError) as error:
            raise UserError(
                f"a sample of the {split} set must be a pair of an image and an integer label:"
                f" {first_line(error)}"
            ) from error
        numbers = range(1 + max(labels, default=0))
        classes = self.names or getattr(self.sets["train"], "classes", None) or numbers
        names = tuple(map(str, classes))
        if labels and not 0 <= min(labels) <= max(labels) < len(names):
            raise UserError(
                f"the labels of the {split} set lie in {min(labels)} to {max(labels)}, but there"
                f" are {len(names)} classes"
            )
        return Pictures(lambda k: _picture_of(samples[k][0]), labels, names)


def _picture_of(image: Any) -> Any:  # a PIL picture, or what its author made; the cache checks it
    """Return a picture of a tensor; other images as they are."""
    import torch
    from torch import Tensor

    if not isinstance(image, Tensor):
        return image
    if image.dtype != torch.uint8:
        if not (image.is_floating_point() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                "a tensor must be uint8 or floats in [0, 1], without normalisation: set data.mean"
                f" and data.std instead (got {image.dtype} from {image.min()} to {image.max()})"
            )
        image = image.mul(255).round().to(torch.uint8)
    if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"a tensor must have shape (1 or 3, H, W) or (H, W), got {image.shape}")
    pixels = image.reshape(-1, *image.shape[-2:]).permute(1, 2, 0)
    return fromarray(pixels.squeeze(2).contiguous().numpy())


def _go_offline_unless_reached(hub_id: str) -> None:
    """Let `datasets` look at its own cache alone, rather than try for half a minute in vain."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(hub_id, timeout=SECONDS_FOR_THE_HUB)
    except HfHubHTTPError:  # which answers; `load_dataset` says what it lacks
        return
    except Exception:  # of whichever library carries its requests
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _listing(folder: Path) -> str:
    """Return all files below a folder with sizes and times; links to folders are followed."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        found += [Path(root, name) for name in files]
    return ";".join(f"{path.relative_to(folder)}{_stat(path)}" for path in sorted(found))


def _stat(path: Path) -> str:
    stat = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
    return f":{stat.st_size}:{stat.st_mtime_ns}"


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds but for files and folders of systems, sorted."""
    systems = ("Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")
    return sorted(p for p in folder.iterdir() if p.name not in systems and p.name[0] != ".")


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _labels(rows: Any, column: str) -> tuple[list[int], tuple[str, ...]]:
    values = list(rows[column])
    names = getattr(rows.features[column], "names", None)
    if not all(isinstance(value, str | int | float | None) for value in values):
        kind = type(next(v for v in values if not isinstance(v, str | int | float | None)))
        raise UserError(
            f"the column {column!r} holds a {kind.__name__} where a label must be a string or a"
            " number; set data.source.label_column"
        )
    missing = any(v is None or (isinstance(v, float) and math.isnan(v)) for v in values)
    if missing or (names is not None and not all(0 <= v < len(names) for v in values)):
        raise UserError(f"the column {column!r} has images without a label")
    if names is not None:
        return values, tuple(names)
    found = sorted(set(values), key=natural if isinstance(values[0], str) else None)
    position = {value: k for k, value in enumerate(found)}
    return [position[value] for value in values], tuple(str(value) for value in found)


def _encoded(rows: Any, column: str) -> Any:  # a datasets.Dataset
    """Return rows whose pictures are not decoded yet, so that a damaged one can be named."""
    import datasets

    kind = rows.features[column]
    picture = isinstance(kind, datasets.Image) or getattr(kind, "dtype", "") in (
        "binary",
        "large_binary",
    )
    if not picture:
        raise UserError(
            f"the column {column!r} holds no pictures ({kind}); set data.source.image_column"
        )
    return rows.cast_column(column, datasets.Image(decode=False))
