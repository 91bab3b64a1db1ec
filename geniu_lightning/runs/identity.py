"""Identity of a run: the settings that decide its result, and the folder name made of them."""

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# where and how a run is carried out and shown; all other settings decide its result
INCIDENTAL = (
    *("out", "force", "allow_custom", "logger", "data.root", "kit"),
    *("trainer.accelerator", "trainer.threads", "trainer.checkpoint_every_n_steps"),
    *("weights", "nulls", "oracles", "runs", "next_kit"),
)
LONGEST_NAME = 80  # characters, before the hash


def identity_of(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:  # any JSON value
    """Return the settings that decide a run's result, with further facts such as checksums."""
    identity = copy.deepcopy(dict(settings))
    for dotted in INCIDENTAL:
        node: Any = identity
        *path, leaf = dotted.split(".")
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    return identity | more


def name_of(identity: Mapping[str, Any], *words: object) -> str:
    """Return a folder name: readable words and a hash of the identity."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = "-".join(re.sub(r"[^\w.]+", "_", str(word)).strip("_") for word in words)
    return f"{name[:LONGEST_NAME]}-{digest}"
