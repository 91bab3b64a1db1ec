"""Commands killed at random moments: nothing finished is lost, the same command completes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import ROOT, TINY, same_tensors

SEED = 20261129
KILLS, TERMS = 50, 20
pytestmark = pytest.mark.slow
Run = Callable[..., int]


class Forking:
    """Runs commands by `tests/cli/forking.py`, and kills them."""

    def __init__(self, cache: Path) -> None:
        environment = os.environ | {"GENIU_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forking"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, words: list[str], kill: int | None = None, when: object = None) -> int:
        """Run a command, send a signal at a time or condition; return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill is not None:
            end = time.monotonic() + (when if isinstance(when, float) else 30.0)
            while time.monotonic() < end and Path(f"/proc/{child}").exists():
                if callable(when) and when():
                    break
                time.sleep(0.002)
            with suppress(ProcessLookupError):  # it ended before
                os.killpg(child, kill) if kill == signal.SIGKILL else os.kill(child, kill)
        return int(self.process.stdout.readline())


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Forking]:
    server = Forking(tmp_path / "cache")
    yield server
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.wait(timeout=60)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_killed_at_random_moments(
    forking: Forking, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(SEED)
    cache = tmp_path / "cache"
    train = ["train", *TINY, "training.epochs=6", "seed=1", "evaluation=accuracy"]
    kit = tmp_path / "whole" / "train"
    unlearn = ["unlearn", f"kit={kit}", "forget=[0]", "trainer.threads=1", "next_kit=true"]
    unlearn += ["unlearner=geniu", "unlearner.steps=60", "evaluation=accuracy"]
    sweep = ["unlearn", "-m", f"kit={kit}", "forget=[0]", "trainer.threads=1"]
    sweep += ["unlearner=geniu,finetune", "unlearner.steps=20", "evaluation=accuracy"]
    commands = {
        "train": (train, "out={}", ["kit.safetensors"]),
        "unlearn": (unlearn, "out={}", ["unlearned.safetensors", "kit.safetensors"]),
        "sweep": (sweep, "runs={}", ["unlearn/*/unlearned.safetensors"]),
    }
    seconds: dict[str, float] = {}
    for name, (words, where, _) in commands.items():
        start = time.monotonic()
        assert forking.run([*words, where.format(tmp_path / "whole" / name)]) == 0, name
        seconds[name] = time.monotonic() - start

    signals = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * TERMS
    draw.shuffle(signals)
    ends: Counter[str] = Counter()
    folder, round_ = {name: tmp_path / f"{name} 0" for name in commands}, 0
    for round_, sent in enumerate(signals):
        name = draw.choice(sorted(commands))
        words, where, files = commands[name]
        runs = folder[name]
        rests = {*cache.glob(".decoding-*/set/*.images")}  # of processes killed before
        moments: dict[str, object] = {
            "at random": draw.uniform(0, 1.1 * seconds[name]),
            "cache": lambda rests=rests: {*cache.glob(".decoding-*/set/*.images")} - rests,
            "weights": lambda runs=runs: any(
                path for pattern in ("*epoch=5*", "*.safetensors") for path in runs.rglob(pattern)
            ),
        }
        moment = draw.choice(("at random", "at random", "cache", "weights"))
        if moment == "cache":
            for place in cache.glob("*/meta.json"):
                place.unlink()
        finished = {p: p.read_bytes() for p in runs.rglob("done.json")}
        status = forking.run([*words, where.format(runs)], sent, moments[moment])
        ends[f"{sent.name} {moment} {name}: {status}"] += 1
        assert status in ((0, -9) if sent == signal.SIGKILL else (0, 143, -15)), (name, status)
        for done, content in finished.items():
            assert done.read_bytes() == content
        if status == 0 or draw.random() < 0.4:  # the others go on from where several were killed
            assert forking.run([*words, where.format(runs)]) == 0, name
            for pattern in files:
                wanted = sorted((tmp_path / "whole" / name).glob(pattern))
                found = sorted(runs.glob(pattern))
                assert [p.relative_to(runs) for p in found] == [
                    p.relative_to(tmp_path / "whole" / name) for p in wanted
                ]
                for one, other in zip(wanted, found, strict=True):
                    assert same_tensors(one, other), (name, pattern)
            assert not list(runs.rglob(".*.safetensors.*")), "a rest of a file"
            folder[name] = tmp_path / f"{name} {round_ + 1}"
    record_property("ends", dict(ends))
