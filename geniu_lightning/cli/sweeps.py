"""The jobs of a sweep: what each tells when it ends, what share of the machine is its own.

Nothing heavy is imported here: whether a job is already done is told before torch is.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from geniu_lightning.errors import UserError
from geniu_lightning.files import write_json
from geniu_lightning.runs.folder import RunFolder, leads_run, processes_of, single_process

FOLDER = ".sweeps"  # of notes, below that of all runs
SECONDS_KEPT = 7 * 24 * 3600.0  # of notes that nobody came to collect
UNENDED = "it did not end: it was killed, or is at work still"

_begun: list[Path] = []  # folders of all runs, of the sweeps that this process began


class Begin(Callback):
    """Told by Hydra when a sweep begins, in the process that the person started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember where this sweep's runs go, and clear away what killed ones told there."""
        runs = Path(config.runs).expanduser().absolute()
        _begun.append(runs)
        for old in (runs / FOLDER).glob("*"):
            if old.stat().st_mtime < time.time() - SECONDS_KEPT:
                shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Note:
    """What a job of a sweep tells: whichever process on whichever machine, it ends in a file.

    Attributes:
        number: Of the job.
        words: What it was given.
        folder: That it worked in; empty where it failed before it had one.
        failed: Why it failed; empty where it ended well.
    """

    number: int
    words: Sequence[str]
    folder: str = ""
    failed: str = UNENDED


class Notes:
    """The notes of one sweep, from its jobs to the process that began it."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)

    @contextmanager
    def of_job(self, config: DictConfig, folders: Sequence[Path]) -> Iterator[None]:
        """Note that a job has begun, and what became of it; a run alone leaves no note.

        Args:
            config: Of the job.
            folders: That it worked in, the last one last; read when it has ended.
        """
        if not is_sweep() or not leads_run(config.trainer):
            yield
            return
        task = HydraConfig.get()
        begun = Note(task.job.num, tuple(task.overrides.task))
        self._leave(config, begun)
        try:
            yield
        except Exception as error:
            self._leave(config, _ended(begun, folders, reason_of(error)))
            raise
        self._leave(config, _ended(begun, folders, ""))

    def collect(self) -> list[Note]:
        """Return the notes in the order of jobs; none where no sweep was begun."""
        if not _begun:
            return []
        place = self._place(_begun[-1])
        notes = [Note(**json.loads(file.read_text())) for file in place.glob("*.json")]
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another sweep's notes are there, or none ever were
            place.parent.rmdir()
        return sorted(notes, key=lambda note: note.number)

    def _leave(self, config: DictConfig, note: Note) -> None:
        place = self._place(Path(config.runs).expanduser())
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / f"{note.number}.json", asdict(note))

    def _place(self, runs: Path) -> Path:
        return runs / FOLDER / self.name


def _ended(note: Note, folders: Sequence[Path], failed: str) -> Note:
    return replace(note, folder=str(folders[-1]) if folders else "", failed=failed)


def reason_of(error: Exception) -> str:
    """Return what an error says, or at least what it is."""
    return str(error) or type(error).__name__


def is_sweep() -> bool:
    """Whether this job is one of a sweep's."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def threads_of_a_job() -> int | None:
    """Return this job's share of the cores where jobs run side by side; ``None`` for all."""
    if not is_sweep():
        return None
    launcher = HydraConfig.get().launcher
    if launcher.get("cpus_per_task"):
        return int(launcher.cpus_per_task)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if launcher.get("n_jobs") is not None:
        jobs = int(launcher.n_jobs)
        return max((cores or 1) // jobs, 1) if jobs > 0 else 1
    return 1 if "submitit" in launcher._target_ else None


def device_of_a_job(devices: int) -> int | None:
    """Return which of a machine's GPUs is this job's where jobs run side by side, in turn.

    Args:
        devices: How many there are.
    """
    beside = is_sweep() and HydraConfig.get().launcher.get("n_jobs") not in (None, 1)
    return int(HydraConfig.get().job.num) % devices if beside and devices > 1 else None


def runs_apart(trainer: DictConfig) -> bool:
    """Whether this job is to be carried out by `apart`.

    Lightning starts further processes by repeating the command, which in a sweep is the whole
    sweep. On Slurm the cluster has started them.

    Raises:
        UserError: If Slurm has not started as many as there are devices.
    """
    if not is_sweep() or single_process(trainer):
        return False
    launcher = HydraConfig.get().launcher
    if "Slurm" not in launcher._target_:
        return True
    if str(launcher.tasks_per_node) != str(trainer.devices) or launcher.nodes != trainer.num_nodes:
        raise UserError(
            "on Slurm the cluster starts a job's processes: set hydra.launcher.tasks_per_node to"
            f" trainer.devices ({trainer.devices}) and hydra.launcher.nodes to trainer.num_nodes"
            f" ({trainer.num_nodes})"
        )
    return False


def apart(command: str, config: DictConfig, folder: RunFolder) -> None:
    """Carry a job out by a process of its own.

    Args:
        command: ``train`` or ``unlearn``.
        config: Of the job.
        folder: Of the job.

    Raises:
        UserError: If what was asked cannot work.
        RuntimeError: If the process broke.
    """
    package = Path(__file__).parents[2]
    own = [word for word in HydraConfig.get().overrides.task if not word.startswith("out=")]
    path = str(folder.path.absolute()).replace("'", r"\'")
    words = [*own, f"out='{path}'", "hydra.mode=RUN"]
    if config.get("next_kit") is not None:  # that process does not know that it is one of a sweep
        words.append(f"next_kit={str(config.next_kit).lower()}")
    share = config.trainer.threads or threads_of_a_job()
    if share is not None:
        words.append(f"trainer.threads={max(share // processes_of(config.trainer), 1)}")
    wandb = (config.get("logger") or {}).get("wandb")
    if wandb is not None:
        words.append(f"logger.wandb.group='{wandb.group}'")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    }
    begun = time.time()
    ended = subprocess.run(
        [sys.executable, "-m", f"geniu_lightning.cli.{command}", *words],
        env=environment,
        check=False,
    )
    if ended.returncode == 0:
        return
    record = folder.path / "failed.json"
    told = record.is_file() and record.stat().st_mtime >= begun  # by this process
    reason = json.loads(record.read_text())["failed"] if told else ""
    if ended.returncode == 2:
        raise UserError(reason or "what was asked cannot work; the sentence stands above")
    raise RuntimeError(reason or f"its process ended with status {ended.returncode}")
