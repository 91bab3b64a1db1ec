"""Writes files whole or not at all, and over nothing that is not the report's own."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from geniu_lightning.errors import UserError
from geniu_lightning.report.spreadsheet import COLUMNS

MARK = "geniu_lightning.report"  # in the head of every page and picture
MARKS = (MARK.encode(), ",".join(COLUMNS).encode())  # a CSV has no place for a mark but its head
HEAD = 1024  # bytes of a file in which a mark stands


def write(contents: Sequence[tuple[Path, bytes]], force: bool) -> None:
    """Write files; if one of them may not be written, none is.

    Args:
        contents: Where to write what; folders that are missing are made.
        force: Whether files that are not the report's own may be replaced.

    Raises:
        UserError: If two of them are one file, or one is there and not the report's own, or cannot
            be written.
    """
    counts = Counter(path.resolve() for path, _ in contents)
    for path, count in counts.items():
        if count > 1:
            raise UserError(f"{path} is named for {count} files; name another one for each")
    try:
        for path, _ in contents:
            if path.is_dir():
                raise UserError(f"{path} cannot be written: it is a folder")
            if path.exists() and not (force or _ours(path)):
                raise UserError(
                    f"{path} is there, and not from this command; --force replaces it, or name"
                    " another file"
                )
        _replace(contents)
    except OSError as error:
        raise UserError(f"cannot be written: {error}") from error


def _ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(mark in head for mark in MARKS)


def _replace(contents: Sequence[tuple[Path, bytes]]) -> None:
    """Write beside all files first: what fails, a full disk above all, fails before any is new.

    Whoever reads a file meanwhile sees the old one or the new one.
    """
    unfinished: list[tuple[Path, Path]] = []
    try:
        for path, content in contents:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            unfinished.append((beside, path))
            beside.write_bytes(content)
        for beside, path in unfinished:
            beside.replace(path)
    finally:
        for beside, _ in unfinished:
            beside.unlink(missing_ok=True)
