"""Class names and indices as a person writes them, and the order of class names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geniu_lightning.errors import UserError


def natural(name: object) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people do: `2` before `10`, `cat9` before `cat10`."""
    parts = re.findall(r"\d+|\D+", str(name))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def labelled(classes: Iterable[int], names: Sequence[str]) -> str:
    """Return classes as a person reads them: each index, and the name where it is another word."""
    return ", ".join(str(k) if names[k] == str(k) else f"{k} ({names[k]})" for k in classes)


def class_indices(wanted: Any, names: Sequence[str]) -> tuple[int, ...]:  # what a person wrote
    """Return class names and indices as sorted indices without repetition.

    An integer is an index; a string is a name, or an index where no class has that name. An integer
    that is the index of one class and the name of another is refused.

    Example:
        >>> class_indices(["ship", 0], ["plane", "ship"])
        (0, 1)
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    position = {name: k for k, name in reversed([*enumerate(names)])}
    return tuple(sorted({_class_index(one, names, position) for one in wanted}))


def _class_index(wanted: Any, names: Sequence[str], position: Mapping[str, int]) -> int:
    if isinstance(wanted, str) and wanted in position:
        return position[wanted]
    if wanted is None or isinstance(wanted, bool):
        word = str(wanted).lower().replace("none", "null")
        raise UserError(f"{word} is no class; quote a class of that name: {_quoted(word)}")
    word = str(wanted)
    index = int(word) if word.isascii() and word.isdecimal() else len(names)
    if index < len(names):
        if position.get(word, index) != index:
            raise UserError(
                f"{word} is the index of class {names[index]!r} and the name of class"
                f" {position[word]}: quote the name that you mean, {_quoted(names[index])} or"
                f" {_quoted(word)}"
            )
        return index
    known = labelled(range(len(names[:20])), names)
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    raise UserError(f"there is no class {wanted!r}; the classes are: {known}{more}")


def _quoted(name: str) -> str:
    """Return a class name as it is written in a list on the command line."""
    return f"'[\"{name}\"]'"
