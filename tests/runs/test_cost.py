"""Cost of a run: repeated timings, memory, stored bytes, and the overhead of training."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from geniu_lightning.fitting.memory import PeakMemory
from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.cost import bytes_kept, cost_of, repeated
from geniu_lightning.runs.step_clock import StepClock
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Access


def test_timings_are_repeated_as_often_as_a_minute_allows() -> None:
    for first, count, expected in (
        (1.0, 5, [1.0, 2.0, 3.0, 4.0, 5.0]),
        (1.0, 1, [1.0]),
        (40.0, 5, [40.0]),  # a second one would go beyond a minute
        (30.0, 5, [30.0, 2.0]),
    ):
        assert repeated(first, count, float) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak of memory")
def test_memory_that_was_added_and_freed_again_is_seen() -> None:
    size = 256 << 20
    with PeakMemory(torch.device("cpu")) as before:
        torch.ones(1)
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(size, dtype=torch.uint8)
    assert before.added is not None
    assert memory.added is not None
    assert before.added < size / 4
    assert size * 0.9 < memory.added < size * 1.5


def unlearner(access: Access, stored: int | None = None) -> Unlearner:
    clock = SimpleNamespace(seconds=1.0)
    return SimpleNamespace(access=access, stored=stored, forget=(0,), steps=3, clock=clock)


def test_what_has_to_be_kept_follows_from_what_is_read(trained: Path) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    gone, kept = kit.info.class_counts[0], sum(kit.info.class_counts[1:])
    image = kit.info.spec.channels * kit.info.spec.size**2
    assert bytes_kept(unlearner(Access.NONE), kit) == 0
    assert bytes_kept(unlearner(Access.FORGET), kit) == gone * image
    assert bytes_kept(unlearner(Access.RETAIN), kit) == kept * image
    assert bytes_kept(unlearner(Access.RETAIN, stored=7), kit) == 7 * image
    assert bytes_kept(unlearner(Access.FORGET | Access.RETAIN), kit) == (gone + kept) * image
    kit.prompts_of([1])
    whole = (trained / "kit.safetensors").stat().st_size
    found = bytes_kept(unlearner(Access.NONE), kit)
    assert whole / 2 < found < whole  # the rest is the classifier and the description


def test_the_median_of_timings_is_told_and_each_of_them(trained: Path) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    cost = cost_of(unlearner(Access.NONE), kit, trained / "kit.safetensors", [9.0, 1.0, 2.0], 5)
    assert cost["seconds"] == 2.0
    assert cost["seconds_each"] == [9.0, 1.0, 2.0]
    assert cost["training_images_read"] == 5
    assert cost["training_overhead"] == 0.0  # a method without prompts needs no generator
    kit.prompts_of([1])
    told = json.loads((trained / "metrics.json").read_text())["cost"]["generator_overhead"]
    cost = cost_of(unlearner(Access.NONE), kit, trained / "kit.safetensors", [1.0], 0)
    assert cost["training_overhead"] == told
    cost = cost_of(unlearner(Access.NONE), kit, Path("elsewhere") / "kit.safetensors", [1.0], 0)
    assert "absent" in cost["training_overhead"]


def test_overhead_compares_all_steps_with_those_of_the_classifier_alone() -> None:
    clock = StepClock()
    clock.plain = [9.0, 1.0, 1.0]  # the first one warms up
    clock.all = [*clock.plain, 2.0, 2.0]
    assert clock.cost() == {"step_seconds": 15.0, "generator_overhead": pytest.approx(2.0)}
    clock.reading = [0.5, 1.5]  # a batch
    assert clock.classifier_seconds(steps=4) == pytest.approx(4 * (1 + 1))
    clock.plain = [9.0]
    assert "absent" in clock.cost()["generator_overhead"]
    assert "absent" in clock.classifier_seconds(steps=4)
    clock.resumed = True
    assert "resumed" in clock.cost()["generator_overhead"]["absent"]
