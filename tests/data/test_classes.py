from typing import Any

import pytest

from geniu_lightning.data.classes import class_indices
from geniu_lightning.errors import UserError

NAMES = ("plane", "ship", "7", "truck")


def test_names_and_indices_become_sorted_indices_without_repetition() -> None:
    assert class_indices(["truck", 0, "ship", "truck", 3], NAMES) == (0, 1, 3)
    assert class_indices([9, 8, 1], tuple("abcdefghij")) == (1, 8, 9)
    assert class_indices([], NAMES) == ()


def test_an_integer_is_an_index_even_where_a_class_has_that_name() -> None:
    names = ("2", "1", "0")
    assert class_indices([0], names) == (0,)
    assert class_indices(["0"], names) == (2,)
    assert class_indices([1, 2], names) == (1, 2)


def test_a_numeric_string_is_an_index_only_where_no_class_has_that_name() -> None:
    assert class_indices(["7"], NAMES) == (2,)
    assert class_indices(["3"], NAMES) == (3,)


def test_a_bare_string_is_one_class_and_not_its_letters() -> None:
    letters = tuple("abcdefghijklm")
    assert class_indices("12", letters) == (12,)
    assert class_indices("ship", NAMES) == (1,)
    with pytest.raises(UserError, match=r"^there is no class '12';"):
        class_indices("12", NAMES)


@pytest.mark.parametrize(
    "wanted",
    ["boat", "Ship", 4, -1, "4", "-1", "1.0", "", 1.7, 1.0, None, float("inf"), float("nan"), True],
)
def test_an_unknown_class_is_refused_with_the_known_ones(wanted: Any) -> None:
    with pytest.raises(UserError) as error:
        class_indices([0, wanted], NAMES)
    assert str(error.value) == (
        f"there is no class {wanted!r}; the classes are: 0 plane, 1 ship, 2 7, 3 truck"
    )


def test_the_sentence_about_many_classes_lists_twenty_and_their_number() -> None:
    with pytest.raises(UserError) as error:
        class_indices(["boat"], [f"c{k}" for k in range(100)])
    assert str(error.value).endswith("18 c18, 19 c19, … (100 in all)")
    with pytest.raises(UserError, match=r"19 c19$"):
        class_indices(["boat"], [f"c{k}" for k in range(20)])
