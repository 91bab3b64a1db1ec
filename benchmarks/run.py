"""Ratios of speed, each pair measured in turns in one run.

    python benchmarks/run.py                  all of them: about half an hour on two cores
    python benchmarks/run.py loop startup     these alone
    python benchmarks/run.py --list           what there is

Absolute times depend on the machine and on who else uses it; ratios do so less.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import commands
import training

BENCHMARKS: dict[str, Callable[[], None]] = {
    "loop": training.loop,
    "generator": training.generator,
    "loader": training.loader,
    "precision": training.precision,
    "unlearning": commands.unlearning,
    "startup": commands.startup,
    "jobs": commands.jobs,
    "memory": commands.memory,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--list", action="store_true", help="say what each measures, and end")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    if options.list:
        for name, measure in BENCHMARKS.items():
            print(f"{name:12}{(measure.__doc__ or '').splitlines()[0]}")
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for name in options.names or BENCHMARKS:
        print(f"\n{name}: {(BENCHMARKS[name].__doc__ or '').splitlines()[0]}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
