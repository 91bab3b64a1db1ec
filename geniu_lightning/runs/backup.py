"""Backup of the results that a forced run replaces, until the new ones are whole."""

import shutil
from collections.abc import Iterable
from pathlib import Path

BACKUP = ".replaced"


class Backup:
    """A folder inside a run's folder that holds the results of an earlier run.

    Args:
        folder: The run's folder.
        patterns: Globs of the files and folders that a run writes; others are left alone.
    """

    def __init__(self, folder: Path, patterns: Iterable[str]) -> None:
        self.folder = folder
        self.patterns = tuple(patterns)
        self.path = folder / BACKUP

    @property
    def exists(self) -> bool:
        """Whether a forced run was begun and not ended."""
        return self.path.exists()

    def make(self) -> None:
        """Move the results into the backup; where there is one already, delete them."""
        if self.exists:
            self._delete_results()
            return
        self.path.mkdir()
        for child in self._results():
            child.rename(self.path / child.name)

    def restore(self) -> None:
        """Delete the results and put those of the backup in their place."""
        self._delete_results()
        for child in self.path.iterdir():
            child.rename(self.folder / child.name)
        self.path.rmdir()

    def drop(self) -> None:
        """Delete the backup."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _results(self) -> list[Path]:
        return [child for pattern in self.patterns for child in self.folder.glob(pattern)]

    def _delete_results(self) -> None:
        for child in self._results():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
