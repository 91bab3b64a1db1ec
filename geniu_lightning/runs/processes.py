"""The processes of one run, read from its trainer settings before any framework is imported."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

# set above 0 by torchrun, Slurm or Lightning in all processes but the first
RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def processes_per_node(trainer: Mapping[str, Any]) -> int | None:
    """Return how many processes a run has on a machine; `None` where only that machine can tell."""
    devices = trainer["devices"]
    if devices == "auto" and trainer["accelerator"] == "cpu":
        return 1
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    return int(devices) if str(devices).isdigit() else None


def single_process(trainer: Mapping[str, Any]) -> bool:
    """Whether a run has one process."""
    return processes_per_node(trainer) == 1 and trainer["num_nodes"] == 1


def is_rank_zero(trainer: Mapping[str, Any]) -> bool:
    """Whether this is the first process of its run."""
    if single_process(trainer):  # tasks of a cluster's job may each be a run of their own
        return True
    return not any(int(os.environ.get(name, 0)) for name in RANKS)


def slurm_launch() -> str:
    """Return Slurm's name of this start of a job, equal in all its processes; empty without Slurm.

    Empty, too, in a process that Lightning started: it exists only after the first one has begun.
    """
    if "SLURM_JOB_ID" not in os.environ or "LOCAL_RANK" in os.environ:
        return ""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names)
