"""Files that are no kit, or are damaged or forged, are refused with their reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import FORMAT, Kit
from tests.kit.small_kits import CLASSES, PER_CLASS, SIZE, forge

ALTERED = "was altered after it was written"


def test_a_truncated_or_longer_file_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for share in (0.0, 0.0001, 0.3, 0.9999999):
        saved.write_bytes(content[: int(share * len(content))])
        with pytest.raises(KitError, match=r"kit.safetensors is truncated"):
            Kit.load(saved)
    saved.write_bytes(content + b"\0")
    with pytest.raises(KitError):
        Kit.load(saved)


def test_one_flipped_byte_is_noticed_wherever_it_lies(unlearned: Kit, tmp_path: Path) -> None:
    path = tmp_path / "kit.safetensors"
    unlearned.save(path)
    content = path.read_bytes()
    body = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, body, 97), body, (body + len(content)) // 2, len(content) - 1]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(KitError, match=ALTERED if place >= body else None):
            Kit.load(path)
    path.write_bytes(content)
    save_file(load_file(path), path, metadata={"geniu": unlearned.info.to_json()})
    with pytest.raises(KitError, match=ALTERED):  # without a checksum
        Kit.load(path)


def test_other_files_are_no_kits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for missing in (path, tmp_path):
        with pytest.raises(KitError, match=f"there is no kit at {missing}"):
            Kit.load(missing)
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x02}."):
        path.write_bytes(content)
        with pytest.raises(KitError, match="truncated or is no safetensors file"):
            Kit.load(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(KitError, match="is a safetensors file, but no kit"):
            Kit.load(path)
    for text in ("no json", "[]", "null"):
        save_file({"x": torch.zeros(1)}, path, metadata={"geniu": text})
        with pytest.raises(KitError, match="format version None; this version reads 1"):
            Kit.load(path)


UNREADABLE = "description cannot be read"
NOT_OF_FORM = "contradicts itself: the prompts are not of the images' form"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        # of the description
        ("format", FORMAT + 1, "has format version 2; this version reads 1"),
        ("unknown", 1, "unknown is no setting"),
        ("class_names", [1, 2, 3], f"{UNREADABLE}.*class_names"),
        ("seed", "7", f"{UNREADABLE}.*seed"),
        ("spec", {}, UNREADABLE),
        ("spec", {"size": 16, "channels": 1, "mean": [0], "std": [0]}, f"{UNREADABLE}.*std"),
        ("classifier", None, f"{UNREADABLE}.*classifier"),
        ("classifier", {"target": "x", "code": "x"}, UNREADABLE),
        ("generator", {"target": "x", "arguments": [1]}, UNREADABLE),
        ("class_counts", [1], "contradicts itself: classes and their counts"),
        ("forgotten", [CLASSES], "contradicts itself: a forgotten class does not exist"),
        # of the tensors
        ("prompts", None, "contradicts itself: prompts and generator do not come together"),
        ("prompts", torch.zeros(CLASSES + 1, PER_CLASS, 1, SIZE, SIZE), NOT_OF_FORM),
        ("classifier.head.weight", torch.zeros(2, 2), "do not fit"),
        ("classifier.extra", torch.zeros(1), "do not fit"),
        ("generator.to_image.bias", None, "do not fit"),
        ("images", torch.zeros(5, 1, SIZE, SIZE), "belongs to no part"),
    ],
)
def test_a_part_that_does_not_belong_is_refused_though_the_checksum_is_right(
    saved: Path, name: str, value: Any, message: str
) -> None:
    path = saved.with_name("forged")
    tensor = isinstance(value, torch.Tensor) or "." in name or name == "prompts"
    forge(path, saved, **{"more" if tensor else "changed": {name: value}})
    with pytest.raises(KitError, match=message):
        Kit.load(path)


@pytest.mark.parametrize("role", ["classifier", "generator"])
def test_a_foreign_class_is_refused_unless_it_is_allowed_and_a_network(
    saved: Path, role: str
) -> None:
    path = saved.with_name("forged")
    for target in ("os.system", "torch.nn.Linear"):
        forge(path, saved, {role: {"target": target, "arguments": {"command": "true"}}})
        with pytest.raises(KitError, match=f"{target} is not one of ours"):
            Kit.load(path)
        with pytest.raises(KitError, match=r"no torch.nn.Module class|cannot be built"):
            Kit.load(path, allow_custom=True)
