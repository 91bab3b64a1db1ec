"""What a run is about: data, imbalance, network and forgotten classes, in words and as settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from geniu_lightning.files import flat

# settings of a kit's training that its classifier and its oracles follow from; kits whose prompts
# and generator were trained otherwise are still about the same problem
RECIPE = ("batch_size", "epochs", "optimizer", "schedule", "max_gradient_norm")
PLACES = ("root", "cache_folder")  # settings of data that say where, not what


def request_of(run: dict[str, Any]) -> str:
    """Return what was to be forgotten; a second request begins with another model than one."""
    before = run.get("forgotten_before", [])
    now = [k for k in run["forget"] if k not in before]
    return f"forget {now}{f' after {before}' if before else ''}"


def parts_of(trained: dict[str, Any]) -> tuple[str, str, str]:
    """Return data, imbalance and network in words."""
    imbalance = dict(trained["imbalance"])
    kind = str(imbalance.pop("_target_")).rpartition(".")[2]
    imbalance.pop("_partial_", None)
    if not imbalance.get("seed"):  # named where it is not 0: other images were kept then
        imbalance.pop("seed", None)
    details = ", ".join(f"{k} {v}" for k, v in sorted(imbalance.items()))
    network = str(trained["model"]["_target_"]).rpartition(".")[2]
    width = trained["model"].get("width")
    return (
        str(trained["data"]["name"]),
        f"{kind}{f' ({details})' if details else ''}",
        f"{network}{f' width {width}' if width else ''}",
    )


def problem_of(trained: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells problems apart; the forgotten classes are among the parts already."""
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


def difference_of(own: dict[str, str], problems: Sequence[dict[str, str]]) -> str:
    """Return the settings in which a problem differs from others of the same parts."""
    names = sorted({name for one in problems for name in one})
    return ", ".join(
        f"{name} {own.get(name, 'null')}"
        for name in names
        if len({one.get(name) for one in problems}) > 1
    )


def as_text(settings: object) -> str:
    """Return settings as text that is equal where they are."""
    return json.dumps(settings, sort_keys=True)
