"""The wandb group of a multirun: one name for all its runs, also when it is started again."""

import hashlib
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

# where and how the runs are carried out: the same sweep on another machine is the same group
INCIDENTAL = re.compile(
    r"(out|runs|force|logger|hydra)([./@].*)?$"
    r"|trainer\.(accelerator|threads|checkpoint_every_n_steps)$"
)


def group_of(command: str, words: Sequence[str]) -> str:
    """Return a name that follows from what a multirun goes over and from its other settings."""
    given = [w for w in words if not w.startswith("-") and ("=" in w or w.startswith("~"))]
    parsed = OverridesParser.create().parse_overrides(given)
    over_kits = any(o.key_or_group == "sweep" and o.value() == "kits" for o in parsed)
    overrides = [
        o
        for o in parsed
        # sweep=kits goes over what lies in runs=
        if not INCIDENTAL.match(o.key_or_group) or (over_kits and o.key_or_group == "runs")
    ]
    swept = [o.key_or_group.rpartition(".")[2] for o in overrides if o.is_sweep_override()]
    named = [str(o.value()) for o in overrides if o.key_or_group == "sweep"]
    text = "\n".join(sorted(o.input_line or "" for o in overrides))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{'-'.join([command, *named, *sorted(swept)])[:80]}-{digest}"
