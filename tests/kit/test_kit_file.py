"""The file of a kit: bitwise there and back, and whole or not at all."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from geniu_lightning.errors import KitError
from geniu_lightning.kit import file as kit_file
from geniu_lightning.kit.file import Kit
from tests.kit.small_kits import (
    CLASSES,
    PER_CLASS,
    SIZE,
    assert_same_state,
    bits,
    content,
    make_kit,
)

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
