"""Schedules against closed formulas, and the mean of gradients over processes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import training_loop
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.optim import average_gradients, schedule_of


def rates(schedule: str, steps: int, *starts: float) -> list[list[float]]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": start} for start in starts]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    course = schedule_of(optimizer, schedule, steps)  # type: ignore[arg-type]
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        course.step()
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)
    return seen


@pytest.mark.parametrize("steps", [10, 37])
def test_onecycle_rises_over_three_tenths_and_falls_to_nearly_zero(steps: int) -> None:
    found = [rate for (rate,) in rates("onecycle", steps, 0.5)]
    expected = [training_loop.one_cycle(0.5, n, steps) for n in range(steps)]
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0.45 < max(found) <= 0.5
    assert 0.2 <= found.index(max(found)) / steps <= 0.3
    assert found[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_cosine_falls_from_the_rate_to_zero(steps: int) -> None:
    found = [rate for (rate,) in rates("cosine", steps, 0.5)]
    expected = [0.25 * (1 + math.cos(math.pi * n / steps)) for n in range(steps)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_none_keeps_the_rate() -> None:
    assert rates("none", 5, 0.5) == [[0.5]] * 5


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "none"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_short_courses_do_not_fail(schedule: str, steps: int) -> None:
    found = rates(schedule, steps, 0.5)
    assert len(found) == steps
    assert all(0 <= rate <= 0.5 for (rate,) in found)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "none"])
def test_groups_keep_their_own_rates(schedule: str) -> None:
    for first, second in rates(schedule, 6, 0.5, 0.05):
        assert first == pytest.approx(10 * second)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "none"])
def test_course_goes_on_where_its_state_was_taken(schedule: str, tmp_path: Path) -> None:
    def pair() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        return optimizer, schedule_of(optimizer, schedule, 9)  # type: ignore[arg-type]

    optimizer, course = pair()
    for _ in range(4):
        optimizer.step()
        course.step()
    torch.save([optimizer.state_dict(), course.state_dict()], tmp_path / "state")
    again, resumed = pair()
    for part, state in zip(
        (again, resumed), torch.load(tmp_path / "state", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    for _ in range(5):
        assert optimizer.param_groups[0]["lr"] == again.param_groups[0]["lr"]
        for o, c in ((optimizer, course), (again, resumed)):
            o.step()
            c.step()


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="onecycle, cosine or none, got 'linear'"):
        rates("linear", 3, 0.5)


def test_one_process_keeps_its_gradients() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    average_gradients(iter([parameter, nn.Parameter(torch.ones(1))]))
    assert parameter.grad.tolist() == [1.0, 2.0]


TWO_PROCESSES = """
import json, os, sys
import torch
import torch.distributed as dist
from geniu_lightning.optim import average_gradients

folder = sys.argv[1]
rank = 0 if os.fork() else 1
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
matrix, vector, untouched = (torch.nn.Parameter(torch.zeros(s)) for s in ((2, 3), (2,), (4,)))
matrix.grad = torch.arange(6.0).view(3, 2).T * (1 + 2 * rank)  # not contiguous
vector.grad = torch.tensor([1.0, -1.0]) * (10 if rank else 0)
average_gradients(iter([matrix, untouched, vector]))
average_gradients(iter([untouched]))  # no message at all, so nobody waits for one
result = [matrix.grad.tolist(), vector.grad.tolist(), untouched.grad is None]
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump(result, file)
dist.destroy_process_group()
if rank:
    os._exit(0)
os.wait()
"""


def test_two_processes_get_the_mean_of_their_gradients(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)],
        timeout=60, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1] == [[[0.0, 4.0, 8.0], [2.0, 6.0, 10.0]], [5.0, -5.0], True]
