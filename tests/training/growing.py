"""A small kit's callback beside the training in foreign.py."""

from pathlib import Path
from typing import Any

from geniu_lightning import ImageSpec, KitCallback

NAMES = tuple(f"digit {k}" for k in range(10))
SPEC = ImageSpec.of(16, 1, 0.5, 0.5)
FEW = {"proxies_per_class": 2, "min_generator_steps": 60, "prompt_batch": 8}


def kit_callback(path: Path, **settings: Any) -> KitCallback:
    return KitCallback(path, NAMES, SPEC, **{"classifier": "net", **FEW} | settings)
