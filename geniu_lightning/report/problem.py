"""What a run is about: data, imbalance, network and training, in words and as settings."""

import json
from collections.abc import Mapping
from typing import Any

from geniu_lightning.files import flat

# settings of a kit's training that its classifier and its oracles follow from; kits whose prompts
# and generator were trained otherwise are still about the same problem
RECIPE = ("batch_size", "epochs", "optimizer", "schedule", "max_gradient_norm")
# settings of data that say where the images are, or that their fingerprint covers
PLACES = ("root", "cache_folder", "resize", "background")


def parts_of(trained: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return data, imbalance and network in words."""
    imbalance, model = dict(trained["imbalance"]), trained["model"]
    kind = str(imbalance.pop("_target_")).rpartition(".")[2]
    imbalance.pop("_partial_", None)
    if not imbalance.get("seed"):  # named where it is not 0: other images were kept then
        imbalance.pop("seed", None)
    details = ", ".join(f"{k} {v}" for k, v in sorted(imbalance.items()))
    network, width = str(model["_target_"]).rpartition(".")[2], model.get("width")
    return (
        str(trained["data"]["name"]),
        f"{kind}{f' ({details})' if details else ''}",
        f"{network}{f' width {width}' if width else ''}",
    )


def problem_of(trained: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that an original and its oracles follow from, as text by dotted names."""
    recipe = trained.get("training") or {}
    settings = {
        "data": {k: v for k, v in trained["data"].items() if k not in PLACES},
        "imbalance": trained["imbalance"],
        "model": trained["model"],
        "training": {name: recipe.get(name) for name in RECIPE},
        "precision": trained.get("precision"),
    }
    return {
        name: value if isinstance(value, str) else as_text(value)
        for name, value in flat(settings).items()
        if value is not None
    }


def as_text(settings: object) -> str:
    """Return settings as text that is equal where they are."""
    return json.dumps(settings, sort_keys=True)
