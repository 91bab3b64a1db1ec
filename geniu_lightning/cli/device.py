"""A process's own device, and in which arithmetic it computes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from geniu_lightning.errors import UserError
from geniu_lightning.runs.folder import single_process

if TYPE_CHECKING:
    import torch

FULL, HALF = "32-true", "bf16-mixed"


def settle(trainer: DictConfig) -> None:
    """Replace ``trainer.precision=auto`` by what this machine is faster at.

    To be called before a run is named, for its name and record are to say what was computed.

    Raises:
        UserError: If the precision is none that works.
    """
    if trainer.precision == "auto":
        trainer.precision = HALF if has_fast_bfloat16(device_of(trainer)) else FULL
    if str(trainer.precision) not in (FULL, HALF):
        raise UserError(
            f"trainer.precision must be auto, {FULL} or {HALF}, got {trainer.precision}: weights"
            " stay in 32 bits, and 16-mixed would silently be bfloat16 on a CPU"
        )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by instructions of its own.

    Without them it is emulated, and slower than 32 bits. A torch before 2.10 does not tell about a
    CPU, which then counts as one that has none.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def device_of(trainer: DictConfig) -> torch.device:
    """Return this process's own device, where it keeps the kit and evaluates."""
    import torch

    if trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    local = 0
    if not single_process(trainer):  # tasks of a cluster's job may each be a run of their own
        # Lightning sets the first in the processes that it starts, Slurm the second in its own
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    named = OmegaConf.is_list(trainer.devices)
    return torch.device("cuda", trainer.devices[local] if named else local)
