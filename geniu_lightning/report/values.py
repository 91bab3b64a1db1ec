"""Every value of a run with those of the oracles: the long form of `metrics.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from geniu_lightning.errors import UserError
from geniu_lightning.report.document import below, document_in, leaves, readable

HEADS = ("", "value", "oracles", "±", "z", "original", "position", "better", "ideal")


class Sheet(NamedTuple):
    """All that one run measured: rows as in `HEADS`, and the names that are absent, by reason."""

    title: str
    reason: str  # of the verdict, or why there is none
    rows: list[list[str]]
    absent: dict[str, list[str]]


def sheets(folders: Sequence[Path]) -> list[Sheet]:
    """Return the values of all runs at or below some folders, of unlearning or evaluation."""
    found = readable(below(folders, "metrics.json"), _sheet)
    if not found:
        raise UserError(f"no evaluated run in {', '.join(map(str, folders))}")
    return found


def _sheet(file: Path) -> Sheet | None:
    with document_in(file) as document:
        run, metrics = document["run"], document["metrics"]
        if run.get("job") not in ("unlearn", "evaluate"):
            return None
        method = run.get("unlearner", {}).get("name", "weights")
        absent: dict[str, list[str]] = {}
        rows = []
        for name, leaf in leaves(metrics):
            if "absent" in leaf:
                names = absent.setdefault(leaf["absent"], [])
                family = name.partition(".")[0]
                whole = all("absent" in one for _, one in leaves(metrics[family]))
                short = f"{family}.*" if whole else name
                if short not in names:
                    names.append(short)
            elif not isinstance(leaf["value"], list):
                parts = ("value", "oracle_mean", "oracle_std", "z", "original", "position")
                cells = [_number(leaf[part], 1 if part == "z" else 4) for part in parts]
                rows.append([name, *cells, leaf["direction"], _number(leaf["ideal"], 2)])
        title = f"{file.parent}: {method}, {document['verdict'] or 'no verdict'}"
        reason = str(document.get("verdict_reason") or "no reason is given")
        return Sheet(title, " ".join(reason.split()), rows, absent)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"
