"""A job of submitit that its cluster takes the machine from, and gives it back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import ROOT, TINY

PROCESSES = Path("/proc")


def processes(folder: Path) -> Iterator[int]:
    """Yield the processes of submitit whose logs lie in a folder."""
    for entry in PROCESSES.glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if "submitit.core._submit" in words and any(str(folder) in word for word in words):
            yield int(entry.parent.name)


def sweep(runs: Path) -> list[str]:
    return [
        *(sys.executable, "train.py", "-m", *TINY, "training.epochs=12", "evaluation=none"),
        *("hydra/launcher=submitit_local", "seed=5", f"runs='{runs}'"),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not PROCESSES.is_dir(), reason="submitit's processes are found in /proc")
def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    preempted, whole = tmp_path / "preempted", tmp_path / "whole"
    process = subprocess.Popen(
        sweep(preempted), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not list(preempted.glob("train/*/checkpoints/*.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    (job,) = processes(preempted)
    os.kill(job, signal.SIGUSR2)  # as Slurm does, a moment before it takes the machine
    said, _ = process.communicate()
    assert process.returncode == 0, said
    log = "".join(path.read_text() for path in preempted.rglob("*.out"))
    assert "going on from" in log
    subprocess.run(sweep(whole), cwd=ROOT, check=True)
    a, b = (load_file(next(runs.glob("train/*/kit.safetensors"))) for runs in (preempted, whole))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
