"""Folders of runs, written as the commands write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geniu_lightning.report.aggregate import Row
from geniu_lightning.report.load import find
from geniu_lightning.report.tables import Table, tables

TRAINED: dict[str, Any] = {
    "data": {
        "name": "digits",
        "source": {"_target_": "x.Digits"},
        "flip": False,
        "validation": 0.0,
    },
    "imbalance": {
        **{"_target_": "geniu_lightning.data.imbalance.step", "_partial_": True},
        **{"majority": [0], "ratio": 0.1, "seed": 0},
    },
    "model": {"_target_": "geniu_lightning.models.allcnn.AllCNN", "width": 4},
    "training": {"epochs": 3, "max_gradient_norm": None, "when": "during"},
    "precision": "32-true",
}
SETTING = "digits, step (majority [0], ratio 0.1), AllCNN width 4, forget [0]"
STEPS = (0, 1, 2, 5, 10, 20, 50)
CURVE = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
AREA = 0.5625


def leaf(value: object, **more: object) -> dict[str, object]:
    """Return a value as the evaluation writes it; parts that are not given are null."""
    parts = dict.fromkeys(("ideal", "oracle_mean", "oracle_std", "z", "original", "position"))
    return {"value": value, "direction": "oracle"} | parts | more


def run(
    folder: Path,
    method: str,
    seed: int = 1,
    *,
    forget: float | None = 0.125,
    retain: float = 0.9,
    verdict: str | None = "forgotten",
    seconds: float = 2.0,
    target: str = "",
    **more: object,
) -> Path:
    """Write the run of a method, compared with five oracles; return its folder."""
    target = target or f"geniu_lightning.unlearning.{method}.Method"
    forgotten: dict[str, object] = {"absent": "no image of the class"}
    if forget is not None:
        forgotten = leaf(forget, oracle_mean=0.0, oracle_std=0.0, original=1.0)
    accuracy = {
        "forget": forgotten,
        "retain": leaf(retain, oracle_mean=0.875, oracle_std=0.0625, original=0.75 + seed / 8),
        "per_class": leaf([0.0, 1.0]),
    }
    document: dict[str, Any] = {
        "version": 3,
        "verdict": verdict,
        "verdict_reason": f"because {method}",
        "findings": [
            {
                **{"question": "inside", "name": "head.repair", "value": 0.5, "reference": 0.125},
                **{"allowed": 0.25, "original": 1.0, "against": "nulls", "position": 0.4286},
            }
        ],
        "controls": {"original": "retained", "mask": "suppressed"},
        "oracle_verdicts": {"forgotten": 4, "distinguishable": 1},
        "attacks": [
            {
                **{"family": family, "name": f"{family}.x", "allowed": 0.25, "reach": reach},
                "has_power": reach >= 0.5,
            }
            for family, reach in (("features", 0.25), ("head", 0.875), ("head", 0.25))
        ],
        "oracles": [1000, 1001, 1002, 1003, 1004],
        "nulls": 3,
        "steps": {},
        "run": {
            "unlearner": {"_target_": target, "_convert_": "all", "name": method, "steps": 25},
            "evaluation": {"seed": 0, "split": "test", "metrics": {}},
            "forget": [0],
            "seed": 0,
            "kit_sha256": f"digest of kit {seed}",
            "job": "unlearn",
            "revision": "abcdef0123456789",
            "trained": TRAINED | {"seed": seed},
        },
        "cost": {
            "seconds": seconds,
            "seconds_each": [seconds],
            "training_images_read": 0,
            "reads_prompts": True,
            "peak_memory_bytes": {"absent": "not told"},
            "retrain_seconds": 16.0,
        },
        "metrics": {"accuracy": {"test": accuracy}, "cka": {"absent": "no layers"}},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(document | more))
    (folder / "done.json").write_text("{}")
    return folder


def change(folder: Path, name: str = "metrics.json", **more: object) -> Path:
    """Set keys of a run's file, by dotted names written with `__`."""
    file = folder / name
    document = json.loads(file.read_text())
    for dotted, value in more.items():
        *path, last = dotted.split("__")
        node = document
        for part in path:
            node = node[part]
        node[last] = value
    file.write_text(json.dumps(document))
    return folder


def relearned(
    folder: Path, curve: list[float], area: float, steps: Sequence[float] = STEPS
) -> Path:
    """Add an attack to a run."""
    oracles = [0.0] * (len(curve) - 1) + [0.125]
    attack = {
        "area": leaf(area, oracle_mean=0.0625, oracle_std=0.03125, original=1.0),
        "curve": leaf(curve, oracle_mean=oracles, original=[1.0] * len(curve)),
    }
    return change(folder, metrics__relearning={"k10": attack}, steps={"relearning": list(steps)})


def failed(folder: Path, method: str, seed: int, why: str) -> Path:
    """Write a run that ended with an error."""
    document = json.loads((run(folder, method, seed) / "metrics.json").read_text())
    for name in ("metrics.json", "done.json"):
        (folder / name).unlink()
    (folder / "failed.json").write_text(json.dumps({"run": document["run"], "failed": why}))
    return folder


def kit(folder: Path, seed: int, picture: bytes = b"") -> Path:
    """Write what training leaves."""
    folder.mkdir(parents=True)
    (folder / "proxies.png").write_bytes(picture)
    settings = {name: part for name, part in TRAINED.items() if name != "precision"}
    own = {"job": "train", "seed": seed, "trainer": {"precision": TRAINED["precision"]}}
    document = {"version": 3, "run": settings | own, "metrics": {}}
    (folder / "metrics.json").write_text(json.dumps(document))
    return folder


def table(folder: Path) -> Table:
    """Return the one table of the runs below a folder."""
    (found,) = tables(find([folder]))
    return found


def row(folder: Path, method: str) -> Row:
    """Return the one row of a method."""
    (found,) = [one for one in table(folder).rows if one.method == method]
    return found
