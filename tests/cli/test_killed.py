"""Sweeps, studies and jobs that are killed or preempted, beside others that nobody touched."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.commands import ROOT, TINY, same_tensors, timeless

PROCESSES = Path("/proc")
SEED = 20261126  # of the moments at which sweeps are killed
pytestmark = pytest.mark.slow


def started(*words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, start_new_session=True)


def killed(words: list[str], when: Callable[[], bool], pause: float = 0.0) -> None:
    """Start a command and kill all its processes, a pause after a condition holds."""
    process = started(*words)
    while not when():
        assert process.poll() is None, "it ended before it was to be killed"
        time.sleep(0.01)
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended(runs: Path) -> dict[str, float]:
    """Return when each finished run below a folder was finished."""
    return {str(m.parent.relative_to(runs)): m.stat().st_mtime for m in runs.rglob("done.json")}


def found(runs: Path) -> dict[str, str]:
    """Return what stands in each run's metrics, times aside."""
    return {
        str(file.parent.relative_to(runs)): json.dumps(timeless(file.parent)).replace(str(runs), "")
        for file in runs.rglob("metrics.json")
    }


def test_a_killed_sweep_ends_as_one_that_nobody_touched(tmp_path: Path) -> None:
    random.seed(SEED)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    survivors: dict[str, float] = {}
    for runs in (broken, whole):
        where = f"runs='{runs}'"
        train = ["train.py", "-m", *TINY, "data=digits", "imbalance.ratio=0.3,0.2", "seed=1,2"]
        after = ["unlearn.py", "sweep=kits", "forget=[0]", "trainer.threads=1"]
        methods = ("unlearner=geniu,logit_mask,retrain", "evaluation=accuracy")
        for words, jobs in (([*train, where], 4), ([*after, *methods, where], 12)):
            if runs == broken:
                enough = len(ended(runs)) + random.randrange(1, jobs - 1)
                killed(words, lambda enough=enough: len(ended(broken)) >= enough, random.random())
                survivors |= ended(runs)
            assert started(*words).wait() == 0
    after_all = ended(broken)
    assert {run: after_all[run] for run in survivors} == survivors  # none was done twice
    assert after_all.keys() == ended(whole).keys()
    assert len(after_all) == 16
    a, b = found(broken), found(whole)
    assert [run for run in a | b if a.get(run) != b.get(run)] == []


def test_a_study_that_learns_from_its_trials_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    kit, broken, whole = (tmp_path / name for name in ("kit", "broken", "whole"))
    train = ["train.py", *TINY, "data.validation=0.2", "evaluation=none", f"out='{kit}'"]
    assert started(*train).wait() == 0
    words = ["unlearn.py", "sweep=tune", "forget=[0]", "unlearner=finetune", "trainer.threads=1"]
    words += ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.n_startup_trials=3"]
    words += ["hydra.sweeper.n_trials=8", f"kit='{kit}'"]
    at_four = (broken / "4" / "done.json").is_file
    killed([*words, f"hydra.sweep.dir='{broken}'"], at_four)
    survivors = ended(broken)
    assert not (broken / "optimization_results.yaml").exists()
    for folder in (broken, whole):
        assert started(*words, f"hydra.sweep.dir='{folder}'").wait() == 0
    after_all = ended(broken)
    assert {run: after_all[run] for run in survivors} == survivors
    assert len(after_all) == 8
    best, other = (
        yaml.safe_load((f / "optimization_results.yaml").read_text()) for f in (broken, whole)
    )
    assert best == other
    assert best["name"] == "optuna"


def processes_of_submitit(folder: Path) -> list[int]:
    """Return the processes of submitit whose logs lie in a folder."""
    own = []
    for entry in PROCESSES.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if "submitit.core._submit" in words and any(str(folder) in word for word in words):
            own.append(int(entry.parent.name))
    return own


@pytest.mark.skipif(not PROCESSES.is_dir(), reason="submitit's processes are found in /proc")
def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    words = ["train.py", "-m", *TINY, "training.epochs=12", "evaluation=none", "seed=5"]
    words += ["hydra/launcher=submitit_local"]
    preempted, whole = tmp_path / "preempted", tmp_path / "whole"
    process = started(*words, f"runs='{preempted}'")
    while not list(preempted.glob("train/*/checkpoints/*.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    (job,) = processes_of_submitit(preempted)
    os.kill(job, signal.SIGUSR2)  # as Slurm does, a moment before it takes the machine
    assert process.wait() == 0
    assert "going on from" in "".join(path.read_text() for path in preempted.rglob("*.out"))
    assert started(*words, f"runs='{whole}'").wait() == 0
    a, b = (next(runs.glob("train/*/kit.safetensors")) for runs in (preempted, whole))
    assert same_tensors(a, b)
