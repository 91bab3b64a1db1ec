"""A sweep: notes of its jobs, written by a callback of Hydra, and the table of its runs."""

import json
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from geniu_lightning.errors import UserError
from geniu_lightning.files import write_json
from geniu_lightning.runs.processes import is_rank_zero

NOTES = ".sweeps"  # below the folder of all runs
SECONDS_STORED = 7 * 24 * 3600.0  # notes of killed sweeps
UNENDED = "it did not end: it was killed, or is at work still"

_begun: list[Path] = []  # notes of the sweeps that this process began


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


class JobNotes(Callback):
    """Writes a note when a job begins, which a killed one leaves, and another when it ends.

    It is pickled into the processes of joblib and submitit, with the folder of the notes.
    """

    def __init__(self) -> None:
        self.notes: Path | None = None  # outside a sweep

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder of this sweep's notes, and delete those of sweeps long killed."""
        sweeps = Path(config.runs).expanduser().absolute() / NOTES
        for old in sweeps.glob("*"):
            if old.stat().st_mtime < time.time() - SECONDS_STORED:
                shutil.rmtree(old, ignore_errors=True)
        self.notes = sweeps / secrets.token_hex(4)
        _begun.append(self.notes)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Note that a job has begun."""
        if self.notes is not None and is_rank_zero(config.trainer):
            self._note(config).write(self.notes)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note how a job ended, and print why it failed: Hydra prints the first failure alone."""
        if self.notes is None:
            return
        failed = ""
        if job_return.status is JobStatus.FAILED:
            error = job_return._return_value
            failed = reason_of(error)
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            sys.stderr.write(f"failed: {config.hydra.job.override_dirname}: {failed}\n")
        if is_rank_zero(config.trainer):
            self._note(config, _folder(job_return.cfg), failed).write(self.notes)

    def _note(self, config: DictConfig, *ending: str) -> Note:
        return Note(config.hydra.job.num, tuple(config.hydra.overrides.task), *ending)


def _folder(config: DictConfig | None) -> str:
    """Return the folder in which a job worked: it fills in `out` once it knows it."""
    try:
        return "" if config is None or config.out is None else str(config.out)
    except OmegaConfBaseException:  # an interpolation that cannot be resolved
        return ""


def reason_of(error: BaseException) -> str:
    """Return an error's message, or its type where it has none."""
    return str(error) or type(error).__name__


def notes_of_sweep() -> list[Note]:
    """Return the notes of the sweep that this process began last by job, and delete their files.

    The command asks for them, however the sweep ended: Hydra calls `on_multirun_end` only if no job
    failed and nobody interrupted it.
    """
    if not _begun:
        return []
    notes = _begun.pop()
    found = [Note(**json.loads(file.read_text())) for file in notes.glob("*.json")]
    shutil.rmtree(notes, ignore_errors=True)
    with suppress(OSError):  # another sweep's notes are there, or there never were any
        notes.parent.rmdir()
    return sorted(found, key=lambda note: note.number)


def print_summary(
    notes: Sequence[Note], heads: Sequence[str], row: Callable[[Path], list[object] | None]
) -> None:
    """Print a table of a sweep's runs by `row`, each with its folder or the reason it failed."""
    from geniu_lightning.cli.terminal import say, table

    rows: list[list[object]] = []
    common = set.intersection(*(set(note.words) for note in notes)) if len(notes) > 1 else set()
    for note in {note.folder or note.number: note for note in notes}.values():
        if note.failed:
            own = ", ".join(word for word in note.words if word not in common)
            rows.append([Path(note.folder).name or own, *["-"] * (len(heads) - 1), note.failed])
        elif (found := row(Path(note.folder))) is not None:
            rows.append([*found, note.folder])
    if rows:
        table("runs of this sweep", [*heads, ""], rows)
    failed = sum(bool(note.failed) for note in notes)
    if failed:
        say(f"{failed} of {len(notes)} failed; the same command tries these again")


def accuracies(folder: Path, split: str | None = None) -> dict[str, float]:
    """Return the accuracies of a finished run by name, on the first measured split by default."""
    measured = json.loads((folder / "metrics.json").read_text())["metrics"].get("accuracy", {})
    leaves = next(iter(measured.values()), {}) if split is None else measured.get(split, {})
    if not isinstance(leaves, dict):  # the reason why nothing was measured
        return {}
    return {name: leaf["value"] for name, leaf in leaves.items() if "value" in leaf}


def retain_minus_forget(folder: Path, split: str) -> float | None:
    """Return A_r - A_f of a finished run, `None` where they were not measured."""
    found = accuracies(folder, split)
    return found["retain"] - found["forget"] if {"retain", "forget"} <= set(found) else None


def training_row(folder: Path) -> list[object]:
    """Return name, mean accuracy and that of the worst class of a training run."""
    found = accuracies(folder)
    return [folder.name, *(found.get(name, "-") for name in ("retain", "worst_retained"))]


def unlearning_row(folder: Path) -> list[object] | None:
    """Return method, A_f, A_r, seconds and verdict of an unlearning run; `None` for an oracle."""
    from geniu_lightning.report.load import read

    run = read(folder)
    if run is None:
        return None
    values = run.numbers["value"]
    split = "test" if "accuracy.test.retain" in values else "validation"
    sides = [values.get(f"accuracy.{split}.{side}", "-") for side in ("forget", "retain")]
    return [run.method, *sides, f"{values['cost.seconds']:.2f}", run.verdict or "-"]
