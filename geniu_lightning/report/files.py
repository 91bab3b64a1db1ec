"""Writes files whole or not at all, and over nothing that is not the report's own."""

import os
from collections.abc import Mapping
from pathlib import Path

from geniu_lightning.errors import UserError

MARK = "geniu_lightning.report"  # in the head of every page and picture
COLUMNS = ("setting", "data", "imbalance", "network", "forget", "method", "role")
MARKS = (MARK.encode(), ",".join(COLUMNS).encode())  # a CSV has no place for a mark but its head
HEAD = 1024  # bytes of a file in which a mark stands


def write(contents: Mapping[Path, bytes], force: bool) -> None:
    """Write files; if one of them may not be written, none is.

    Args:
        contents: What to write, and where; folders that are missing are made.
        force: Whether files that are not the report's own may be replaced.

    Raises:
        UserError: If a file is there and not the report's own, or cannot be written.
    """
    try:
        for path in contents:
            if path.exists() and not (force or _ours(path)):
                raise UserError(
                    f"{path} is there, and not from this command; --force replaces it, or name"
                    " another file"
                )
        for path, content in contents.items():
            _replace(path, content)
    except OSError as error:
        raise UserError(f"cannot be written: {error}") from error


def _ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(mark in head for mark in MARKS)


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file first: whoever reads it meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
