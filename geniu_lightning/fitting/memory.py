"""Peak memory of a span of work."""

import re
from pathlib import Path

import torch


class PeakMemory:
    """Largest memory, in bytes, that a block added to what was in use before.

    On a GPU: memory of tensors. On a CPU: the resident set of the process, which Linux alone
    reports; pages that were freed before and are used again do not raise it. After the block it is
    `added`, or `None` where the system does not report it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.added: int | None = None
        self._before: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = _reset_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status("VmHWM")
        if peak is not None and self._before is not None:
            self.added = max(peak - self._before, 0)


def _reset_peak() -> int | None:
    """Return the present bytes of the resident set, from which its peak begins anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
