"""The leaves of `metrics.json`: what each value carries, by dotted names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FORGET_ACCURACY = "accuracy.test.forget"
RETAIN_ACCURACY = "accuracy.test.retain"
RELEARNED = "relearning.k10.area"
RELEARNING_CURVE = "relearning.k10.curve"
SECONDS = "cost.seconds"
IMAGES_READ = "cost.training_images_read"

Leaf = dict[str, Any]  # as JSON has it: {value, direction, …} or {absent: reason}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yield each leaf with its full name, such as `accuracy.test.forget`."""
    for name, node in tree.items():
        if not isinstance(node, Mapping):  # the reason of a family that is absent as a whole
            continue
        if "absent" in node or "value" in node:
            yield prefix + name, dict(node)
        else:
            yield from leaves(node, f"{prefix}{name}.")


def numbers(found: Iterable[tuple[str, Leaf]], part: str) -> dict[str, float]:
    """Return one part of the leaves, such as `value` or `original`, where it is a number."""
    return {name: float(leaf[part]) for name, leaf in found if is_number(leaf.get(part))}


def lists(found: Iterable[tuple[str, Leaf]], part: str) -> dict[str, list[float]]:
    """Return one part of the leaves where it is a list of numbers without gaps."""
    return {
        name: [float(number) for number in leaf[part]]
        for name, leaf in found
        if isinstance(leaf.get(part), list) and all(map(is_number, leaf[part]))
    }


def is_number(value: object) -> bool:
    """Return whether a value of JSON is a number; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
