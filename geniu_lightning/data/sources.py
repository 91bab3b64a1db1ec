"""Where images come from: a name turned into pictures, labels and class names.

A source is a small object with two methods. ``key()`` says in a few words what would be read, and
is cheap: it names the cache. ``read(split)`` reads it, and is called once for each split.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL.Image import Image, fromarray, registered_extensions

from geniu_lightning.errors import DataNotFoundError, UserError


@dataclass(frozen=True)
class Pictures:
    """One split as it was found: pictures of any size, decoded one by one while iterating."""

    images: Iterator[Image]
    labels: Sequence[int]
    names: tuple[str, ...]


class Source(Protocol):
    """What `ImageData` reads from."""

    def key(self) -> str:
        """Return what would be read, down to sizes and times of files; changes when they do."""

    def read(self, split: str) -> Pictures:
        """Read ``"train"`` or ``"test"``."""


class Digits:
    """Scikit-learn's 1,797 handwritten digits, 8×8 grey; no network, no files.

    The set has no official split: a fifth of each class, drawn once with a fixed key, is the test
    set (355 images).

    Source:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """

    def __init__(self, name: str = "digits", root: str | None = None) -> None:
        """Take, and not need, what the other sources need."""

    def key(self) -> str:
        """Return a constant: the set ships with scikit-learn."""
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
            images=(fromarray(image) for image in pixels),
            labels=bunch.target[chosen].tolist(),
            names=tuple(str(k) for k in range(10)),
        )


class HubSet:
    """An image-classification set: a local copy where there is one, else the Hugging Face Hub.

    Args:
        name: Folder of the local copy below ``root``.
        root: Folder of local copies; ``None`` is ``$GENIU_DATA``, else ``data``.
        hub_id: Id on the Hub, such as ``"ylecun/mnist"``; ``None`` looks at the local copy only.
        config: Configuration of the set on the Hub, where it has several.
        revision: Commit or tag on the Hub.
        image_column: Column of the pictures.
        label_column: Column of the labels: a ``ClassLabel``, integers or strings.
        train_split: Name of the training split.
        test_split: Name of the test split.
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
        """Name the files of the local copy with their sizes and times, or the id on the Hub."""
        what = f"{self.columns}{sorted(self.splits.items())}"
        if self.local.is_dir():
            return f"{what}{_listing(self.local)}"
        return f"{what}{self.hub_id}@{self.config}@{self.revision}"

    def read(self, split: str) -> Pictures:
        """Return one split.

        Raises:
            DataNotFoundError: If neither the local copy nor the Hub has the set.
            UserError: If the set lacks a named column or split.
        """
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
        return Pictures((row[image_column] for row in rows), labels, names)

    def _rows(self, split: str) -> Any:  # a datasets.Dataset; the package is imported late
        import datasets

        datasets.disable_progress_bars()
        where = str(self.local) if self.local.is_dir() else self.hub_id
        if where is None:
            raise self._not_found("no Hub id is given")
        try:
            local = {} if self.local.is_dir() else {"name": self.config, "revision": self.revision}
            return datasets.load_dataset(where, split=split, **local)
        except ValueError as error:
            if "split" in str(error).lower():
                raise UserError(
                    f"{where} has no split {split!r}: {error}; set data.source.train_split and"
                    " data.source.test_split"
                ) from error
            raise self._not_found(_first_line(error)) from error
        except (OSError, RuntimeError) as error:
            raise self._not_found(_first_line(error)) from error

    def _not_found(self, reason: str) -> DataNotFoundError:
        if self.local.is_dir():
            return DataNotFoundError(f"{self.local} holds no data set that can be read ({reason})")
        return DataNotFoundError(
            f"the data set is neither at {self.local} (data.root, data.name) nor could"
            f" {self.hub_id or 'it'} be loaded from the Hugging Face Hub ({reason};"
            " data.source.hub_id)"
        )


class ImageFolder(HubSet):
    """A folder of one's own: ``<root>/<name>/{train,test}/<class>/*.png`` (or jpg, …).

    Args:
        name: Folder below ``root``.
        root: Folder of local sets; ``None`` is ``$GENIU_DATA``, else ``data``.
    """

    def __init__(self, name: str, root: str | None = None) -> None:
        super().__init__(name, root)

    def _rows(self, split: str) -> Any:
        import datasets

        datasets.disable_progress_bars()
        folder = self.local / self.splits[split]
        for part in self.splits.values():
            if not any(p.is_dir() for p in (self.local / part).glob("*")):
                raise DataNotFoundError(
                    f"{self.local / part} does not exist or has no folders of classes; a folder"
                    " of images is <data.root>/<data.name>/{train,test}/<class>/*.png"
                )
        # files by name: left to itself, the builder takes a class folder named train for a split
        # (and a pattern for a name with brackets), an archive for more pictures
        files = [
            glob.escape(str(path))
            for path in sorted(folder.glob("*/*"))
            if path.suffix.lower() in registered_extensions()
        ]
        try:
            return datasets.load_dataset(
                "imagefolder", data_files={split: files}, split=split, drop_labels=False
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"{self.local} cannot be read as a folder of images: {error}"
            ) from error


def _listing(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = ((path.relative_to(folder), path.stat()) for path in files)
    return ";".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _labels(rows: Any, column: str) -> tuple[list[int], tuple[str, ...]]:
    values = list(rows[column])
    names = getattr(rows.features[column], "names", None)
    if None in values or (names is not None and not all(0 <= v < len(names) for v in values)):
        raise UserError(f"the column {column!r} has images without a label")
    if names is not None:
        return values, tuple(names)
    found = sorted(set(values))
    position = {value: k for k, value in enumerate(found)}
    return [position[value] for value in values], tuple(str(value) for value in found)
