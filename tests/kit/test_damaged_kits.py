"""Files that are no kit, or no longer: nothing of them is believed, and the reader is told why."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import FORMAT, Kit, KitInfo
from geniu_lightning.kit.networks import NetworkSpec
from tests.kit.small_kits import (
    CLASSES,
    PER_CLASS,
    SIZE,
    assert_same_state,
    forge,
)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999, 0.9999999])
def test_truncated_file_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(KitError, match=r"kit.safetensors is truncated"):
        Kit.load(saved)


def test_file_with_something_after_its_end_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(KitError):
        Kit.load(saved)


def test_one_flipped_byte_is_noticed_wherever_it_lies(unlearned: Kit, tmp_path: Path) -> None:
    path = tmp_path / "kit.safetensors"
    unlearned.save(path)
    content = path.read_bytes()
    body = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, body, 41), body, body + 1, (body + len(content)) // 2, len(content) - 1]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(KitError):
            Kit.load(path)


def test_flipped_byte_in_a_weight_is_called_an_alteration(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(KitError, match="was altered after it was written"):
        Kit.load(saved)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 8}, {"class_names": ["cat", "dog", "eel"]}, {"settings": {}}, {"forgotten": [0]}],
)
def test_edited_description_is_noticed(saved: Path, changed: dict[str, Any]) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    text = json.dumps(json.loads(metadata["geniu"]) | changed, sort_keys=True)
    save_file(load_file(saved), saved, metadata=metadata | {"geniu": text})
    with pytest.raises(KitError, match="was altered after it was written"):
        Kit.load(saved)


@pytest.mark.parametrize("how", ["renamed", "reshaped", "retyped", "left out", "added"])
def test_edited_tensors_are_noticed(saved: Path, how: str) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved)
    prompts = tensors["prompts"]
    if how == "renamed":
        tensors["proxies"] = tensors.pop("prompts")
    elif how == "reshaped":
        tensors["prompts"] = prompts.view(PER_CLASS, CLASSES, 1, SIZE, SIZE)
    elif how == "retyped":
        tensors["prompts"] = prompts.view(torch.int32)
    elif how == "left out":
        del tensors["prompts"]
    else:
        tensors["images"] = torch.zeros(1)
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(KitError, match="was altered after it was written"):
        Kit.load(saved)


def test_file_without_checksum_is_refused(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        text = file.metadata()["geniu"]
    save_file(load_file(saved), saved, metadata={"geniu": text})
    with pytest.raises(KitError, match="was altered"):
        Kit.load(saved)


def test_other_safetensors_files_are_no_kits(tmp_path: Path) -> None:
    for name, metadata in (("bare", None), ("other", {"format": "pt"})):
        save_file({"x": torch.zeros(2)}, tmp_path / name, metadata=metadata)
        with pytest.raises(KitError, match="is a safetensors file, but no kit"):
            Kit.load(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x02}."])
def test_other_files_are_no_kits(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(KitError, match="truncated or is no safetensors file"):
        Kit.load(tmp_path / "file")


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "kit.safetensors", tmp_path):
        with pytest.raises(KitError, match=f"there is no kit at {path}"):
            Kit.load(path)


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None])
def test_other_format_version_is_refused(saved: Path, version: Any) -> None:
    path = saved.with_name("forged")
    forge(path, saved, {"format": version})
    with pytest.raises(KitError, match=f"has format version {version}; this version reads 1"):
        Kit.load(path)


def test_text_that_is_no_description_is_refused(tmp_path: Path) -> None:
    for text in ("no json", "[]", "3", "null"):
        save_file({"x": torch.zeros(1)}, tmp_path / "file", metadata={"geniu": text})
        with pytest.raises(KitError, match="format version None"):
            Kit.load(tmp_path / "file")


@pytest.mark.parametrize(
    "changed",
    [
        {"unknown": 1},
        {"class_names": 3},
        {"spec": {}},
        {"spec": {"size": SIZE, "channels": 1, "mean": 0.5, "std": 0.5}},
        {"classifier": {"target": "geniu_lightning.models.allcnn.AllCNN", "code": "x"}},
        {"classifier": None},
        {"classifier": {"target": 3}},
        {"generator": {"target": "geniu_lightning.models.vae.VAE", "arguments": [1]}},
        {"class_names": ["cat", "dog"]},
        {"class_counts": [1]},
        {"forgotten": [CLASSES]},
    ],
    ids=str,
)
def test_description_of_another_form_is_refused_though_its_checksum_is_right(
    saved: Path, changed: dict[str, Any]
) -> None:
    path = saved.with_name("forged")
    forge(path, saved, changed)
    with pytest.raises(KitError):
        Kit.load(path)


@pytest.mark.parametrize(
    "more",
    [
        {"prompts": None},
        {"prompts": torch.zeros(CLASSES + 1, PER_CLASS, 1, SIZE, SIZE)},
        {"prompts": torch.zeros(CLASSES * PER_CLASS, 1, SIZE, SIZE)},
        {"classifier.head.weight": None},
        {"classifier.head.weight": torch.zeros(2, 2)},
        {"classifier.extra": torch.zeros(1)},
        {"generator.to_image.bias": None},
        {"images": torch.zeros(5, 1, SIZE, SIZE)},
    ],
    ids=lambda more: f"{[(k, v if v is None else tuple(v.shape)) for k, v in more.items()]}",
)
def test_tensors_that_do_not_belong_are_refused_though_their_checksum_is_right(
    saved: Path, more: dict[str, Tensor | None]
) -> None:
    path = saved.with_name("forged")
    forge(path, saved, more=more)
    with pytest.raises(KitError):
        Kit.load(path)


@pytest.mark.parametrize("role", ["classifier", "generator"])
@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "torch.nn.Linear"])
def test_foreign_class_is_refused_unless_it_is_allowed(
    saved: Path, role: str, target: str, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    arguments = {"command": f"touch {mark}"}
    path = saved.with_name("forged")
    forge(path, saved, {role: {"target": target, "arguments": arguments}})
    with pytest.raises(KitError, match=f"{target} is not one of ours"):
        Kit.load(path)
    with pytest.raises(KitError, match=r"no torch.nn.Module class|cannot be built"):
        Kit.load(path, allow_custom=True)
    assert not mark.exists()


def test_custom_network_loads_where_that_was_allowed(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from geniu_lightning.models.allcnn import AllCNN\nclass Mine(AllCNN): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = NetworkSpec("my_networks.Mine", kit.info.classifier.arguments)
    custom = Kit(kit.classifier, replace(kit.info, classifier=spec), kit.generator, kit.prompts)
    custom.save(tmp_path / "kit.safetensors")
    with pytest.raises(KitError, match=r"my_networks.Mine is not one of ours.*allow_custom=true"):
        Kit.load(tmp_path / "kit.safetensors")
    loaded = Kit.load(tmp_path / "kit.safetensors", allow_custom=True)
    assert type(loaded.classifier).__name__ == "Mine"
    assert_same_state(loaded.classifier, kit.classifier)


def test_description_survives_json(kit: Kit) -> None:
    again = KitInfo.from_json(kit.info.to_json())
    assert again == kit.info
    assert again.to_json() == kit.info.to_json()
    assert list(json.loads(kit.info.to_json())) == sorted(vars(kit.info))
    for part in (again.class_names, again.class_counts, again.forgotten, again.spec.mean):
        assert isinstance(part, tuple)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"class_names": []}'])
def test_text_of_another_form_is_a_kit_error(text: str) -> None:
    with pytest.raises(KitError, match="description cannot be read"):
        KitInfo.from_json(text)
