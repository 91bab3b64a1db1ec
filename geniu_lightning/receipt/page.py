"""Writes the receipt of an unlearning run: `receipt.json`, and `receipt.md` in plain words."""

import json
from pathlib import Path

from geniu_lightning.evaluation.reasons import NAMES
from geniu_lightning.files import flat, write_json, write_text
from geniu_lightning.receipt.sentences import named
from geniu_lightning.report.document import Json
from geniu_lightning.report.template import template


def write(folder: Path, facts: Json) -> Path:
    """Write both files into a run's folder, and return the page's path."""
    write_json(folder / "receipt.json", facts)
    write_text(folder / "receipt.md", page_of(facts))
    return folder / "receipt.md"


def page_of(facts: Json) -> str:
    """Return the page; every number of it stands in `receipt.json`."""
    new, earlier = (
        {c["index"]: c["name"] for c in facts["asked"]["classes"] if c["earlier"] is before}
        for before in (False, True)
    )
    return template("geniu_lightning.receipt", "receipt.md.j2").render(
        facts,
        new=new,
        earlier=earlier,
        named=named,
        settings=_settings(facts["asked"]["settings"]),
        label=_label,
        finding=_finding,
        attack=lambda family: f"{NAMES.get(family, family)} (`{family}`)",
        software=_software,
        time=lambda at: at.replace("T", " ").replace("+00:00", " UTC"),
    )


def _settings(settings: Json) -> str:
    """Return the method's settings; which code it is stands in `receipt.json`."""
    return ", ".join(
        f"{name}={json.dumps(value)}"
        for name, value in flat(settings).items()
        if not any(part.startswith("_") for part in name.split("."))
    )


def _label(name: str) -> str:
    family, *path = name.split(".")
    if family == "accuracy" and path[1:] in (["forget"], ["retain"]):
        which = "forgotten" if path[1] == "forget" else "kept"
        return f"{which} classes: share answered right (`{name}`)"
    if family.startswith("relearning") and path[-1] == "area":
        images = path[0].removeprefix("k")
        return f"forgotten classes: brought back, images used {images} (`{name}`)"
    return f"`{name}`"


def _finding(finding: Json) -> str:
    """Return the model's number and those of its references and of the model before."""
    others = "made alike" if finding["against"] == "nulls" else "retrained"
    found = [f"{others} {finding['reference']:.3f}"]
    if finding["original"] is not None:
        found.append(f"before {finding['original']:.3f}")
    return f"`{finding['name']}` {finding['value']:.3f} ({', '.join(found)})"


def _software(versions: dict[str, str | None] | None) -> str:
    """Return software with its versions; of a git revision the first digits."""
    if versions is None:
        return "versions were not recorded"
    known = {name: version or "unknown" for name, version in versions.items()}
    return ", ".join(f"{k} {v if len(v) < 40 else v[:12] + v[40:]}" for k, v in known.items())
