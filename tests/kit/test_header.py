"""A kit's description from its header, without torch, and the classes to forget."""

from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.errors import UserError
from geniu_lightning.kit.header import description_of, forgotten, kit_metadata, kit_path


def test_the_header_gives_the_description_of_the_loader(saved: Path) -> None:
    found = description_of(kit_metadata(kit_path(str(saved.parent))))
    assert (found["class_names"], found["seed"]) == (["cat", "dog", "Ärger 犬"], 7)
    content = saved.read_bytes()
    for damaged in (content[:4], content[:100], b"hello", b"\xff" * 100):
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match="is truncated or is no safetensors file"):
            kit_metadata(saved)
    saved.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="is a safetensors file, but no kit"):
        kit_metadata(saved)
    with pytest.raises(UserError, match=r"there is no kit at .*; train one, or set kit=FILE"):
        kit_metadata(saved.parent / "missing")
    for text in ("no json", "[]", "{}"):
        with pytest.raises(UserError, match="description cannot be read"):
            description_of({"geniu": text})


@pytest.mark.parametrize(
    ("wanted", "result"),
    [
        ("dog", (1,)),
        (2, (2,)),
        ([3, "cat"], (0, 3)),
        (None, "say what to forget"),
        ([], "say what to forget"),
        (["eel"], "there is no class 'eel'"),
        ([0, 1, 2, 3], "there is nothing to retain"),
    ],
)
def test_the_classes_to_forget_are_named_by_a_person(wanted: Any, result: Any) -> None:
    kit = {"class_names": ["cat", "dog", "cow", "bat"]}
    if isinstance(result, tuple):
        assert forgotten(wanted, kit) == result
        return
    with pytest.raises(UserError, match=result):
        forgotten(wanted, kit)


def test_earlier_requests_are_counted_in_and_not_repeated() -> None:
    kit = {"class_names": ["cat", "dog", "cow"], "forgotten": [1]}
    assert forgotten(["cow"], kit) == (1, 2)
    with pytest.raises(UserError, match="dog: forgotten already"):
        forgotten([0, 1], kit)
    with pytest.raises(UserError, match="nothing to retain"):
        forgotten([0, 2], kit)
