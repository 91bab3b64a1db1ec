"""The rows that a run has sent to wandb, kept in a file of our own, and the files of wandb's.

wandb without a network keeps the newest rows in memory until 32 KB have gathered: a run that is
killed loses them, and one that goes on from its checkpoint does not make them again.
"""

import json
from collections.abc import Mapping
from pathlib import Path

FILE = ".wandb_rows"
ASIDE = "superseded"


class History:
    """Rows of numbers by step.

    Args:
        folder: The run's.

    Attributes:
        folder: As given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE
        self._begun = False

    def last(self) -> int:
        """Return the last step that is kept; -1 without one."""
        return max(self._rows(), default=-1)

    @property
    def ended(self) -> bool:
        """Whether a run has come to its end: the row of what is shown there has no numbers."""
        return list(self._rows().values())[-1:] == [{}]

    def begin(self, step: int) -> dict[int, dict[str, float]]:
        """Forget the steps from one on, for they are made again, and return those before.

        Args:
            step: The first that this process logs.
        """
        before = {k: row for k, row in self._rows().items() if k < step}
        partial = self._path.with_name(f"{FILE}.partial")
        partial.write_text("".join(_line(k, row) for k, row in before.items()))
        partial.replace(self._path)
        self._begun = True
        return before

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Keep a row, or more of one that is kept; it outlives the process at once."""
        with self._path.open("a") as file:
            file.write(_line(step, row))

    @property
    def begun(self) -> bool:
        """Whether this process has logged a step."""
        return self._begun

    def _rows(self) -> dict[int, dict[str, float]]:
        rows: dict[int, dict[str, float]] = {}
        text = self._path.read_text() if self._path.is_file() else ""
        for line in text.splitlines():
            try:
                step, row = json.loads(line)
            except ValueError:  # the process was killed within it
                continue
            rows.setdefault(step, {}).update(row)
        return dict(sorted(rows.items()))


def was_sent(folder: Path) -> bool:
    """Whether a server has rows of a run: it was online, or its files were synced."""
    return any(folder.glob("wandb/run-*")) or any(folder.glob("wandb/offline-run-*/*.sync*"))


def set_aside(folder: Path, newest: Path) -> None:
    """Put wandb's files of a run away, which say what the newest one says again.

    ``wandb sync`` would show their rows a second time, and refuses the file of a killed process.

    Args:
        folder: The run's.
        newest: Folder of the file that stays.
    """
    for old in folder.glob("wandb/offline-run-*"):
        if old.name != newest.name:
            (folder / "wandb" / ASIDE).mkdir(exist_ok=True)
            old.rename(folder / "wandb" / ASIDE / old.name)


def _line(step: int, row: Mapping[str, float]) -> str:
    return json.dumps([step, dict(row)]) + "\n"
