"""The files that runs leave: where they are, and their content in the form of version 2."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geniu_lightning.errors import UserError

NEW_NAMES = {  # of the verdicts in version 1
    "keeps": "retained",
    "hides": "suppressed",
    "destroys": "damaged",
    "destroys without forgetting": "damaged and retained",
    "scars": "distinguishable",
    "forgets": "forgotten",
    "forgets in the model, not in the system": "forgotten in the model only",
    "not refuted": "untested",
    "invalid": "inconclusive",
}


def below(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the files of a name at or below some folders.

    Raises:
        UserError: If a folder does not exist.
    """
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    return sorted(
        {
            file
            for folder in folders
            for file in folder.rglob(name)
            # a run that is repeated keeps the backup of its results under such a name
            if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        }
    )


@contextmanager
def document_in(file: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's content in the form of version 2.

    Raises:
        UserError: If it, or what is looked for in it, cannot be read.
    """
    try:
        yield upgraded(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as the metrics of a run: {error!r}") from error


def upgraded(document: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a `metrics.json` of version 1 or 2 in the form of version 2."""
    if document.get("version", 1) != 1:
        return document

    def renamed(verdict: str | None) -> str | None:
        return None if verdict is None else NEW_NAMES.get(verdict, verdict)

    controls = {k: renamed(v) for k, v in (document.get("controls") or {}).items()}
    oracles = {renamed(k): n for k, n in (document.get("oracle_words") or {}).items()}
    return document | {
        "verdict": renamed(document.get("word")),
        "reason": document.get("word_reason"),
        "controls": controls,
        "oracle_verdicts": oracles,
        "tolerances": document.get("bands", []),
    }
