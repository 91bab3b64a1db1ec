"""Which row of a table is marked as best, by a rule that no mask can win."""

import math
from collections.abc import Sequence

from geniu_lightning.report.rows import Row

RULE = (
    "The rule for (best): of methods that are neither an oracle nor the original nor a trivial"
    " baseline (none, retrain, logit_mask, zero_head, logit_adjust, random_init) only those whose"
    " word is forgets for every seed; of these the highest mean A_r; of all within one standard"
    " deviation of it (that of the highest, over its seeds; with one seed only exact ties) the one"
    " that took the least time."
)
RETAINED = "accuracy.test.retain"


def best_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the method that is marked, and a sentence that says why, or why there is none.

    Args:
        rows: The methods of one setting that may be marked.

    Returns:
        The name is empty where none is marked.
    """
    forgetting = [row for row in rows if _forgets(row) and RETAINED in row.mean]
    if not forgetting:
        return "", _why_none(rows)
    if len({row.oracles for row in forgetting}) > 1:
        return "", _not_alike(forgetting)
    highest = max(forgetting, key=lambda row: row.mean[RETAINED])
    least = highest.mean[RETAINED] - highest.std.get(RETAINED, 0.0)
    near = [row for row in forgetting if row.mean[RETAINED] >= least]
    best = min(near, key=lambda row: row.mean.get("cost.seconds", math.inf))
    why = _why(best, highest, forgetting, near)
    return best.method, f"Best: {best.method}, {why}.{_read(best)}"


def _forgets(row: Row) -> bool:
    """Return whether every seed's word is ``forgets``; a seed that failed has none."""
    return bool(row.seeds) and not row.failures and row.words == {"forgets": len(row.seeds)}


def _why(best: Row, highest: Row, forgetting: Sequence[Row], near: Sequence[Row]) -> str:
    if len(forgetting) == 1:
        return "the only method here whose word is forgets for every seed"
    first = f"one of {len(forgetting)} whose word is forgets for every seed"
    if len(near) == 1:
        return f"{first}, with the highest A_r"
    if best is highest:
        return f"{first}, with the highest A_r, and faster than what comes close to it"
    return f"{first}, as good as {highest.method} within its spread, and faster"


def _read(best: Row) -> str:
    read = best.mean.get("cost.training_images_read", 0.0)
    if not read:
        return ""
    return f" It read {read:,.0f} training images: compare it with methods that read as many."


def _not_alike(forgetting: Sequence[Row]) -> str:
    """Say that a word means less where fewer oracles could refute it."""
    banks = ", ".join(
        f"{row.method}: {' and '.join(str(len(bank)) for bank in sorted(row.oracles))}"
        for row in forgetting
    )
    return (
        "No row is marked as best: the methods whose word is forgets for every seed were not"
        f" compared with the same oracles ({banks}); the command that made a run judges it anew"
        " once the bank has grown."
    )


def _why_none(rows: Sequence[Row]) -> str:
    said = "No row is marked as best: no method here has the word forgets for every seed."
    words = {word for row in rows for word in row.words}
    if "not refuted" in words:
        said += (
            " Not refuted is not enough: it is the best word where the attacks are left out"
            " (evaluation=fast), which then cannot tell what is hidden from what is gone; use"
            " evaluation=full."
        )
    elif not words:
        said += " There is no word at all: that needs retrained oracles."
    return said
