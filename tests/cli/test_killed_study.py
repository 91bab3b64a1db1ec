"""A study of Optuna that is killed and started again with the same words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.commands import ROOT, TINY

WORDS = (
    *("unlearn.py", "sweep=tune", "forget=[0]", "unlearner=finetune", "trainer.threads=1"),
    *("hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.n_startup_trials=3"),
    "hydra.sweeper.n_trials=8",
)


def started(kit: Path, folder: Path) -> "subprocess.Popen[bytes]":
    words = [*WORDS, f"kit='{kit}'", f"hydra.sweep.dir='{folder}'"]
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, start_new_session=True)


def best(folder: Path) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    return found


@pytest.mark.slow
def test_a_study_that_learns_from_its_trials_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    kit, killed, whole = (tmp_path / name for name in ("kit", "killed", "whole"))
    train = ["train.py", *TINY, "data.validation=0.2", "evaluation=none", f"out='{kit}'"]
    subprocess.run([sys.executable, *train], cwd=ROOT, check=True)
    process = started(kit, killed)
    while not (killed / "4" / "done.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    marks = {mark: mark.stat().st_mtime for mark in killed.glob("*/done.json")}
    assert not (killed / "optimization_results.yaml").exists()
    for folder in (killed, whole):
        assert started(kit, folder).wait() == 0
    assert {mark: mark.stat().st_mtime for mark in marks} == marks
    assert len(list(killed.glob("*/done.json"))) == 8
    assert best(killed) == best(whole)
    assert best(killed)["name"] == "optuna"
