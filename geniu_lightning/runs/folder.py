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
from geniu_lightning.files import flat, now, rests, write_json, write_text
from geniu_lightning.kit.header import KIT
from geniu_lightning.runs.processes import slurm_launch

WEIGHTS = "unlearned.safetensors"
RESULTS = (KIT, WEIGHTS, "metrics.json", "checkpoints")
MANIFEST = ".manifest.json"  # names of a finished run's files; null while it may write any
WRITTEN = (  # all that a run may write
    *(*RESULTS, MANIFEST),
    *("done.json", "failed.json", "run.json", "log", "wandb", ".wandb_id"),
    *("proxies.png", "confusion.png", "confusion_*.png", "receipt.json", "receipt.md"),
)
LOCK, LAUNCH = ".lock", ".launch"
REPLACED = ".replaced"  # results that a forced run replaces, until it has ended well
MOVING = ".moving"  # results on their way into that folder or back
DISCARDED = ".discarded"  # results that are being deleted
OURS = (LOCK, LAUNCH, REPLACED, MOVING, DISCARDED)
SECONDS_TO_BEGIN = 60


class RunFolder:
    """The folder of one run; equal identities, in plain values, are the same run.

    A run touches only what a run wrote: by the manifest, or in a folder that a run has just begun.
    Files of others are left alone, and a folder of others is refused.

    `description`, any JSON value, is written with the reason if the run fails.
    """

    def __init__(self, path: Path, identity: dict[str, Any], rank_zero: bool = True) -> None:
        self.path = path
        self.identity = identity
        self.rank_zero = rank_zero
        self.description: dict[str, Any] = {"run": identity}
        self._replaced, self._moving = path / REPLACED, path / MOVING

    @property
    def done(self) -> bool:
        """Whether this very run has ended well."""
        try:
            ended = (self.path / "done.json").is_file() and not self._moving.exists()
            return ended and self._is_of_this_run()
        except OSError as error:
            raise UserError(f"{self.path} cannot be used: {error.strerror}") from error

    @contextmanager
    def lock(self, force: bool) -> Iterator[None]:
        """Hold the folder while the run works in it; the system frees it if the process is killed.

        Args:
            force: Replace earlier results, of whichever run. What was finished goes away when this
                run has ended well; it comes back if this one fails, or is interrupted without a
                checkpoint, or another run follows.
        """
        if not self.rank_zero:
            self._wait_for_rank_zero()
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_files_of_others()
            held = FileLock(self.path / LOCK, blocking=False).acquire()
        except Timeout:
            raise BusyError(f"another process is at work in {self.path}") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be used: {error.strerror}") from error
        with held:
            self._begin(force)
            try:
                yield
                self._refuse_if_removed()
            except BaseException as error:
                self._end_badly(error)
                raise
            self._end_well()

    def finish(self) -> None:
        """Mark the run as done."""
        write_json(self.path / "done.json", {"ended": now()})

    def _begin(self, force: bool) -> None:
        for rest in rests(self.path):
            rest.unlink()
        self._put_back()
        if force and not self._replaced.exists():
            self._set_aside()
        if differences := self._differences():
            raise UserError(
                f"{self.path} holds another run, which differs in {', '.join(differences[:5])};"
                " choose another out=, or replace it with force=true"
            )
        write_json(self.path / MANIFEST, {"files": None})
        write_json(self.path / "run.json", self.identity)
        (self.path / "failed.json").unlink(missing_ok=True)
        if launch := slurm_launch():
            write_text(self.path / LAUNCH, launch)

    def _end_well(self) -> None:
        write_json(self.path / MANIFEST, {"files": sorted(p.name for p in self._written())})
        if self._replaced.exists():
            self._replaced.rename(self.path / DISCARDED)  # in one step: half a backup is none
            shutil.rmtree(self.path / DISCARDED)

    def _end_badly(self, error: BaseException) -> None:
        failed = isinstance(error, Exception)  # others are interruptions
        self._refuse_if_removed(error)
        if "No space left" in str(error):  # of the system, or of a library that wraps it
            raise UserError(f"the disk is full: {self.path} cannot be written") from error
        if failed:
            reason = str(error) or type(error).__name__
            write_json(self.path / "failed.json", self.description | {"failed": reason})
        if self._replaced.exists() and (failed or not any(self.path.glob("checkpoints/*.ckpt"))):
            self._restore()

    def _refuse_if_removed(self, error: BaseException | None = None) -> None:
        """Refuse a folder that was removed in mid-run; libraries may have made it anew in part."""
        if not (self.path / "run.json").is_file():
            raise UserError(f"{self.path} was removed while a run worked in it") from error

    def _refuse_files_of_others(self) -> None:
        """Refuse a folder that no run began, or files of others where a run writes its own."""
        present = {path.name for path in self.path.iterdir()} - {*OURS}
        if not present:
            return
        others = sorted(present)
        if self._begun():
            others = sorted({path.name for path in self._written()} - self._listed())
        if others:
            raise UserError(
                f"{self.path} holds files that no run wrote ({', '.join(others[:5])}): choose"
                " another out="
            )

    def _begun(self) -> bool:
        """Whether a run began in this folder; before there were manifests, it left a lock."""
        if (self.path / "run.json").is_file() and (self.path / LOCK).is_file():
            return True
        return any((self.path / name).exists() for name in (MANIFEST, REPLACED, MOVING))

    def _written(self) -> list[Path]:
        """Return what is in the folder under names that runs write."""
        return [child for pattern in WRITTEN for child in self.path.glob(pattern)]

    def _listed(self) -> set[str]:
        """Return the names of what runs wrote."""
        manifest = self.path / MANIFEST
        files = json.loads(manifest.read_text())["files"] if manifest.is_file() else None
        return {path.name for path in self._written()} if files is None else {*files, MANIFEST}

    def _set_aside(self) -> None:
        """Move what runs wrote into the backup."""
        self._moving.mkdir()
        for child in self._written():
            child.rename(self._moving / child.name)
        self._moving.rename(self._replaced)

    def _put_back(self) -> None:
        """Undo what a process that was killed had begun to replace, unless this run goes on."""
        shutil.rmtree(self.path / DISCARDED, ignore_errors=True)
        if self._moving.exists():
            self._move_back()
        if not self._replaced.exists():
            return
        if (self.path / "done.json").is_file():  # the successor ended, and was killed after that
            shutil.rmtree(self._replaced)
        elif not self._is_of_this_run():
            self._restore()

    def _restore(self) -> None:
        """Bring the backup back in place of what was written after it."""
        for child in self._written():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        self._replaced.rename(self._moving)
        self._move_back()

    def _move_back(self) -> None:
        for child in self._moving.iterdir():
            if not (self.path / child.name).exists():
                child.rename(self.path / child.name)
        shutil.rmtree(self._moving)

    def _is_of_this_run(self) -> bool:
        written = self.path / "run.json"
        return written.is_file() and not self._differing(written)

    def _differences(self) -> list[str]:
        """Return the dotted names of settings in which the results there are another run's."""
        written = self.path / "run.json"
        if not any((self.path / name).exists() for name in RESULTS):
            return []  # nothing came of whatever was begun here
        return self._differing(written) if written.is_file() else ["who made it"]

    def _differing(self, written: Path) -> list[str]:
        try:
            other, own = flat(json.loads(written.read_text())), flat(self.identity)
        except ValueError:
            return ["run.json, which cannot be read"]
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
    kits = (kit.parent for kit in folder.rglob(KIT) if REPLACED not in kit.parts)
    return sorted(run for run in kits if (run / "done.json").is_file())
