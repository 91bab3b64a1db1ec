"""Files that are written whole or not at all, checksums, and the time."""

import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:  # any JSON value
    """Write a JSON file whole or not at all.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names.

    Example:
        >>> flat({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): tree}
    return {k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}{name}.").items()}
