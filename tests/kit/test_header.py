"""A kit's description from its header, without torch, and the classes to forget."""

import dataclasses
from pathlib import Path

import pytest

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import forgotten, kit_metadata, kit_path
from geniu_lightning.kit.info import KitInfo
from tests.kit.small_kits import make_kit


def test_the_header_gives_the_description_of_the_loader(saved: Path) -> None:
    found = KitInfo.from_json(kit_metadata(kit_path(str(saved.parent)))["geniu"])
    assert found == Kit.load(saved).info
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


def test_the_classes_to_forget_are_new_ones_and_not_all() -> None:
    info = make_kit().info
    names = ("cat", "dog", "cow", "bat")
    fresh = dataclasses.replace(info, class_names=names, class_counts=(1,) * 4)
    kit = dataclasses.replace(fresh, forgotten=(1,))
    for wanted, found in (("cow", (1, 2)), (2, (1, 2)), ([3, "cat"], (0, 1, 3))):
        assert forgotten(wanted, kit) == found
    assert forgotten("dog", fresh) == (1,)
    for refused, message in (
        (None, "say what to forget"),
        ([], "say what to forget"),
        (["eel"], "there is no class 'eel'"),
        ([0, 1], r"1 \(dog\): forgotten already"),
        ([0, 2, 3], "there is nothing to retain"),
    ):
        with pytest.raises(UserError, match=message):
            forgotten(refused, kit)
