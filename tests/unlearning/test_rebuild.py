"""Rebuild: retraining on the archive of a kit, which nothing of a forgotten class reaches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from torch import Tensor, nn

from geniu_lightning.data.sources import Digits, Pictures
from geniu_lightning.errors import KitError
from geniu_lightning.kit.distribution import Distribution
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.unlearning.null_kit import null_kit
from geniu_lightning.unlearning.rebuild import Rebuild
from geniu_lightning.unlearning.retrain import Retrain
from tests.commands import TINY, Command
from tests.kit.small_kits import with_distribution
from tests.unlearning.helpers import CLASSES, GONE, KEPT, SPEC, Lab


def rebuilt(kit: Kit, training_seed: int | None = 3, **settings: Any) -> nn.Module:
    lab = Lab(kit)
    made = lab.run(Rebuild(forget=GONE, training_seed=training_seed, **settings))
    assert lab.opened == []  # no training image
    return made


def test_on_all_retained_images_it_is_retraining_to_the_bit(kit: Kit) -> None:
    lab = Lab(kit)
    images, lab.labels = kit.archived(range(CLASSES))
    lab.images = SPEC.normalise(images)
    oracle = lab.run(Retrain(forget=GONE, training_seed=3))
    kit.archived_read.clear()
    assert state_digest(rebuilt(kit)) == state_digest(oracle)
    assert kit.archived_read == {*KEPT}


def with_parts(kit: Kit, archive: dict[int, Tensor]) -> Kit:
    return Kit(kit.classifier, kit.info, kit.generator, kit.prompts, archive)


def test_neither_the_original_nor_parts_of_forgotten_classes_are_read(kit: Kit) -> None:
    expected = state_digest(rebuilt(kit))
    for parameter in kit.classifier.parameters():
        parameter.data.fill_(torch.nan)
    unreadable = torch.zeros(1, dtype=torch.uint8)
    broken = with_parts(kit, {**kit.archive, **dict.fromkeys(GONE, unreadable)})
    assert state_digest(rebuilt(broken)) == expected


def test_seeds_of_training_and_unlearning_are_both_in_the_draw(kit: Kit) -> None:
    other = with_parts(kit, dict(kit.archive))
    other.info = replace(kit.info, seed=kit.info.seed + 1)
    runs = [(kit, 0), (kit, 1), (other, 0)]
    made = [state_digest(rebuilt(one, None, seed=seed)) for one, seed in runs]
    assert len({*made}) == 3
    assert state_digest(rebuilt(kit, None, seed=0)) == made[0]


def test_epochs_are_added_where_few_images_are_archived(kit: Kit) -> None:
    def steps(kit: Kit) -> int:
        method = Rebuild(forget=GONE, min_steps=50)
        Lab(kit).prepared(method)
        return method.steps

    assert steps(kit) == 2 * 3  # two epochs of 27 images in batches of 12
    kit.info = replace(kit.info, class_counts=(10,) * CLASSES)
    assert steps(kit) == 17 * 3


def test_samples_of_retained_classes_alone_are_trained_on(kit: Kit) -> None:
    kit = with_distribution(kit)
    assert kit.distribution is not None
    settings = {"source": "distribution", "min_steps": 6}
    made = state_digest(rebuilt(kit, **settings))
    assert made != state_digest(rebuilt(kit, source="archive"))
    assert made != state_digest(rebuilt(kit, temperature=0.5, **settings))
    for parameter in kit.classifier.parameters():
        parameter.data.fill_(torch.nan)
    other = kit.distribution.mixtures[KEPT[0]]
    changed = {**kit.distribution.mixtures, **dict.fromkeys(GONE, other)}
    kit.distribution = Distribution(kit.distribution.decoder, changed)
    assert state_digest(rebuilt(kit, **settings)) == made


@pytest.mark.parametrize("balance", ["classes", "counts"])
def test_samples_are_balanced_as_wanted(kit: Kit, balance: str) -> None:
    kit = with_distribution(kit)
    kit.info = replace(kit.info, class_counts=(2, 40, 10, 10, 10))
    method = Rebuild(forget=GONE, source="distribution", min_steps=6, balance=balance)
    Lab(kit).prepared(method)
    assert method.batches is not None
    labels = torch.cat([batch.labels for batch in method.batches]).bincount(minlength=CLASSES)
    by_count = [0 if k in GONE else n for k, n in enumerate(kit.info.class_counts)]
    equal = -(-sum(by_count) // len(KEPT))
    wanted = by_count if balance == "counts" else [0 if k in GONE else equal for k in range(5)]
    assert labels.tolist() == wanted


def test_a_kit_that_lacks_what_it_needs_is_refused(kit: Kit) -> None:
    counts = (9, 9, 0, 9, 9)
    kit.info = replace(kit.info, archive=replace(kit.info.archive, counts=counts))
    kit.archive = {k: part for k, part in kit.archive.items() if k != 2}
    with pytest.raises(KitError, match=r"the archive has no images of 2 \(c\)"):
        rebuilt(kit)
    bare = Kit(kit.classifier, kit.info.of_weights())
    with pytest.raises(KitError, match=r"kit=\[prompts,distribution\] or kit=archive"):
        rebuilt(bare)


def test_its_null_is_made_of_an_oracles_kit(kit: Kit) -> None:
    info = replace(kit.info, forgotten=GONE, archive=kit.info.archive.without(GONE))
    prompts, archive = kit.prompts[list(KEPT)], {k: kit.archive[k] for k in KEPT}
    oracle = Kit(kit.classifier, info, kit.generator, prompts, archive)
    null = null_kit(oracle, GONE, seed=5)
    assert null.archive.keys() == {*KEPT}
    assert state_digest(rebuilt(null)) == state_digest(rebuilt(kit))


class NoisyZeros(Digits):
    """Digits whose zeros are noise."""

    def key(self) -> str:
        return "noisy zeros"

    def read(self, split: str) -> Pictures:
        digits = super().read(split)
        noise = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (999, 8, 8), np.uint8)

        def image(k: int) -> Any:
            return fromarray(noise[k % 999]) if digits.labels[k] == 0 else digits.image(k)

        return digits._replace(image=image)


def after_two_requests(command: Command, folder: Path, *source: str) -> list[Kit]:
    """Return the kit of a training, and those that forgetting 0 and then 1 leaves."""
    words = ("trainer.threads=1", "evaluation=none")
    own = ("training.epochs=1", "kit=archive", "data.pad=1", "imbalance.majority=[0]")
    folders = [folder / str(k) for k in range(3)]
    assert command("train", *TINY, *own, *words, *source, f"out={folders[0]}").status == 0
    for k in (0, 1):
        request = ("unlearner=rebuild", f"forget=[{k}]", f"kit={folders[k]}")
        assert command("unlearn", *request, *words, f"out={folders[k + 1]}").status == 0
    return [Kit.load(one / "kit.safetensors") for one in folders]


def test_what_is_left_after_a_deletion_is_the_same_had_the_class_been_noise(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "cache"))
    digits = after_two_requests(command, tmp_path / "digits")
    other = f"data.source._target_={__name__}.NoisyZeros"
    noise = after_two_requests(command, tmp_path / "noise", other)
    assert not torch.equal(digits[0].archive[0], noise[0].archive[0])
    assert state_digest(digits[0].classifier) != state_digest(noise[0].classifier)
    for first, (one, another) in enumerate(zip(digits, noise, strict=True)):
        assert one.archive.keys() == another.archive.keys() == {*range(first, 10)}
        for k in range(max(first, 1), 10):
            assert torch.equal(one.archive[k], another.archive[k])
        assert one.info.spec == another.info.spec  # normalisation
        if first:
            assert state_digest(one.classifier) == state_digest(another.classifier)
