"""Class names and indices as a person writes them."""

from collections.abc import Sequence

from geniu_lightning.errors import UserError


def class_indices(wanted: Sequence[int | str], names: Sequence[str]) -> tuple[int, ...]:
    """Translate class names and indices into sorted indices without repetition.

    An integer is always an index; a string is a name, or an index where no class has that name.

    Raises:
        UserError: If a class does not exist.

    Example:
        >>> class_indices(["ship", 0], ["plane", "ship"])
        (0, 1)
    """
    if isinstance(wanted, str):
        wanted = [wanted]
    return tuple(sorted({_class_index(one, names) for one in wanted}))


def _class_index(wanted: int | str, names: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    index = str(wanted)
    if index.isdecimal() and int(index) < len(names):
        return int(index)
    known = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20]))
    more = f", … ({len(names)} in all)" if len(names) > 20 else ""
    raise UserError(f"there is no class {wanted!r}; the classes are: {known}{more}")
