"""Run folders: deterministic names, one run at a time, whole files, done marks."""

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.errors import BusyError, UserError
from geniu_lightning.files import flat, now, write_json
from geniu_lightning.kit.header import KIT

# where and how a run is carried out and watched; everything else says what it computes
INCIDENTAL = (
    "out",
    "force",
    "allow_custom",
    "logger",
    "data.root",
    "data.cache_folder",
    "trainer.accelerator",
    "trainer.threads",
    "trainer.checkpoint_every_n_steps",
    "kit",
    "weights",
    "oracles",
    "runs",
    "objective",
    "next_kit",
)
WEIGHTS = "unlearned.safetensors"
RESULTS = (KIT, WEIGHTS, "metrics.json", "checkpoints")
LEFTOVERS = (
    *RESULTS,
    *("done.json", "failed.json", "run.json", "log", "wandb", ".wandb_id", ".wandb_rows"),
    *("proxies.png", "confusion.png", "confusion_*.png", "receipt.json", "receipt.md"),
)
ASIDE = ".replaced"
LOCK = ".lock"
SECONDS_TO_BEGIN = 60


class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is.
        identity: What the run computes, as plain values; two runs with equal ones are the same run.
        leads: Whether this process is the first of the run: it alone writes.

    Attributes:
        description: What a run that fails says of itself beside the reason.
    """

    def __init__(self, path: Path, identity: dict[str, Any], leads: bool = True) -> None:
        self.path = path
        self.identity = identity
        self.leads = leads
        self.description: dict[str, Any] = {"run": identity}  # any JSON value

    @property
    def done(self) -> bool:
        """Whether this very run has ended well."""
        return (self.path / "done.json").is_file() and not self._differences()

    @contextmanager
    def claim(self, force: bool) -> Iterator[None]:
        """Hold the folder while a run works in it.

        Args:
            force: Replace what another or an earlier run left there. It is set aside until this
                run has ended well, and put back if it fails, or is interrupted before it has a
                checkpoint to go on from.

        Raises:
            BusyError: If another process is at work there.
            UserError: If another run's results are there.
        """
        if not self.leads:
            self._wait_for_the_first()
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process is at work in {self.path}") from None
            if force:
                self._set_aside()
            differences = self._differences()
            if differences:
                raise UserError(
                    f"{self.path} holds another run, which differs in {', '.join(differences[:5])};"
                    " choose another out=, or replace it with force=true"
                )
            write_json(self.path / "run.json", self.identity)
            (self.path / "failed.json").unlink(missing_ok=True)
            lock.truncate(0)
            lock.write(_launched_by_slurm())
            lock.flush()
            try:
                yield
            except BaseException as error:
                if isinstance(error, Exception):
                    reason = str(error) or type(error).__name__
                    write_json(self.path / "failed.json", self.description | {"failed": reason})
                if (self.path / ASIDE).exists() and (
                    isinstance(error, Exception) or not self._has_checkpoint()
                ):
                    self._put_back()
                raise
            shutil.rmtree(self.path / ASIDE, ignore_errors=True)

    def finish(self) -> None:
        """Mark the run as done."""
        write_json(self.path / "done.json", {"ended": now()})

    def _differences(self) -> list[str]:
        there = self.path / "run.json"
        if not any((self.path / name).exists() for name in RESULTS):
            return []  # nothing came of whatever was begun here
        if not there.is_file():
            return ["who made it"]
        other, own = (flat(x) for x in (json.loads(there.read_text()), self.identity))
        return [key for key in sorted(other | own) if other.get(key) != own.get(key)]

    def _wait_for_the_first(self) -> None:
        """Wait until the run's first process has claimed the folder, where Slurm started both.

        Without that, this one would wait for half an hour in vain to compute with one that has
        found nothing to do. Lightning starts further processes when the first has begun.

        Raises:
            UserError: If it has not, within a minute.
        """
        launch, deadline = _launched_by_slurm(), time.monotonic() + SECONDS_TO_BEGIN
        lock = self.path / LOCK
        while launch and not (lock.is_file() and lock.read_text() == launch):
            if time.monotonic() > deadline:
                raise UserError(f"the first process of the run in {self.path} has not begun it")
            time.sleep(0.1)

    def _leftovers(self) -> list[Path]:
        return [child for pattern in LEFTOVERS for child in self.path.glob(pattern)]

    def _set_aside(self) -> None:
        aside = self.path / ASIDE
        if aside.exists():  # of a forced run that was ended from outside
            unfinished = self._has_checkpoint() and not (self.path / "done.json").is_file()
            if unfinished and not self._differences():
                return  # it goes on: queued again, it is forced again
            for child in self._leftovers():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
            return
        aside.mkdir()
        for child in self._leftovers():
            child.rename(aside / child.name)

    def _has_checkpoint(self) -> bool:
        return any(self.path.glob("checkpoints/*.ckpt"))

    def _put_back(self) -> None:
        for child in self._leftovers():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        for child in (self.path / ASIDE).iterdir():
            child.rename(self.path / child.name)
        (self.path / ASIDE).rmdir()


def identity_of(config: DictConfig, **more: Any) -> dict[str, Any]:  # any JSON value
    """Return what a configuration computes: resolved, without what is incidental."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)  # primary configurations are
    for dotted in INCIDENTAL:
        node: Any = plain
        *path, leaf = dotted.split(".")
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    return {str(k): v for k, v in (plain | more).items()}


