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
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL.Image import OPEN, fromarray, registered_extensions

from geniu_lightning.data.classes import natural
from geniu_lightning.data.listing import listing, place_of, stat_of, visible
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
            return f"{what}{listing(self.local)}"
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
            parts += [f"{place_of(path)}{stat_of(path)}" for path in files]
            parts += [split, *skipped]  # a change of these is logged again
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
        inside = visible(folder) if folder.is_dir() else []
        classes = [path for path in inside if path.is_dir()]
        if not classes:
            raise DataNotFoundError(
                f"{folder} does not exist or has no folders of classes; a folder of images is"
                " <data.root>/<data.name>/{train,test}/<class>/*.png"
            )
        endings = {ending for ending, kind in registered_extensions().items() if kind in OPEN}
        files: list[Path] = []
        others = (path for path in inside if path not in classes)
        skipped = {place_of(path): "file(s) outside the class folders" for path in others}
        for place in sorted(classes, key=lambda path: natural(path.name)):
            before = len(files)
            for path in visible(place):
                if path.is_dir():
                    skipped[place_of(path)] = "folder(s) below a class"
                elif path.suffix.lower() not in endings:
                    skipped[place_of(path)] = "file(s) without the ending of a picture"
                elif not path.is_file():
                    skipped[place_of(path)] = "link(s) that lead nowhere, or no file(s)"
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
