"""A sweep that is killed and started again, beside one that nobody touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from geniu_lightning.settings.configs import CONF, methods_without_data
from tests.commands import MEASURED, ROOT, TINY

KITS = 12
SWEEP = ("sweep=grid", "data=digits,mnist", "imbalance.ratio=0.1,0.05", "seed=1,2,3")
SEED = 20261126  # of the moments at which it is killed
STEPS = "unlearner.steps=2"
FEW = {  # for those that have more kinds of steps
    "emmn": ("unlearner.noise_steps=2", "unlearner.impair_steps=2", "unlearner.repair_steps=2"),
    # a gate that stands open: what two steps of a generator make would not pass another
    "gkt": (STEPS, "unlearner.threshold=0.99", "unlearner.student_steps=2"),
}


class Sweep:
    """The commands of a grid and of what follows from it, in a folder of their own.

    Args:
        runs: The folder of all runs.

    Attributes:
        commands: Their words: training, then all methods that read no image, with few steps.
        jobs: How many jobs each has.
    """

    def __init__(self, runs: Path) -> None:
        methods = set(methods_without_data()[0]) - FEW.keys()
        by_steps = {m for m in methods if "steps" in OmegaConf.load(CONF / f"unlearner/{m}.yaml")}
        small = [word for word in TINY if not word.startswith("imbalance.ratio")]
        after = ("unlearn.py", "sweep=kits", "forget=[0]", "oracles.count=2", "trainer.threads=1")

        def chosen(names: set[str]) -> str:
            return f"unlearner={','.join(sorted(names))}"

        where = f"runs='{runs}'"
        self.runs = runs
        self.commands = (
            ("train.py", *SWEEP, *small, "evaluation=accuracy", where),
            (*after, chosen(by_steps), STEPS, where),
            (*after, chosen(methods - by_steps), where),
            *((*after, chosen({method}), *few, where) for method, few in FEW.items()),
        )
        self.jobs = tuple(
            KITS * count for count in (1, len(by_steps), len(methods - by_steps), *[1] * len(FEW))
        )

    def done(self) -> dict[str, float]:
        """Return when each finished run was finished; oracles are none."""
        return {
            str(mark.parent.relative_to(self.runs)): mark.stat().st_mtime
            for kind in ("train", "unlearn")
            for mark in self.runs.glob(f"{kind}/*/done.json")
        }

    def start(self, words: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, number: int) -> None:
        """Start a command and kill it somewhere in it."""
        after = len(self.done()) + random.randrange(1, self.jobs[number] - 1)
        process = self.start(self.commands[number])
        while len(self.done()) < after:
            assert process.poll() is None, "it ended before it was to be killed"
            time.sleep(0.02)
        time.sleep(random.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def found(self) -> dict[str, Any]:
        """Return what stands in each run's metrics, times aside."""
        return {
            str(file.parent.relative_to(self.runs)): _timeless(
                json.loads(file.read_text().replace(str(self.runs), "RUNS"))
            )
            for file in self.runs.glob("*/**/metrics.json")
        }


def _timeless(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _timeless(value) for key, value in node.items() if key not in MEASURED}
    return [_timeless(item) for item in node] if isinstance(node, list) else node


@pytest.mark.slow
def test_killed_three_times_it_ends_as_one_that_nobody_touched(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_DATA", str(shared_data))
    random.seed(SEED)
    killed, whole = Sweep(tmp_path / "killed"), Sweep(tmp_path / "whole")
    survivors: dict[str, float] = {}
    for number, command in enumerate(killed.commands):
        if number < 3:
            killed.kill(number)
            survivors |= killed.done()
        assert killed.start(command).wait() == 0
    for command in whole.commands:
        assert whole.start(command).wait() == 0

    ended = killed.done()
    assert {run: ended[run] for run in survivors} == survivors  # none was done twice
    assert ended.keys() == whole.done().keys()
    assert sum(run.startswith("train/") for run in ended) == KITS
    assert sum(run.startswith("unlearn/") for run in ended) == sum(killed.jobs[1:])
    a, b = killed.found(), whole.found()
    assert a.keys() == b.keys()
    assert [run for run in a if a[run] != b[run]] == []
