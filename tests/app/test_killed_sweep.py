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

from geniu_lightning.app.methods import without_data
from tests.app.conftest import MEASURED, ROOT, TINY

KITS = 12
SWEEP = ("sweep=grid", "data=digits,mnist", "imbalance.ratio=0.1,0.05", "seed=1,2,3")
SEED = 20261126  # of the moments at which it is killed


class Sweep:
    """The two commands of a grid and what follows from it, in a folder of their own.

    Args:
        runs: The folder of all runs.

    Attributes:
        jobs: How many jobs the second command has.
    """

    def __init__(self, runs: Path) -> None:
        methods, _ = without_data()
        small = [word for word in TINY if not word.startswith("imbalance.ratio")]
        self.runs = runs
        self.jobs = KITS * len(methods)
        self.train = ("train.py", *SWEEP, *small, "evaluation=accuracy", f"runs={runs}")
        self.unlearn = (
            *("unlearn.py", "sweep=kits", "forget=[0]", f"unlearner={','.join(methods)}"),
            *("oracles.count=2", "trainer.threads=1", f"runs={runs}"),
        )

    def done(self) -> dict[str, float]:
        """Return when each finished run was finished."""
        return {
            str(mark.parent.relative_to(self.runs)): mark.stat().st_mtime
            for mark in self.runs.glob("*/**/done.json")
        }

    def start(self, words: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, words: tuple[str, ...], after: int) -> None:
        """Start a command and kill it somewhere in the job that follows so many finished ones."""
        process = self.start(words)
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

    killed.kill(killed.train, random.randrange(1, KITS))
    survivors = killed.done()
    assert killed.start(killed.train).wait() == 0
    for share in (0.1, 0.5):
        after = KITS + round((share + random.uniform(0, 0.4)) * killed.jobs)
        killed.kill(killed.unlearn, after)
        survivors |= killed.done()
    assert killed.start(killed.unlearn).wait() == 0
    for words in (whole.train, whole.unlearn):
        assert whole.start(words).wait() == 0

    ended = killed.done()
    assert {run: ended[run] for run in survivors} == survivors  # none was done twice
    assert ended.keys() == whole.done().keys()
    assert sum(run.startswith("train/") for run in ended) == KITS
    assert sum(run.startswith("unlearn/") for run in ended) == killed.jobs
    a, b = killed.found(), whole.found()
    assert a.keys() == b.keys()
    assert [run for run in a if a[run] != b[run]] == []
