"""One job of a sweep: its share of the machine, and a process of its own where it needs one."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from geniu_lightning.errors import UserError
from geniu_lightning.runs.folder import RunFolder
from geniu_lightning.runs.processes import processes_per_node, single_process

log = logging.getLogger(__name__)


def is_sweep() -> bool:
    """Whether this process carries out a job of a sweep."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def threads_of_job() -> int | None:
    """Return this job's share of the cores where jobs run in parallel; `None` for all."""
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


def device_of_job(devices: int) -> int | None:
    """Return this job's own of a machine's GPUs, in turn, where jobs run in parallel."""
    parallel = is_sweep() and HydraConfig.get().launcher.get("n_jobs") not in (None, 1)
    return int(HydraConfig.get().job.num) % devices if parallel and devices > 1 else None


def needs_own_process(trainer: DictConfig) -> bool:
    """Whether this job has to be carried out by `run_in_own_process`.

    Lightning starts further ranks by repeating the command, which in a sweep would repeat the whole
    sweep. On Slurm the cluster has started them.
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


def run_in_own_process(command: str, config: DictConfig, folder: RunFolder) -> None:
    """Carry a job out by a new process, which runs the command of `geniu` as a single run."""
    begun = time.time()
    package = Path(__file__).parents[2]
    paths = (str(package), os.environ.get("PYTHONPATH"))
    ended = subprocess.run(
        [sys.executable, "-m", f"geniu_lightning.cli.{command}", *_words(config, folder.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=False,
    )
    if ended.returncode == 0:
        return
    record = folder.path / "failed.json"
    recorded = record.is_file() and record.stat().st_mtime >= begun  # by this process
    reason = json.loads(record.read_text())["failed"] if recorded else ""
    if ended.returncode == 2:
        raise UserError(reason or "these settings cannot work; the sentence stands above")
    raise RuntimeError(reason or f"its process ended with status {ended.returncode}")


def _words(config: DictConfig, folder: Path) -> list[str]:
    """Return a job's own overrides, and those that it would have as one of a sweep."""
    own = [word for word in HydraConfig.get().overrides.task if not word.startswith("out=")]
    path = str(folder.absolute()).replace("'", r"\'")
    words = [*own, f"out='{path}'", "hydra.mode=RUN"]
    if config.get("next_kit") is not None:
        words.append(f"next_kit={str(config.next_kit).lower()}")
    share = config.trainer.threads or threads_of_job()
    if share is not None:
        processes = processes_per_node(config.trainer) or 1
        words.append(f"trainer.threads={max(share // processes, 1)}")
    wandb = (config.get("logger") or {}).get("wandb")
    if wandb is not None:
        words.append(f"logger.wandb.group='{wandb.group}'")
    return words
