"""Every value of a run beside what oracles show: the long form of ``metrics.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geniu_lightning.errors import UserError
from geniu_lightning.report.leaves import Leaf, leaves
from geniu_lightning.report.runs import below

HEADS = ("value", "oracles", "±", "z", "original", "position", "better", "ideal")


@dataclass(frozen=True)
class Sheet:
    """What one run found.

    Attributes:
        title: Its folder, method and word.
        rows: A row a value, the first cell its name, the others as in ``HEADS``.
        absent: Names of what could not be measured, by the reason.
    """

    title: str
    rows: list[list[str]]
    absent: dict[str, list[str]]


def sheets(folders: Sequence[Path]) -> list[Sheet]:
    """Return the values of all runs at or below some folders, unlearned or judged.

    Raises:
        UserError: If there is none, a folder is not there, or a file cannot be read.
    """
    every = map(_sheet, below(folders, "metrics.json"))
    found = [sheet for sheet in every if sheet is not None]
    if not found:
        raise UserError(f"no judged run in {', '.join(map(str, folders))}")
    return found


def _sheet(file: Path) -> Sheet | None:
    try:
        document = json.loads(file.read_text())
        run = document["run"]
        if run.get("job") not in ("unlearn", "evaluate"):
            return None
        method = run.get("unlearner", {}).get("name", "weights")
        word = document["word"] or "no word"
        absent: dict[str, list[str]] = {}
        rows = []
        for name, leaf in leaves(document["metrics"]):
            if "absent" in leaf:
                names = absent.setdefault(leaf["absent"], [])
                family = name.partition(".")[0]
                whole = all("absent" in one for _, one in leaves(document["metrics"][family]))
                short = f"{family}.*" if whole else name
                if short not in names:
                    names.append(short)
            elif not isinstance(leaf["value"], list):
                rows.append([name, *_cells(leaf)])
        return Sheet(f"{file.parent}: {method}, {word}", rows, absent)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as the metrics of a run: {error!r}") from error


def _cells(leaf: Leaf) -> list[str]:
    names = ("value", "oracle_mean", "oracle_std", "z", "original", "position")
    numbers = [_number(leaf[name], 1 if name == "z" else 4) for name in names]
    return [*numbers, leaf["direction"], _number(leaf["ideal"], 2)]


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"
