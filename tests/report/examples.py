"""Folders of runs, written as the commands write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAINED: dict[str, Any] = {
    "data": {
        "_target_": "geniu_lightning.data.module.ImageData",
        "name": "digits",
        "root": None,
        "cache_folder": None,
        "source": {"_target_": "geniu_lightning.data.sources.Digits", "_partial_": True},
        "image_size": 32,
        "channels": 1,
        "mean": 0.5,
        "std": 0.5,
        "pad": 0,
        "flip": False,
        "validation": 0.0,
    },
    "imbalance": {
        "_target_": "geniu_lightning.data.imbalance.step",
        "_partial_": True,
        "majority": [0],
        "ratio": 0.1,
        "seed": 0,
    },
    "model": {"_target_": "geniu_lightning.models.allcnn.AllCNN", "width": 4},
    "training": {
        "_target_": "geniu_lightning.training.module.GeniuModule",
        "batch_size": 64,
        "epochs": 3,
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.003},
        "schedule": "onecycle",
        "max_gradient_norm": None,
        "proxies_per_class": 10,
        "when": "beside",
    },
    "precision": "32-true",
}
SETTING = "digits, step (majority [0], ratio 0.1), AllCNN width 4, forget [0]"
STEPS = (0, 1, 2, 5, 10, 20, 50)
CURVE = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
AREA = 0.5625


def leaf(value: object, **more: object) -> dict[str, object]:
    """A value as the evaluation writes it; what is not said is null."""
    beside = dict.fromkeys(("ideal", "oracle_mean", "oracle_std", "z", "original", "position"))
    return {"value": value, "direction": "oracle"} | beside | more


def run(
    folder: Path,
    method: str,
    seed: int = 1,
    *,
    forget: float | None = 0.125,
    retain: float = 0.9,
    word: str | None = "forgets",
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
        "version": 1,
        "word": word,
        "word_reason": f"because {method}",
        "deciding": [{"question": "inside", "name": "head.repair", "value": 0.5, "allowed": 0.25}],
        "controls": {"original": "keeps", "mask": "hides"},
        "oracle_words": {"forgets": 4, "scars": 1},
        "oracles": [1000, 1001, 1002, 1003, 1004],
        "steps": {},
        "run": {
            "unlearner": {"_target_": target, "_convert_": "all", "name": method, "steps": 25},
            "trainer": {"_target_": "pytorch_lightning.Trainer", "precision": "32-true"},
            "evaluation": {"seed": 0, "split": "test", "bank": "use", "metrics": {}},
            "forget": [0],
            "seed": 0,
            "data": {"name": None},
            "kit_sha256": f"digest of kit {seed}",
            "job": "unlearn",
            "revision": "abcdef0123456789",
            "trained": TRAINED | {"seed": seed},
        },
        "cost": {
            "seconds": seconds,
            "seconds_each": [seconds],
            "training_images_read": 0,
            "access": "no training data",
            "reads_prompts": True,
            "peak_memory_bytes": {"absent": "not told"},
            "retrain_seconds": 16.0,
        },
        "metrics": {"accuracy": {"test": accuracy}, "cka": {"absent": "no layers"}},
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(document | more))
    return folder


def change(folder: Path, **more: object) -> Path:
    """Set keys at the top of a run's ``metrics.json``."""
    file = folder / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder


def unlearned_with(folder: Path, **settings: object) -> Path:
    """Change what a run says of itself beside its kit's training."""
    document = json.loads((folder / "metrics.json").read_text())
    return change(folder, run=document["run"] | settings)


def trained_with(folder: Path, **settings: object) -> Path:
    """Change how the kit of a run was trained, by dotted names written with ``__``."""
    document = json.loads((folder / "metrics.json").read_text())
    for dotted, value in settings.items():
        *path, name = dotted.split("__")
        node = document["run"]["trained"]
        for part in path:
            node = node[part]
        node[name] = value
    return change(folder, **document)


def relearned(
    folder: Path, curve: list[float], area: float, steps: Sequence[float] = STEPS
) -> None:
    """Add an attack to a run."""
    document = json.loads((folder / "metrics.json").read_text())
    oracles = [0.0] * (len(curve) - 1) + [0.125]
    document["metrics"]["relearning"] = {
        "k10": {
            "area": leaf(area, oracle_mean=0.0625, oracle_std=0.03125, original=1.0),
            "curve": leaf(curve, oracle_mean=oracles, original=[1.0] * len(curve)),
        }
    }
    change(folder, metrics=document["metrics"], steps={"relearning": list(steps)})


def failed(folder: Path, method: str, seed: int, why: str) -> None:
    """Write a run that ended with an error."""
    run(folder, method, seed)
    document = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    (folder / "failed.json").write_text(json.dumps({"run": document["run"], "failed": why}))


def kit(folder: Path, seed: int, picture: bytes) -> None:
    """Write what training leaves."""
    folder.mkdir(parents=True)
    (folder / "proxies.png").write_bytes(picture)
    settings = {name: part for name, part in TRAINED.items() if name != "precision"}
    own = {"job": "train", "seed": seed, "trainer": {"precision": TRAINED["precision"]}}
    document = {"run": settings | own, "metrics": {}}
    (folder / "metrics.json").write_text(json.dumps(document))
