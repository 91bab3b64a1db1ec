"""Commands run in this process, on real digits and a tiny network; a plugin of pytest."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from geniu_lightning.cli.evaluate import main as evaluate_main
from geniu_lightning.cli.train import main as train_main
from geniu_lightning.cli.unlearn import main as unlearn_main

ROOT = Path(__file__).parents[1]
TINY = (
    "model.width=4",
    "training.epochs=2",
    "training.min_generator_steps=8",
    "training.proxies_per_class=2",
    "imbalance.ratio=0.3",
    "trainer.threads=1",
)


MEASURED = (  # of a run's cost, what another time is another number
    *("seconds", "seconds_each", "peak_memory_bytes", "retrain_seconds"),
    *("step_seconds", "generator_overhead", "training_overhead", "next_kit_seconds", "ended"),
)


UNLEARNED = (
    *("forget=[3,5]", "unlearner=geniu", "unlearner.steps=5", "trainer.threads=1"),
    *("evaluation=accuracy", "+evaluation.timings=3"),
)


@dataclass
class Outcome:
    status: int
    out: str
    err: str


MAINS = {"train": train_main, "unlearn": unlearn_main, "evaluate": evaluate_main}
Command = Callable[..., Outcome]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Command:
    """Run ``train``, ``unlearn`` or ``evaluate`` as a person would, without starting a process.

    In an empty folder, as a finished run of an earlier test session would not be run again.
    """
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))

    def run(name: str, *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        status = 0
        try:
            MAINS[name]()
        except SystemExit as ending:
            status = int(ending.code or 0)
        return Outcome(status, *capfd.readouterr())

    return run


def _run(main: Callable[[], None], *arguments: str) -> None:
    before = sys.argv
    sys.argv = list(arguments)
    try:
        main()
    finally:
        sys.argv = before


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished training run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained run")  # with a space, as on many a desktop
    _run(train_main, "train.py", *TINY, "seed=1", f"out={folder}")
    return folder


@pytest.fixture(scope="session")
def bank(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank of three oracles of the trained kit, not to be changed."""
    folder = tmp_path_factory.mktemp("the bank")
    request = (f"kit={trained}", "forget=[0]", f"oracles.folder={folder}", "oracles.add=1,2,3")
    more = ("trainer.threads=1", "oracles.count=3", f"runs={tmp_path_factory.mktemp('runs')}")
    _run(unlearn_main, "unlearn.py", "-m", "sweep=oracles", *request, *more)
    return folder


@pytest.fixture(scope="session")
def unlearned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished unlearning run, by `UNLEARNED`, not to be changed."""
    folder = tmp_path_factory.mktemp("unlearned")
    _run(unlearn_main, "unlearn.py", f"kit={trained}", *UNLEARNED, f"out={folder}")
    return folder


def timeless(folder: Path) -> dict[str, Any]:
    """Return the metrics of a run without what another time is another number."""
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    for name in MEASURED:
        document["cost"].pop(name, None)
    return document


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors to the bit."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
