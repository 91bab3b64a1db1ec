"""What a sweeper optimises: values of a finished run, by their names."""

import json
import re
from pathlib import Path

from omegaconf import DictConfig

from geniu_lightning.errors import UserError
from geniu_lightning.report.leaves import is_number, leaves, numbers

TERM = re.compile(r"\s*([+-]?)\s*([A-Za-z][\w.]*)\s*")


def objective_of(config: DictConfig, folder: Path, usual: str) -> float | None:
    """Return what the objective comes to in a run that ended.

    Args:
        config: Of the run; ``objective`` adds and subtracts values by the names that a report gives
            them, such as ``accuracy.test.retain - cost.seconds``.
        folder: Of the run.
        usual: The objective where the configuration names none.

    Returns:
        ``None`` where it names none and the usual values were not measured.

    Raises:
        UserError: If it names what was not measured.
    """
    document = json.loads((folder / "metrics.json").read_text())
    values = numbers(leaves(document["metrics"]), "value")
    values |= {f"cost.{k}": float(v) for k, v in document["cost"].items() if is_number(v)}
    terms = terms_of(config.objective or usual)
    missing = [name for _, name in terms if name not in values]
    if missing and config.objective is None:
        return None
    if missing:
        raise UserError(
            f"objective names {missing[0]}, which was not measured; there are"
            f" {', '.join(sorted(values))}"
        )
    return sum(sign * values[name] for sign, name in terms)


def terms_of(objective: str) -> list[tuple[int, str]]:
    """Return signs and names of an objective's terms.

    Raises:
        UserError: If it is none.
    """
    terms: list[tuple[int, str]] = []
    at = 0
    while at < len(objective):
        term = TERM.match(objective, at)
        if term is None or (terms and not term[1]):
            raise UserError(
                "objective must be names of values with + or - between them, such as"
                f" 'accuracy.test.retain - accuracy.test.forget', got {objective!r}"
            )
        terms.append((-1 if term[1] == "-" else 1, term[2]))
        at = term.end()
    return terms
