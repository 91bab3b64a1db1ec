"""Files that are no kit, or are damaged or forged, are refused with their reason."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import kit_metadata
from geniu_lightning.kit.info import FORMAT, KitInfo
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
    for text in ("no json", "[]", "null", "[" * 200_000):
        save_file({"x": torch.zeros(1)}, path, metadata={"geniu": text})
        with pytest.raises(KitError, match="description cannot be read"):
            Kit.load(path)
    with pytest.raises(KitError, match=r"/proc/self/mem (cannot be read|is truncated)"):
        Kit.load(Path("/proc/self/mem"))


ALLCNN = "geniu_lightning.models.allcnn.AllCNN"
VAE = "geniu_lightning.models.vae.VAE"
UNREADABLE = "description cannot be read"
NESTED: Any = 0
for _ in range(30):
    NESTED = [NESTED]
NOT_OF_FORM = "contradicts itself: the prompts are not of the images' form"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        # of the description
        ("format", FORMAT + 1, "has format version 2; this version reads 1"),
        ("format", "1", "has format version '1'; this version reads 1"),
        ("unknown", 1, "unknown is no setting"),
        ("class_names", [1, 2, 3], "class_names.0 must be a string, got 1"),
        ("class_names", None, "class_names must be a list, got None"),
        ("class_names", "abc", "class_names must be a list, got 'abc'"),
        ("class_names", ["a", "a", "b"], "class_names must differ"),
        ("class_names", ["a\x1b[31m", "b", "c"], "class_names.0 must be printable"),
        ("class_names", ["${oc.env:HOME}", "b", "c"], "class_names.0 must be printable"),
        ("class_counts", ["1", "2", "3"], "class_counts.0 must be an integer, got '1'"),
        ("class_counts", [1, 2, -3], "class_counts.2 must be greater"),
        ("class_counts", [1, 2, 10**400], "class_counts.2 must be less"),
        ("prior_taken", "0.5", "prior_taken must be a number"),
        ("prior_taken", math.nan, "prior_taken must be a finite number"),
        ("data_fingerprint", 5, "data_fingerprint must be a string"),
        ("settings", None, "settings must be a mapping"),
        ("settings", [], "settings must be a mapping"),
        ("settings", {"data": 3}, "settings.data must be a mapping"),
        ("settings", {"training": {"epochs": 10**12}}, "settings.training.epochs must be less"),
        (
            "settings",
            {"data": {"source": {"hub_id": "x/${oc.env:A}"}}},
            "settings.data.source must",
        ),
        ("settings", {"more": [[[math.inf]]]}, "settings must be finite"),
        ("settings", {"more": NESTED}, "settings must be nested less deeply"),
        ("spec", {"size": 20000, "channels": 1, "mean": [0], "std": [1]}, "size must be less"),
        ("spec", {"size": 16, "channels": 1, "mean": [0, 0], "std": [1]}, "mean must be one"),
        (
            "spec",
            {"size": 16, "channels": 1, "mean": [0], "std": [math.nan]},
            "std.0 must be a fin",
        ),
        ("seed", "7", f"{UNREADABLE}.*seed"),
        ("spec", {}, UNREADABLE),
        ("spec", {"size": 16, "channels": 1, "mean": [0], "std": [0]}, f"{UNREADABLE}.*std"),
        ("classifier", None, f"{UNREADABLE}.*classifier"),
        ("classifier", {"target": "x", "code": "x"}, UNREADABLE),
        ("generator", {"target": "x", "arguments": [1]}, UNREADABLE),
        ("class_counts", [1], "class_counts must be one number a class"),
        ("forgotten", [CLASSES], "forgotten must be classes"),
        ("forgotten", ["1"], "forgotten.0 must be an integer, got '1'"),
        # of the tensors
        ("prompts", None, "contradicts itself: prompts and generator do not come together"),
        ("prompts", torch.zeros(CLASSES + 1, PER_CLASS, 1, SIZE, SIZE), NOT_OF_FORM),
        ("prompts", torch.zeros(CLASSES, PER_CLASS, 1, SIZE, SIZE).long(), "not in 32 bits"),
        ("prompts", torch.zeros(CLASSES, PER_CLASS, 1, SIZE, SIZE).half(), "not in 32 bits"),
        ("prompts", torch.zeros(CLASSES, PER_CLASS, 1, SIZE, SIZE).bool(), "not in 32 bits"),
        ("prompts", torch.zeros(CLASSES * PER_CLASS, 1, SIZE, SIZE), NOT_OF_FORM),
        ("classifier.head.weight", None, "do not fit"),
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


def test_a_network_too_large_for_its_file_is_refused_before_it_takes_memory(saved: Path) -> None:
    path = saved.with_name("forged")
    for role, arguments in (
        ("classifier", {"channels": 1, "num_classes": CLASSES, "width": 900_000}),
        ("generator", {"channels": 1, "image_size": SIZE, "latent": 900_000}),
    ):
        target = getattr(KitInfo.from_json(kit_metadata(saved)["geniu"]), role).target
        forge(path, saved, {role: {"target": target, "arguments": arguments}})
        with pytest.raises(KitError, match=f"do not fit the network.*{target} has"):
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


def test_the_description_survives_json(kit: Kit) -> None:
    again = KitInfo.from_json(kit.info.to_json())
    assert again == kit.info
    assert list(json.loads(kit.info.to_json())) == sorted(vars(kit.info))
    for text in ("", "[]", '{"format": 1}', "null"):
        with pytest.raises(KitError, match="description cannot be read"):
            KitInfo.from_json(text)


def test_networks_that_do_not_do_for_the_description_are_refused(saved: Path) -> None:
    path = saved.with_name("forged")
    vae = {"channels": 1, "image_size": SIZE, "latent": 8}
    for changed in (
        {"class_names": ["a", "b", "c", "d"], "class_counts": [1] * 4, "forgotten": [3]},
        {
            "generator": {
                "target": "geniu_lightning.models.allcnn.AllCNN",
                "arguments": {"width": 2},
            }
        },
        {"generator": {"target": VAE, "arguments": vae | {"image_size": 32}}},
        {"classifier": {"target": VAE, "arguments": vae}},
    ):
        forge(path, saved, changed)
        with pytest.raises(KitError, match=r"does not do for|makes|must have a method features"):
            Kit.load(path)
