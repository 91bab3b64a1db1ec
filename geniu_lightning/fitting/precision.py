"""The arithmetic of a fit: 32 bits, or bfloat16 where the device has instructions for it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FULL, HALF = "32-true", "bf16-mixed"


def has_fast_bfloat16(device: "torch.device") -> bool:
    """Whether a device multiplies in bfloat16 by instructions of its own.

    Emulated bfloat16 is slower than 32 bits. Before torch 2.10 a CPU cannot be asked and counts as
    one without them.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
