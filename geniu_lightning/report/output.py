"""Writes the files of a report: all or none, and over no file that is not a report's."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from geniu_lightning.errors import UserError
from geniu_lightning.files import replacing

MARK = "geniu_lightning.report"  # in the head of every page and picture
CSV_HEAD = "setting,data,imbalance,network,forget,method,role"  # a CSV has no place for a mark
HEAD = 1024  # bytes of a file in which a mark stands


def write(contents: Sequence[tuple[Path, bytes]], force: bool) -> None:
    """Write files; if one of them may not be written, or only by `force`, none is."""
    for path, count in Counter(path.resolve() for path, _ in contents).items():
        if count > 1:
            raise UserError(f"{path} is named for {count} files; name another one for each")
    try:
        for path, _ in contents:
            if path.is_dir():
                raise UserError(f"{path} cannot be written: it is a folder")
            if path.exists() and not (force or _is_of_a_report(path)):
                raise UserError(
                    f"{path} exists, and not from this command; --force replaces it, or name"
                    " another file"
                )
        with ExitStack() as stack:  # what fails, a full disk above all, fails before any is new
            for path, content in contents:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(replacing(path)).write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot be written: {error}") from error


def _is_of_a_report(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(mark.encode() in head for mark in (MARK, CSV_HEAD))
