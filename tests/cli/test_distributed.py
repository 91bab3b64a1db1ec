"""Two processes on one machine, each test in subprocesses of its own with a time limit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import ROOT, TINY, same_tensors, timeless
from tests.tracking.offline import offline_runs

TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")

pytestmark = pytest.mark.slow


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_training_by_two_twice_finds_the_same_and_leaves_one_folder(tmp_path: Path) -> None:
    arguments = (*TINY, *TWO, "training.every_n_steps=4", "seed=1")
    for name in ("a", "b"):
        run("train.py", *arguments, f"out={tmp_path / name}")
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert same_tensors(tmp_path / "a" / "kit.safetensors", tmp_path / "b" / "kit.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_two_nodes_find_what_two_processes_of_one_find(tmp_path: Path) -> None:
    arguments = (*TINY, "training.every_n_steps=4", "seed=1", "trainer=ddp")
    arguments = (*arguments, "trainer.accelerator=cpu")
    run("train.py", *arguments, "trainer.devices=2", f"out={tmp_path / 'one'}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (*arguments, "trainer.devices=1", "trainer.num_nodes=2", f"out={tmp_path / 'two'}")
    nodes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "NODE_RANK": str(rank),
            },
        )
        for rank in (0, 1)
    ]
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert same_tensors(tmp_path / "one" / "kit.safetensors", tmp_path / "two" / "kit.safetensors")


@pytest.mark.parametrize("method", ["geniu", "retrain"])
def test_two_tune_as_one_does_and_read_each_image_once(
    trained: Path, tmp_path: Path, method: str
) -> None:
    arguments = (f"kit={trained}", "forget=[0]", f"unlearner={method}", "trainer.threads=1")
    run("unlearn.py", *arguments, f"out={tmp_path / 'one'}")
    run("unlearn.py", *arguments, *TWO, f"out={tmp_path / 'two'}")
    reads = [timeless(tmp_path / n)["cost"]["training_images_read"] for n in ("one", "two")]
    assert reads[0] == reads[1]
    assert (reads[0] > 0) == (method == "retrain")
    one, two = (load_file(tmp_path / n / "unlearned.safetensors") for n in ("one", "two"))
    if method == "geniu":
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3)


def test_training_by_two_is_one_run_of_wandb_with_each_step_once(tmp_path: Path) -> None:
    more = ("training.log_every_n_steps=1", "logger=wandb", f"out={tmp_path}")
    run("train.py", *TINY, *TWO, *more)
    (found,) = offline_runs(tmp_path)
    steps = [row["trainer/global_step"] for row in found.history if "train/loss" in row]
    assert steps == list(range(len(steps)))
    assert len(steps) > 3
    assert found.exits == [0]
    assert found.summary["accuracy.test.retain"] > 0
