"""Schedules against closed formulas, and the mean of gradients over processes."""

import math

import pytest
import torch
from torch import nn

from geniu_lightning.fitting.distributed import average_gradients, total_over_ranks
from geniu_lightning.fitting.optim import lr_schedule_of
from tests.reference import training_loop


def rates(schedule: str, steps: int, *starts: float) -> list[list[float]]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": start} for start in starts]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    lr_schedule = lr_schedule_of(optimizer, schedule, steps)  # type: ignore[arg-type]
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        lr_schedule.step()
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)
    return seen


def test_schedules_are_those_of_closed_formulas() -> None:
    for steps in (10, 37):
        found = [rate for (rate,) in rates("onecycle", steps, 0.5)]
        expected = [training_loop.one_cycle(0.5, n, steps) for n in range(steps)]
        assert found == pytest.approx(expected, rel=1e-6)
        assert 0.45 < max(found) <= 0.5
        assert 0.2 <= found.index(max(found)) / steps <= 0.3
        assert found[-1] < 1e-5
    for steps in (1, 2, 10):
        found = [rate for (rate,) in rates("cosine", steps, 0.5)]
        expected = [0.25 * (1 + math.cos(math.pi * n / steps)) for n in range(steps)]
        assert found == pytest.approx(expected, abs=1e-9)
    assert rates("none", 5, 0.5) == [[0.5]] * 5
    for schedule in ("onecycle", "cosine", "none"):
        for steps in (0, 1, 2, 3, 4, 6):  # short ones do not fail, and groups have their own rates
            found = rates(schedule, steps, 0.5, 0.05)
            assert len(found) == steps
            for first, second in found:
                assert 0 <= first <= 0.5
                assert first == pytest.approx(10 * second)


def test_processes_get_the_mean_of_their_gradients_in_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = []

    def add_the_other_process(message: torch.Tensor, *_: object) -> None:
        messages.append(message.clone())
        message += torch.tensor([3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 10.0, -10.0])

    alone = nn.Parameter(torch.ones(2))
    alone.grad = torch.tensor([1.0, 2.0])
    average_gradients(iter([alone, nn.Parameter(torch.ones(1))]))  # one process
    assert alone.grad.tolist() == [1.0, 2.0]
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

    def add_the_other_process(message: torch.Tensor, *_: object) -> None:
        message += 2**40

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", add_the_other_process)
    assert total_over_ranks(7) == 2**40 + 7
