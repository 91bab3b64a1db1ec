"""The device and arithmetic of a process, and what has to be set before it computes."""

import os
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.cli.jobs import device_of_job, threads_of_job
from geniu_lightning.fitting.precision import FULL, HALF, has_fast_bfloat16
from geniu_lightning.runs.processes import single_process
from geniu_lightning.settings.configs import built, plain

if TYPE_CHECKING:
    import torch


def settle_precision(trainer: DictConfig) -> None:
    """Replace `trainer.precision=auto` by the arithmetic in which this machine is faster.

    Called before a run is named: its name and record say what was computed.
    """
    if trainer.precision == "auto":
        trainer.precision = HALF if has_fast_bfloat16(device_of(trainer)) else FULL


def device_of(trainer: DictConfig) -> "torch.device":
    """Return this process's own device, which holds the kit and evaluates."""
    import torch

    if trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    local = 0
    if not single_process(trainer):  # tasks of a cluster's job may each be a run of their own
        # Lightning sets the first in the processes that it starts, Slurm the second in its own
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    named = OmegaConf.is_list(trainer.devices)
    return torch.device("cuda", trainer.devices[local] if named else local)


def begin(trainer: DictConfig) -> None:
    """Prepare this process for a run: messages, threads, and its GPU among those of a sweep."""
    import torch
    from pytorch_lightning.utilities import rank_zero_only

    from geniu_lightning.fitting.messages import quiet

    quiet()
    if single_process(trainer):  # a cluster may have numbered it among others
        cast(Any, rank_zero_only).rank = 0
    threads = trainer.threads or threads_of_job()
    if threads is not None:  # on a CPU the same bits need the same number
        # Lightning would set its own number in the processes of a distributed run
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    own = device_of_job(torch.cuda.device_count())
    if own is not None and trainer.devices == 1:
        trainer.devices = [own]


def trainer_settings(trainer: DictConfig) -> dict[str, Any]:
    """Return the trainer's settings as `make_trainer` takes them, their objects made."""
    settings: dict[str, Any] = plain(trainer)
    for of_ours in ("threads", "checkpoint_every_n_steps"):
        settings.pop(of_ours)
    for key, value in settings.items():
        if isinstance(value, dict) and "_target_" in value:
            settings[key] = built(value, f"trainer.{key}")
    return settings
