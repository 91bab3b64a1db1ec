from typing import Any

import pytest

from geniu_lightning.data.classes import class_indices, natural
from geniu_lightning.errors import UserError

NAMES = ("plane", "ship", "7", "truck")


def test_classes_are_found_by_name_and_by_index() -> None:
    for wanted, names, indices in (
        (["truck", 0, "ship", "truck", 3], NAMES, (0, 1, 3)),
        ([], NAMES, ()),
        ([9, 8, 1], "abcdefghij", (1, 8, 9)),
        ([1], ("2", "1", "0"), (1,)),  # index and name of the same class
        (["0"], ("2", "1", "0"), (2,)),
        (["7", "3"], NAMES, (2, 3)),  # a numeric string is an index where no class has that name
        ("12", "abcdefghijklm", (12,)),  # one class and not its letters
        ("ship", NAMES, (1,)),
        (1, NAMES, (1,)),
    ):
        assert class_indices(wanted, tuple(names)) == indices


def test_an_unknown_class_is_refused_with_the_first_twenty_known_ones() -> None:
    unknown: tuple[Any, ...] = ("boat", "Ship", 4, -1, "4", "-1", "1.0", "", 1.7, 1.0)
    for wanted in unknown:
        known = r"0 \(plane\), 1 \(ship\), 2 \(7\), 3 \(truck\)$"
        with pytest.raises(UserError, match=f"there is no class {wanted!r}; the .*: {known}"):
            class_indices([0, wanted], NAMES)
    for count, end in ((100, r"19 \(c19\), … \(100 in all\)$"), (20, r"19 \(c19\)$")):
        with pytest.raises(UserError, match=end):
            class_indices(["boat"], [f"c{k}" for k in range(count)])


def test_what_could_mean_two_classes_is_refused_with_both_forms() -> None:
    with pytest.raises(
        UserError, match=r"""^2 is the index of class '3' and the name of class 1: """
    ):
        class_indices([2], ("1", "2", "3"))
    with pytest.raises(UserError, match=r"""quote .* '\["3"\]' or '\["2"\]'$"""):
        class_indices([2], ("1", "2", "3"))
    for wanted, word in ((None, "null"), (True, "true"), (False, "false")):
        with pytest.raises(UserError, match=rf"""^{word} is no class; quote .* '\["{word}"\]'$"""):
            class_indices([wanted], ("true", "null", "false"))


def test_names_are_ordered_as_people_order_them() -> None:
    names = ["10", "9", "b", "a10", "a9", "1", "a", ""]
    assert sorted(names, key=natural) == ["", "1", "9", "10", "a", "a9", "a10", "b"]
