"""Cost of the commands: unlearning and retraining, start-up, parallel jobs, memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = ("geniu_paper", "geniu", "unsir", "emmn", "gkt", "retrain")
DATA = "mnist" if os.environ.get("GENIU_DATA") else "digits"


def command(script: str, *words: str) -> tuple[float, str]:
    """Run a command as a person would; return seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done.stdout


def trained(folder: Path, *words: str) -> Path:
    """Train a kit and return its folder."""
    kit = folder / "kit"
    command("train.py", f"data={DATA}", "imbalance.ratio=0.1", *words, f"out={kit}")
    return kit


def unlearning() -> None:
    """Seconds of unlearning over those of retraining (goal for the paper's tuning: 1/50)."""
    with tempfile.TemporaryDirectory() as name:
        kit = trained(Path(name), "model.width=16", "training.epochs=8", "evaluation=none")
        costs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for turn in range(3):
            for method in METHODS:
                chosen = method if method != "geniu_paper" else "geniu"
                more = ["experiment=paper_tuning"] if method == "geniu_paper" else []
                out = Path(name) / f"{method}-{turn}"
                words = (f"kit={kit}", "forget=[0]", f"unlearner={chosen}", "evaluation=none")
                command("unlearn.py", *words, *more, f"out={out}")
                costs[method].append(json.loads((out / "metrics.json").read_text())["cost"])
    seconds = {m: [cost["seconds"] for cost in found] for m, found in costs.items()}
    print(f"  {DATA}, ratio 0.1, AllCNN width 16, eight epochs; steps alone, three turns")
    for method in METHODS:
        own = statistics.median(seconds[method])
        ratios = {
            other: statistics.median(
                a / b for a, b in zip(seconds[method], seconds[other], strict=True)
            )
            for other in ("retrain", "unsir")
        }
        peaks = [cost["peak_memory_bytes"] for cost in costs[method]]
        shares = ", ".join(f"{r:.4f} of {other}" for other, r in ratios.items())
        print(f"  {method:12} {own:7.2f} s, {shares}, {max(peaks) / 2**20:.0f} MiB added")


def startup() -> None:
    """From the command to the first step of unlearning, warm (goal: 6 s)."""
    with tempfile.TemporaryDirectory() as name:
        kit = trained(Path(name), "model.width=16", "training.epochs=2", "evaluation=none")
        words = (f"kit={kit}", "forget=[0]", "unlearner.steps=1", "evaluation=none")
        found = []
        for turn in range(5):
            out = Path(name) / str(turn)
            start = time.time()
            command("unlearn.py", *words, f"out={out}")
            log = next((out / "log").rglob("metrics.csv"))
            found.append(log.stat().st_ctime - start)
        again = command("unlearn.py", *words, f"out={out}")[0]
    print(f"  {statistics.median(found):.1f} s ({min(found):.1f} to {max(found):.1f})")
    print(f"  a finished run ends in {again:.1f} s")


def jobs() -> None:
    """Four training runs by one, two and four jobs at a time, against one at a time."""
    seconds = []
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory() as name:
            words = (
                *("-m", "data=digits", "model.width=16", "training.epochs=4", "seed=1,2,3,4"),
                *("evaluation=none", f"runs={name}", "hydra/launcher=joblib"),
                f"hydra.launcher.n_jobs={count}",
            )
            seconds.append(command("train.py", *words)[0])
        print(
            f"  {count} at a time: {seconds[-1]:.0f} s, {seconds[-1] / seconds[0]:.2f}", flush=True
        )


def memory() -> None:
    """Peak of resident memory of both commands and of a process that imports torch."""
    with tempfile.TemporaryDirectory() as name:
        kit = Path(name) / "kit"
        words = (f"data={DATA}", "imbalance.ratio=0.1", "training.epochs=2", "evaluation=none")
        unlearn = (f"kit={kit}", "forget=[0]", "evaluation=none", f"out={Path(name) / 'out'}")
        for name_of, arguments in (
            ("import torch", ("-c", "import torch")),
            (f"train.py, {DATA}, AllCNN width 96", (str(ROOT / "train.py"), *words, f"out={kit}")),
            ("unlearn.py, geniu", (str(ROOT / "unlearn.py"), *unlearn)),
        ):
            process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{name_of} failed")
            unit = 1 if sys.platform == "darwin" else 1024
            print(f"  {name_of}: {used.ru_maxrss * unit / 2**20:.0f} MiB", flush=True)
