"""A sweep: Hydra's callback that notes each job's end, what is maximised, and the table of runs.

The table is no part of the callback: Hydra calls `on_multirun_end` only if no job failed and
nobody interrupted the sweep. So the command collects the notes, however the sweep ended.
"""

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from geniu_lightning.errors import UserError
from geniu_lightning.runs.processes import is_rank_zero
from geniu_lightning.runs.sweep import Note, collect, new_notes

_begun: list[Path] = []  # notes of the sweeps that this process began


class JobNotes(Callback):
    """Writes a note when a job begins, which a killed one leaves, and another when it ends.

    It is pickled into the processes of joblib and submitit, with the folder of the notes.
    """

    def __init__(self) -> None:
        self.notes: Path | None = None  # outside a sweep

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder of this sweep's notes."""
        self.notes = new_notes(Path(config.runs).expanduser())
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
    """Return the notes of the sweep that this process began last, none without a sweep."""
    return collect(_begun.pop()) if _begun else []


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
