"""What processes that compute together leave behind."""

import weakref
from pathlib import Path

import torch
import torch.distributed as dist

from geniu_lightning.fitting.distributed import leave_group, reduced


class Trainer:
    """Something that holds a group and is part of a cycle, as Lightning's trainer is."""

    def __init__(self) -> None:
        self.itself = self
        self.group = dist.group.WORLD


def _threads() -> int:
    """Return the number of gloo's threads; 0 where the system does not show their names."""
    names = (path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    return sum("gloo" in name for name in names)


def test_a_group_that_is_left_is_let_go_of_with_its_threads() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert reduced(torch.tensor(3)).item() == 3
    trainer = weakref.ref(Trainer())
    group = weakref.ref(dist.group.WORLD)
    assert None not in (trainer(), group())
    leave_group()
    assert (dist.is_initialized(), trainer(), group(), _threads()) == (False, None, None, 0)
