"""The rows that a run has sent to wandb, kept in a file of our own, and the files of wandb's.

wandb without a network keeps the newest rows in memory until 32 KB have gathered: a run that is
killed loses them, and one that goes on from its checkpoint does not make them again.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = ".wandb_rows"
ASIDE = "superseded"


class History:
    """Rows of numbers by step, and which of wandb's files was told them.

    Args:
        folder: The run's.

    Attributes:
        folder: As given.
        begun: Whether this process has logged a step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = False
        self._path = folder / FILE
        self._file = ""

    def last(self) -> int:
        """Return the last step that is kept; -1 without one."""
        return max(self._rows(), default=-1)

    def told(self) -> dict[str, int]:
        """Return the last step that each of wandb's files was told, by the names of its folders."""
        told: dict[str, int] = {}
        for line in self._lines():
            if isinstance(line, dict):
                told |= line
            else:
                step, _, file = line
                told[file] = max(step, told.get(file, -1))
        return told

    def begin(self, step: int, file: str) -> dict[int, dict[str, float]]:
        """Forget the steps from one on, for they are made again, and return those before.

        Args:
            step: The first that this process logs.
            file: Folder of wandb's file of this process, which is told all.
        """
        before = {k: row for k, row in self._rows().items() if k < step}
        lines = [self.told(), *([k, row, file] for k, row in before.items())]
        partial = self._path.with_name(f"{FILE}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
        partial.replace(self._path)
        self._file = file
        self.begun = True
        return before

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Keep a row, or more of one that is kept; it outlives the process at once."""
        with self._path.open("a") as file:
            file.write(json.dumps([step, dict(row), self._file]) + "\n")

    def _rows(self) -> dict[int, dict[str, float]]:
        rows: dict[int, dict[str, float]] = {}
        for line in self._lines():
            if isinstance(line, list):
                rows.setdefault(line[0], {}).update(line[1])
        return dict(sorted(rows.items()))

    def _lines(self) -> Iterator[Any]:  # what stands in the file, as JSON has it
        text = self._path.read_text() if self._path.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # the process was killed within it
                yield json.loads(line)


def sent(folder: Path) -> list[str]:
    """Return which of wandb's files of a run a server has: written online, or synced since."""
    online = [path.name for path in folder.glob("wandb/run-*")]
    return online + [path.name for path in _offline(folder) if _synced(path)]


def set_aside(folder: Path, newest: str) -> None:
    """Put away wandb's files of a run that say what the newest one says again, unless synced.

    ``wandb sync`` would show their rows a second time, and refuses the file of a killed process.

    Args:
        folder: The run's.
        newest: Folder of the file that stays.
    """
    for old in _offline(folder):
        if old.name != newest and not _synced(old):
            (folder / "wandb" / ASIDE).mkdir(exist_ok=True)
            old.rename(folder / "wandb" / ASIDE / old.name)


def _offline(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*"))


def _synced(file: Path) -> bool:
    return any(file.glob("*.synced"))
