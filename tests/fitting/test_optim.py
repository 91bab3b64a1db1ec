"""Schedules against closed formulas, and the mean of gradients over processes."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.distributed import average_gradients, total_over_ranks
from geniu_lightning.fitting.optim import schedule_of
from tests.reference import training_loop


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


def test_processes_get_the_mean_of_their_gradients_in_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = []

    def add_the_other_process(message: torch.Tensor) -> None:
        messages.append(message.clone())
        message += torch.tensor([3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 10.0, -10.0])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other_process)
    matrix, vector, untouched = (nn.Parameter(torch.zeros(s)) for s in ((2, 3), (2,), (4,)))
    matrix.grad = torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]).T  # not contiguous
    vector.grad = torch.zeros(2)
    average_gradients(iter([matrix, untouched, vector]))
    assert matrix.grad.tolist() == [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]
    assert vector.grad.tolist() == [5.0, -5.0]
    assert untouched.grad is None
    average_gradients(iter([untouched]))  # no message at all, so nobody waits for one
    assert [len(message) for message in messages] == [8]


def test_numbers_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert total_over_ranks(7) == 7  # one process

    def add_the_other_process(message: torch.Tensor) -> None:
        message += 2**40

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other_process)
    assert total_over_ranks(7) == 2**40 + 7