def folder_of(config: DictConfig, identity: dict[str, Any], kind: str, *words: object) -> RunFolder:
    """Return the run's folder: ``out``, or a name made of words that read well and a short hash."""
    leads = leads_run(config.trainer)
    if config.out is not None:
        return RunFolder(Path(config.out).expanduser(), identity, leads)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = "-".join(re.sub(r"[^\w.]+", "_", str(word)).strip("_") for word in words)
    folder = Path(config.runs).expanduser() / kind / f"{name[:80]}-{digest}"
    return RunFolder(folder, identity, leads)


def kits_below(folder: str) -> str:
    """Return the kits of finished training runs below a folder, as a sweep's choices.

    Raises:
        UserError: If there is none.
    """
    found = sorted(kit.parent for kit in Path(folder).expanduser().rglob(KIT))
    whole = [str(run) for run in found if (run / "done.json").is_file() and ASIDE not in run.parts]
    if not whole:
        raise UserError(f"there is no kit below {folder}; train.py makes them, sweep=grid many")
    return ",".join("'" + path.replace("'", r"\'") + "'" for path in whole)


def compared_with(folder: Path) -> list[int]:
    """Return the training seeds of the oracles that a finished run was compared with."""
    found: list[int] = json.loads((folder / "metrics.json").read_text()).get("oracles", [])
    return found


def single_process(trainer: DictConfig) -> bool:
    """Whether a run is carried out by one process."""
    devices = trainer.devices
    if OmegaConf.is_list(devices):
        one = len(devices) == 1
    else:
        one = str(devices) == "1" or (str(devices) == "auto" and trainer.accelerator == "cpu")
    return one and trainer.num_nodes == 1


def processes_of(trainer: DictConfig) -> int:
    """Return how many processes a run has on a machine; 1 where only that machine can tell."""
    devices = trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    return max(int(devices), 1) if str(devices).lstrip("-").isdigit() else 1


def leads_run(trainer: DictConfig) -> bool:
    """Whether this is the first process of its run, told before any framework is imported."""
    if single_process(trainer):  # tasks of a cluster's job may each be a run of their own
        return True
    # whichever launcher started us, it set one of these above 0 for all but the first process
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return not any(int(os.environ.get(name, 0)) for name in names)


def _launched_by_slurm() -> str:
    """Return what Slurm calls this start of a job, the same in all its processes; else nothing."""
    if "SLURM_JOB_ID" not in os.environ or "LOCAL_RANK" in os.environ:
        return ""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names)


@functools.cache  # what is committed while a run goes on is not what it runs
def revision() -> str | None:
    """Return the git revision of the package's checkout, with ``+`` where it is changed.

    It is that of the first time when this process asked, as runs do when they begin.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
