"""A kit's description from its header, without torch, and the classes to forget."""

from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.errors import UserError
from geniu_lightning.kit.header import description_of, forgotten, kit_metadata, kit_path


def test_the_header_gives_the_description_of_the_loader(saved: Path) -> None:
    found = description_of(kit_metadata(kit_path(str(saved.parent))))
    assert (found["class_names"], found["seed"]) == (["cat", "dog", "Ärger 犬"], 7)
    for text in ("no json", "[]", "{}"):
        with pytest.raises(UserError, match="description cannot be read"):
            description_of({"geniu": text})


def test_the_classes_to_forget_are_new_ones_and_not_all() -> None:
    kit: dict[str, Any] = {"class_names": ["cat", "dog", "cow", "bat"], "forgotten": [1]}
    for wanted, found in (("cow", (1, 2)), (2, (1, 2)), ([3, "cat"], (0, 1, 3))):
        assert forgotten(wanted, kit) == found
    assert forgotten("dog", {"class_names": kit["class_names"]}) == (1,)
    for refused, message in (
        (None, "say what to forget"),
        ([], "say what to forget"),
        (["eel"], "there is no class 'eel'"),
        ([0, 1], "dog: forgotten already"),
        ([0, 2, 3], "there is nothing to retain"),
    ):
        with pytest.raises(UserError, match=message):
            forgotten(refused, kit)
