"""What processes that compute together leave behind."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from geniu_lightning.fitting.distributed import leave_group, reduced


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of threads")
def test_no_thread_of_a_group_outlives_it() -> None:
    def threads() -> int:
        names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
        return sum("gloo" in name for name in names)

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    total = reduced(torch.tensor(3))
    assert (total.item(), threads() > 0) == (3, True)
    leave_group()
    assert (dist.is_initialized(), threads()) == (False, 0)
