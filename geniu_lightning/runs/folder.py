"""Run folders: one process at a time, results of one run, their backup, done marks."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.files import flat, now, write_json, write_text
from geniu_lightning.kit.header import KIT
from geniu_lightning.runs.processes import slurm_launch

WEIGHTS = "unlearned.safetensors"
RESULTS = (KIT, WEIGHTS, "metrics.json", "checkpoints")
WRITTEN = (  # all that a run may write
    *RESULTS,
    *("done.json", "failed.json", "run.json", "log", "wandb", ".wandb_id"),
    *("proxies.png", "confusion.png", "confusion_*.png", "receipt.json", "receipt.md"),
)
LOCK, LAUNCH, BACKUP = ".lock", ".launch", ".replaced"
SECONDS_TO_BEGIN = 60


class RunFolder:
    """The folder of one run; equal identities, in plain values, are the same run.

    `description`, any JSON value, is written with the reason if the run fails.
    """

    def __init__(self, path: Path, identity: dict[str, Any], rank_zero: bool = True) -> None:
        self.path = path
        self.identity = identity
        self.rank_zero = rank_zero
        self.description: dict[str, Any] = {"run": identity}
        self._backup = path / BACKUP  # of the results that a forced run replaces

    @property
    def done(self) -> bool:
        """Whether this very run has ended well."""
        return (self.path / "done.json").is_file() and not self._differences()

    @contextmanager
    def lock(self, force: bool) -> Iterator[None]:
        """Hold the folder while the run works in it; the system frees it if the process is killed.

        Args:
            force: Replace earlier results, of whichever run. They are kept in a backup until this
                run has ended well, and restored if it fails, or is interrupted without a checkpoint
                to resume from.
        """
        if not self.rank_zero:
            self._wait_for_rank_zero()
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            held = FileLock(self.path / LOCK, blocking=False).acquire()
        except Timeout:
            raise BusyError(f"another process is at work in {self.path}") from None
        with held:
            self._begin(force)
            try:
                yield
            except BaseException as error:
                self._record_failure(error)
                raise
            shutil.rmtree(self._backup, ignore_errors=True)

    def finish(self) -> None:
        """Mark the run as done."""
        write_json(self.path / "done.json", {"ended": now()})

    def _begin(self, force: bool) -> None:
        if force and not self._resumes_forced_run():
            if self._backup.exists():
                self._delete_results()
            else:
                self._backup.mkdir()
                for child in self._results():
                    child.rename(self._backup / child.name)
        if differences := self._differences():
            raise UserError(
                f"{self.path} holds another run, which differs in {', '.join(differences[:5])};"
                " choose another out=, or replace it with force=true"
            )
        write_json(self.path / "run.json", self.identity)
        (self.path / "failed.json").unlink(missing_ok=True)
        if launch := slurm_launch():
            write_text(self.path / LAUNCH, launch)

    def _record_failure(self, error: BaseException) -> None:
        failed = isinstance(error, Exception)  # others are interruptions
        if failed:
            reason = str(error) or type(error).__name__
            write_json(self.path / "failed.json", self.description | {"failed": reason})
        if self._backup.exists() and (failed or not self._has_checkpoint()):
            self._delete_results()
            for child in self._backup.iterdir():
                child.rename(self.path / child.name)
            self._backup.rmdir()

    def _results(self) -> list[Path]:
        return [child for pattern in WRITTEN for child in self.path.glob(pattern)]

    def _delete_results(self) -> None:
        for child in self._results():
            shutil.rmtree(child) if child.is_dir() else child.unlink()

    def _resumes_forced_run(self) -> bool:
        """Whether this run was forced before and interrupted: queued again, it is forced again."""
        unfinished = self._has_checkpoint() and not (self.path / "done.json").is_file()
        return self._backup.exists() and unfinished and not self._differences()

    def _has_checkpoint(self) -> bool:
        return any(self.path.glob("checkpoints/*.ckpt"))

    def _differences(self) -> list[str]:
        """Return the dotted names of settings in which the results there are another run's."""
        written = self.path / "run.json"
        if not any((self.path / name).exists() for name in RESULTS):
            return []  # nothing came of whatever was begun here
        if not written.is_file():
            return ["who made it"]
        other, own = (flat(x) for x in (json.loads(written.read_text()), self.identity))
        return [key for key in sorted(other | own) if other.get(key) != own.get(key)]

    def _wait_for_rank_zero(self) -> None:
        """Wait until the first process has locked the folder, where Slurm started both.

        Otherwise this one would wait half an hour for a first process that has found nothing to do.
        Lightning starts further processes only after the first has begun.
        """
        launch, deadline = slurm_launch(), time.monotonic() + SECONDS_TO_BEGIN
        record = self.path / LAUNCH
        while launch and not (record.is_file() and record.read_text() == launch):
            if time.monotonic() > deadline:
                raise UserError(f"the first process of the run in {self.path} has not begun it")
            time.sleep(0.1)


def finished_kits(folder: Path) -> list[Path]:
    """Return the folders of finished training runs below a folder, sorted."""
    kits = (kit.parent for kit in folder.rglob(KIT) if BACKUP not in kit.parts)
    return sorted(run for run in kits if (run / "done.json").is_file())
