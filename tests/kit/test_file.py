"""The file of a kit: bitwise the same after a round trip, and written whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from geniu_lightning.errors import KitError
from geniu_lightning.kit import file as kit_file
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest, tensor_digest
from tests.kit.small_kits import CLASSES, PER_CLASS, SIZE, bits, content


def parts(kit: Kit) -> list[str]:
    """Return digests of networks and prompts, where there are any."""
    networks = [network for network in (kit.classifier, kit.generator) if network is not None]
    prompts = {} if kit.prompts is None else {"prompts": kit.prompts}
    return [*map(state_digest, networks), tensor_digest(prompts)]


def test_a_round_trip_is_bitwise_whatever_the_random_state(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "kit.safetensors"
    odd = torch.tensor([-0.0, 1e-45, torch.inf, torch.nan])
    kit.classifier.head.weight.data.view(-1)[:4] = odd  # type: ignore[union-attr, operator]
    kit.save(path)
    loaded = Kit.load(path)
    torch.manual_seed(2)
    assert torch.equal(Kit.load(path).proxies().images, kit.proxies().images)
    assert loaded.info == kit.info
    assert parts(loaded) == parts(kit)
    loaded.save(tmp_path / "again.safetensors")
    assert content(tmp_path / "again.safetensors") == content(path)
    for network in (loaded.classifier, loaded.generator):
        assert network is not None
        assert not any(module.training for module in network.modules())
        assert not any(p.requires_grad for p in network.parameters())


def test_the_file_holds_weights_and_prompts_alone_in_one_layout(kit: Kit, saved: Path) -> None:
    tensors = load_file(saved)
    expected = {f"classifier.{k}" for k in kit.classifier.state_dict()} | {"prompts"}
    expected |= {f"generator.{k}" for k in kit.generator.state_dict()}  # type: ignore[union-attr]
    assert set(tensors) == expected
    with safe_open(saved, framework="pt") as file:
        assert set(file.metadata()) == {"geniu", "sha256"}
    header = 8 + int.from_bytes(saved.read_bytes()[:8], "little")
    assert saved.stat().st_size == header + sum(len(bits(t)) for t in tensors.values())
    # neither a memory format nor a larger storage behind a tensor gets into the file
    before = content(saved)
    assert kit.prompts is not None
    behind = torch.full((100, *kit.prompts.shape), 0.123)
    behind[50] = kit.prompts
    kit.prompts = behind[50]
    kit.classifier.to(memory_format=torch.channels_last)
    kit.save(saved)
    assert content(saved) == before


def test_proxies_are_the_decoded_means_in_the_order_of_their_classes(kit: Kit) -> None:
    proxies = kit.proxies()
    assert proxies.images.shape == (CLASSES * PER_CLASS, 1, SIZE, SIZE)
    assert 0 <= proxies.images.min() < proxies.images.max() <= 1
    assert proxies.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert kit.prompts is not None
    for place, image in enumerate(proxies.images):
        prompt = kit.prompts[place // PER_CLASS, place % PER_CLASS]
        mean, _ = kit.generator.encode(prompt[None])  # type: ignore[union-attr, operator]
        alone = kit.generator.decode(mean)[0]  # type: ignore[union-attr, operator]
        torch.testing.assert_close(image, alone)
    for classes, count, labels in (
        ([2, 0], None, [2, 2, 0, 0]),
        (None, 1, [0, 1, 2]),
        ([1], 1, [1]),
    ):
        some = kit.prompts_of(classes, count)
        assert some.labels.tolist() == labels
        wanted = kit.prompts[classes or list(range(CLASSES)), :count].flatten(0, 1)
        assert torch.equal(some.images, wanted)
        assert torch.equal(kit.proxies(classes, count).images, kit.decode(wanted))
    less = Kit(kit.classifier, replace(kit.info, forgotten=(1,)), kit.generator, kit.prompts[::2])
    assert less.proxies().labels.tolist() == [0, 0, 2, 2]
    assert torch.equal(less.prompts_of([2]).images, kit.prompts[2])
    for count in (0, -1, PER_CLASS + 1):
        with pytest.raises(KitError, match=f"has {PER_CLASS} prompts a class, {count} were asked"):
            kit.proxies(per_class=count)
    for wanted in ([CLASSES], [-1]):
        with pytest.raises(KitError, match="has prompts of the classes 0, 1, 2, not of"):
            kit.proxies(wanted)


def test_unlearned_weights_load_by_the_same_loader_and_have_no_proxies(
    unlearned: Kit, tmp_path: Path
) -> None:
    path = tmp_path / "unlearned.safetensors"
    unlearned.save(path)
    loaded = Kit.load(path)
    assert loaded.info == unlearned.info
    assert loaded.info.forgotten == (1,)
    assert (loaded.generator, loaded.prompts) == (None, None)
    assert parts(loaded) == parts(unlearned)
    assert all(k.startswith("classifier.") for k in load_file(path))
    with pytest.raises(KitError, match=r"no generator and no prompts.*kit=prompts"):
        loaded.proxies()
    assert loaded.to(torch.device("cpu")) is loaded
    with pytest.raises(ValueError, match="come together or not at all"):
        Kit(loaded.classifier, loaded.info, None, torch.zeros(2, 1, 1, SIZE, SIZE))


@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(
    existing: bool, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kit.safetensors"
    if existing:
        kit.save(path)
    old = path.read_bytes() if existing else b""
    changed = Kit(kit.classifier, replace(kit.info, seed=8), kit.generator, kit.prompts)

    def fill_up(tensors: Any, filename: Any, metadata: Any) -> None:
        assert Path(filename).parent == path.parent  # elsewhere the rename would not be atomic
        Path(filename).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kit_file, "save_file", fill_up)
        with pytest.raises(OSError, match="No space"):
            changed.save(path)
    assert [p.name for p in tmp_path.iterdir()] == (["kit.safetensors"] if existing else [])
    assert not existing or path.read_bytes() == old
    changed.save(path)
    assert Kit.load(path).info.seed == 8
