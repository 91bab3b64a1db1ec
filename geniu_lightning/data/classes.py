"""Class names and indices as a person writes them."""

from collections.abc import Iterable, Sequence
from typing import Any

from geniu_lightning.errors import UserError


def class_indices(wanted: Any, names: Sequence[str]) -> tuple[int, ...]:  # what a person wrote
    """Return class names and indices as sorted indices without repetition.

    An integer is an index; a string is a name, or an index where no class has that name.

    Example:
        >>> class_indices(["ship", 0], ["plane", "ship"])
        (0, 1)
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    return tuple(sorted({_class_index(one, names) for one in wanted}))


def _class_index(wanted: Any, names: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    index = str(wanted)
    if index.isdecimal() and int(index) < len(names):
        return int(index)
    known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20]))
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    raise UserError(f"there is no class {wanted!r}; the classes are: {known}{more}")
