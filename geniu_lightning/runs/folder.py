"""Run folders: one process at a time, results of one run, their backup, done marks."""

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.files import flat, now, write_json, write_text
from geniu_lightning.kit.header import KIT
from geniu_lightning.runs.processes import slurm_launch

WEIGHTS = "unlearned.safetensors"
RESULTS = (KIT, WEIGHTS, "metrics.json", "checkpoints")
MANIFEST = ".manifest.json"  # names of a finished run's files; null while it may write any
WRITTEN = (  # all that a run may write
    *(*RESULTS, MANIFEST),
    *("done.json", "failed.json", "run.json", "log", "wandb", ".wandb_id"),
    *("proxies.png", "samples.png", "confusion.png", "confusion_*.png"),
    *("receipt.json", "receipt.md"),
)
LOCK, LAUNCH = ".lock", ".launch"
REPLACED = ".replaced"  # results that a forced run replaces, until it has ended well
MOVING = ".moving"  # results on their way into that folder or back
DISCARDED = ".discarded"  # results that are being deleted
INTERNAL = (LOCK, LAUNCH, REPLACED, MOVING, DISCARDED)
SECONDS_TO_BEGIN = 60
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))  # of the system or a library


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
            locked_before = (self.path / LOCK).exists()
            held = FileLock(self.path / LOCK, blocking=False).acquire()
        except Timeout:
            raise BusyError(f"another process is at work in {self.path}") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be used: {error.strerror}") from error
        with held:
            try:
                self._refuse_files_of_others(locked_before)
            except UserError:
                if not locked_before:
                    (self.path / LOCK).unlink()
                raise
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
        full = any(sign in str(error) for sign in FULL)
        if failed and not full:
            reason = str(error) or type(error).__name__
            write_json(self.path / "failed.json", self.description | {"failed": reason})
        resumable = not failed and any(self.path.glob("checkpoints/*.ckpt"))
        if self._replaced.exists() and not resumable and not self.done:
            self._restore()
        if full:
            raise UserError(f"the disk is full: {self.path} cannot be written") from error

    def _refuse_if_removed(self, error: BaseException | None = None) -> None:
        """Refuse a folder that was removed in mid-run; libraries may have made it anew in part."""
        if not (self.path / "run.json").is_file():
            raise UserError(f"{self.path} was removed while a run worked in it") from error

    def _refuse_files_of_others(self, locked_before: bool) -> None:
        """Refuse a folder that no run began, or files of others where a run writes its own."""
        rests = self._rests()
        present = {path.name for path in self.path.iterdir()}
        others = sorted(present - {*INTERNAL, *(rest.name for rest in rests)})
        if others and self._begun(locked_before):
            others = sorted({path.name for path in self._written()} - self._listed())
        if others:
            raise UserError(
                f"{self.path} holds files that no run wrote ({', '.join(others[:5])}): choose"
                " another out="
            )
        for rest in rests:
            rest.unlink()

    def _begun(self, locked_before: bool) -> bool:
        """Whether a run began in this folder; before there were manifests, it left a lock."""
        if locked_before and (self.path / "run.json").is_file():
            return True
        return any((self.path / name).exists() for name in (MANIFEST, REPLACED, MOVING))

    def _rests(self) -> list[Path]:
        """Return what killed processes had begun to write by `replacing`."""
        found = ((path, re.fullmatch(r"\.(.+)\.\d+", path.name)) for path in self.path.glob(".*"))
        names = (*WRITTEN, *INTERNAL)
        return [
            path
            for path, match in found
            if match and path.is_file() and any(fnmatch(match[1], name) for name in names)
        ]

    def _written(self) -> list[Path]:
        """Return what is in the folder under names that runs write."""
        return [child for pattern in WRITTEN for child in self.path.glob(pattern)]

    def _listed(self) -> set[str]:
        """Return the names of what runs wrote."""
        manifest = self.path / MANIFEST
        files = None
        if manifest.is_file():
            with suppress(ValueError, KeyError, TypeError):  # a damaged one lists everything
                files = json.loads(manifest.read_text())["files"]
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
        (self.path / "done.json").unlink(missing_ok=True)  # first: it would outlive the results
        for child in self._written():
            is_folder = child.is_dir() and not child.is_symlink()
            shutil.rmtree(child) if is_folder else child.unlink()
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
    visible = [
        kit
        for kit in folder.rglob(KIT)
        if not any(part.startswith(".") for part in kit.relative_to(folder).parts)
    ]
    kits = (kit.parent for kit in visible)
    return sorted(run for run in kits if (run / "done.json").is_file())
