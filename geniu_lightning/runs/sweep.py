"""Notes of a sweep's jobs: files that any process on any machine may write."""

import json
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from geniu_lightning.files import write_json

NOTES = ".sweeps"  # below the folder of all runs
SECONDS_STORED = 7 * 24 * 3600.0  # notes of killed sweeps
UNENDED = "it did not end: it was killed, or is at work still"


@dataclass(frozen=True)
class Note:
    """State of one job; its folder is empty if it had none yet, its failure if it ended well."""

    number: int
    words: Sequence[str]
    folder: str = ""
    failed: str = UNENDED

    def write(self, notes: Path) -> None:
        """Write the note, in place of an earlier one of the same job."""
        notes.mkdir(parents=True, exist_ok=True)
        write_json(notes / f"{self.number}.json", asdict(self))


def new_notes(runs: Path) -> Path:
    """Return the folder for the notes of a new sweep, and delete those of sweeps long killed."""
    for old in (runs / NOTES).glob("*"):
        if old.stat().st_mtime < time.time() - SECONDS_STORED:
            shutil.rmtree(old, ignore_errors=True)
    return runs.absolute() / NOTES / secrets.token_hex(4)


def collect(notes: Path) -> list[Note]:
    """Return the notes in the order of jobs, and delete their files."""
    found = [Note(**json.loads(file.read_text())) for file in notes.glob("*.json")]
    shutil.rmtree(notes, ignore_errors=True)
    with suppress(OSError):  # another sweep's notes are there, or there never were any
        notes.parent.rmdir()
    return sorted(found, key=lambda note: note.number)
