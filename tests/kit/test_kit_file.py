"""The file of a kit: bitwise there and back, whole or not at all, and nothing else is believed."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geniu_lightning.errors import KitError
from geniu_lightning.kit import FORMAT, Kit, KitInfo, NetworkSpec
from geniu_lightning.kit import file as kit_file
from tests.kit.small_kits import CLASSES, PER_CLASS, SIZE, bits, content, forge, make_kit


def assert_same_state(a: nn.Module | None, b: nn.Module | None) -> None:
    assert a is not None
    assert b is not None
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value.dtype, value.shape) == (second[name].dtype, second[name].shape), name
        assert bits(value) == bits(second[name]), name


# ---- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["allcnn.AllCNN", "resnet.ResNet18"])
def test_round_trip_is_bitwise(classifier: str, tmp_path: Path) -> None:
    kit = make_kit(classifier=classifier)
    path = tmp_path / "kit.safetensors"
    kit.save(path)
    loaded = Kit.load(path)
    assert loaded.info == kit.info
    assert_same_state(loaded.classifier, kit.classifier)
    assert_same_state(loaded.generator, kit.generator)
    assert loaded.prompts is not None
    assert kit.prompts is not None
    assert loaded.prompts.shape == (CLASSES, PER_CLASS, 1, SIZE, SIZE)
    assert bits(loaded.prompts) == bits(kit.prompts)
    images = torch.randn(3, 1, SIZE, SIZE)
    assert torch.equal(loaded.classifier(images), kit.classifier(images))
    assert torch.equal(loaded.proxies().images, kit.proxies().images)


def test_saving_what_was_loaded_gives_the_same_content(saved: Path, tmp_path: Path) -> None:
    Kit.load(saved).save(tmp_path / "again.safetensors")
    assert content(tmp_path / "again.safetensors") == content(saved)


def test_memory_format_does_not_reach_the_file(kit: Kit, saved: Path, tmp_path: Path) -> None:
    kit.classifier.to(memory_format=torch.channels_last)
    kit.save(tmp_path / "last.safetensors")
    assert content(tmp_path / "last.safetensors") == content(saved)


def test_odd_numbers_survive(kit: Kit, tmp_path: Path) -> None:
    weight = kit.classifier.head.weight  # type: ignore[union-attr]
    odd = torch.tensor([-0.0, 1e-45, torch.inf, torch.nan])
    weight.data.view(-1)[:4] = odd  # type: ignore[union-attr, operator]
    kit.save(tmp_path / "kit.safetensors")
    assert_same_state(Kit.load(tmp_path / "kit.safetensors").classifier, kit.classifier)


def test_file_holds_weights_and_prompts_and_nothing_else(kit: Kit, saved: Path) -> None:
    expected = {f"classifier.{k}" for k in kit.classifier.state_dict()}
    expected |= {f"generator.{k}" for k in kit.generator.state_dict()}  # type: ignore[union-attr]
    tensors = load_file(saved)
    assert set(tensors) == expected | {"prompts"}
    with safe_open(saved, framework="pt") as file:
        assert set(file.metadata()) == {"geniu", "sha256"}
    # not one byte more than these numbers and the header
    header = 8 + int.from_bytes(saved.read_bytes()[:8], "little")
    assert saved.stat().st_size == header + sum(len(bits(t)) for t in tensors.values())


def test_larger_storage_behind_a_tensor_does_not_get_into_the_file(
    kit: Kit, saved: Path, tmp_path: Path
) -> None:
    assert kit.prompts is not None
    behind = torch.full((100, *kit.prompts.shape), 0.123)
    behind[50] = kit.prompts
    kit.prompts = behind[50]
    kit.save(tmp_path / "view.safetensors")
    assert content(tmp_path / "view.safetensors") == content(saved)


def test_load_leaves_networks_in_evaluation_without_gradients(saved: Path) -> None:
    loaded = Kit.load(saved)
    for network in (loaded.classifier, loaded.generator):
        assert network is not None
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    assert loaded.prompts is not None
    assert not loaded.prompts.requires_grad


def test_loading_and_decoding_do_not_depend_on_the_random_state(saved: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = Kit.load(saved).proxies().images
        torch.manual_seed(2)
        assert torch.equal(first, Kit.load(saved).proxies().images)


# ---- proxies ---------------------------------------------------------------------------------


def test_proxies_are_the_decoded_means_in_the_order_of_their_classes(kit: Kit) -> None:
    proxies = kit.proxies()
    assert proxies.images.shape == (CLASSES * PER_CLASS, 1, SIZE, SIZE)
    assert proxies.images.dtype == torch.float32
    assert 0 <= proxies.images.min() < proxies.images.max() <= 1
    assert proxies.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(proxies.images, kit.proxies().images)
    assert kit.prompts is not None
    for place, image in enumerate(proxies.images):
        prompt = kit.prompts[place // PER_CLASS, place % PER_CLASS]
        mean, _ = kit.generator.encode(prompt[None])  # type: ignore[union-attr, operator]
        alone = kit.generator.decode(mean)[0]  # type: ignore[union-attr, operator]
        torch.testing.assert_close(image, alone)


def test_proxies_of_some_classes_and_of_the_first_prompts(kit: Kit) -> None:
    every = kit.proxies().images.view(CLASSES, PER_CLASS, 1, SIZE, SIZE)
    some = kit.proxies([2, 0])
    assert some.labels.tolist() == [2, 2, 0, 0]
    torch.testing.assert_close(some.images, every[[2, 0]].flatten(0, 1))
    first = kit.proxies(per_class=1)
    assert first.labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(first.images, every[:, 0])
    one = kit.proxies([1], per_class=1)
    assert one.labels.tolist() == [1]
    torch.testing.assert_close(one.images, every[1, :1])


@pytest.mark.parametrize("count", [0, -1, PER_CLASS + 1])
def test_more_prompts_than_there_are_cannot_be_had(kit: Kit, count: int) -> None:
    with pytest.raises(KitError, match=f"has {PER_CLASS} prompts a class, {count} were asked"):
        kit.proxies(per_class=count)


@pytest.mark.parametrize("wanted", [[CLASSES], [-1]])
def test_proxies_of_no_class_cannot_be_had(kit: Kit, wanted: list[int]) -> None:
    with pytest.raises(KitError):
        kit.proxies(wanted)


def test_unlearned_weights_load_by_the_same_loader_and_have_no_proxies(
    unlearned: Kit, tmp_path: Path
) -> None:
    unlearned.save(tmp_path / "unlearned.safetensors")
    loaded = Kit.load(tmp_path / "unlearned.safetensors")
    assert loaded.info == unlearned.info
    assert loaded.info.forgotten == (1,)
    assert loaded.generator is None
    assert loaded.prompts is None
    assert_same_state(loaded.classifier, unlearned.classifier)
    assert all(k.startswith("classifier.") for k in load_file(tmp_path / "unlearned.safetensors"))
    with pytest.raises(KitError, match=r"no generator and no prompts.*generator=vae"):
        loaded.proxies()
    assert loaded.to(torch.device("cpu")) is loaded


# ---- whole or not at all ---------------------------------------------------------------------


def test_save_replaces_what_was_there_and_leaves_nothing_beside(
    kit: Kit, saved: Path, tmp_path: Path
) -> None:
    kit.info = replace(kit.info, seed=8)
    kit.save(saved)
    assert Kit.load(saved).info.seed == 8
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("how", ["disk full", "rename fails", "interrupted"])
@pytest.mark.parametrize("existing", [True, False])
def test_failed_save_keeps_the_old_file_and_leaves_nothing_beside(
    how: str, existing: bool, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kit.safetensors"
    if existing:
        kit.save(path)
    old = path.read_bytes() if existing else b""
    kit.info = replace(kit.info, seed=8)

    def fill_up(tensors: Any, filename: Any, metadata: Any) -> None:
        Path(filename).write_bytes(b"half of it")
        raise OSError(28, "No space left on device") if how == "disk full" else KeyboardInterrupt

    def refuse(*_: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        if how == "rename fails":
            for owner, name in ((Path, "replace"), (Path, "rename"), (os, "replace")):
                patch.setattr(owner, name, refuse)
        else:
            patch.setattr(kit_file, "save_file", fill_up)
        with pytest.raises((OSError, KeyboardInterrupt)):
            kit.save(path)
    assert [p.name for p in tmp_path.iterdir()] == (["kit.safetensors"] if existing else [])
    if existing:
        assert path.read_bytes() == old


def test_reader_never_sees_a_half_written_file(
    kit: Kit, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = save_file

    def look(tensors: Any, filename: Any, metadata: Any) -> None:
        write(tensors, filename, metadata=metadata)
        assert Path(filename).parent == saved.parent  # elsewhere the rename would not be atomic
        assert Kit.load(saved).info.seed == 7

    monkeypatch.setattr(kit_file, "save_file", look)
    kit.info = replace(kit.info, seed=8)
    kit.save(saved)
    assert Kit.load(saved).info.seed == 8


# ---- what is not believed --------------------------------------------------------------------


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


# ---- what may not be written -----------------------------------------------------------------


def test_kit_whose_parts_contradict_its_description_is_not_written(
    kit: Kit, tmp_path: Path
) -> None:
    """Else the file could not be loaded, or would silently hold less than the kit."""
    path = tmp_path / "kit.safetensors"
    for info, generator, prompts in (
        (kit.info, None, None),
        (kit.info, kit.generator, None),
        (replace(kit.info, generator=None), kit.generator, kit.prompts),
    ):
        with pytest.raises(ValueError, match="come together or not at all"):
            Kit(kit.classifier, info, generator, prompts).save(path)
    assert not path.exists()
