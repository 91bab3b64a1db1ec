"""Two requests one after the other: the second begins with the kit that the first one left."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor

from geniu_lightning.kit.file import Kit
from tests.commands import Command

FIRST, SECOND = 3, 5
CLASSES = 10


@functools.cache
def classifier() -> SVC:
    """Return one that has nothing to do with ours, of all ten digits at 8×8 pixels."""
    digits = load_digits()
    return SVC(gamma=0.001).fit(digits.data, digits.target)


def classes_of(images: Tensor) -> np.ndarray:
    """Return the classes of images in [0, 1], by that classifier."""
    small = torch.nn.functional.interpolate(images, size=(8, 8), mode="area")
    return np.asarray(classifier().predict((16 * small).flatten(1).numpy()))


def above_chance(images: Tensor, k: int) -> bool:
    """Whether more images are of class k than of one of ten that know nothing would be."""
    found = int((classes_of(images) == k).sum())
    return bool(binomtest(found, len(images), 1 / CLASSES, "greater").pvalue < 0.05)


def test_a_second_request_begins_with_the_kit_of_the_first(
    command: Command, unlearned: Path, tmp_path: Path
) -> None:
    first = Kit.load(unlearned / "kit.safetensors")
    assert first.info.forgotten == (3, 5)
    assert set(first.proxies().labels.tolist()) == set(range(CLASSES)) - {3, 5}
    words = (f"kit={unlearned}", "unlearner=logit_mask", "trainer.threads=1", "evaluation=none")
    ended = command("unlearn", *words, "forget=[0]", f"out={tmp_path}")
    assert ended.status == 0, ended.err
    second = Kit.load(tmp_path / "kit.safetensors")
    assert second.info.forgotten == (0, 3, 5)
    assert set(second.proxies().labels.tolist()) == set(range(CLASSES)) - {0, 3, 5}
    again = command("unlearn", *words, "forget=[3]", f"out={tmp_path / 'again'}")
    assert (again.status, "forgotten already" in again.err) == (2, True)


@pytest.mark.slow
def test_the_second_request_never_sees_the_first_class_again(
    command: Command, tmp_path: Path
) -> None:
    def unlearn(kit: Path, forget: int, out: Path, *words: str) -> None:
        ended = command(
            *("unlearn", f"kit={kit}", f"forget=[{forget}]", f"out={out}", "trainer.threads=1"),
            *("unlearner=regrow", "unlearner.steps=400", "evaluation=accuracy", *words),
        )
        assert ended.status == 0, ended.err

    folders = [tmp_path / name for name in ("kit", "first", "second")]
    trained = command(
        *("train", f"out={folders[0]}", "data=digits", "data.image_size=16", "imbalance=none"),
        "model.width=12",
        *("generator.width=16", "training.proxies_per_class=5"),
        *("training.epochs=6", "training.min_generator_steps=400", "trainer.threads=1", "seed=1"),
    )
    assert trained.status == 0, trained.err
    unlearn(folders[0], FIRST, folders[1])
    unlearn(folders[1], SECOND, folders[2])

    original, after_first, after_second = (Kit.load(f / "kit.safetensors") for f in folders)
    assert after_first.info.forgotten == (FIRST,)
    assert after_second.info.forgotten == (FIRST, SECOND)
    for kit, gone in ((after_first, [FIRST]), (after_second, [FIRST, SECOND])):
        rest = kit.proxies()
        assert set(rest.labels.tolist()) == set(range(CLASSES)) - set(gone)
        assert (classes_of(rest.images) == rest.labels.numpy()).mean() > 0.7  # still a kit
        for k in gone:
            assert not above_chance(rest.images, k)
            deleted = original.prompts_of([k]).images  # somebody may have kept them
            assert above_chance(original.decode(deleted), k)
            assert not above_chance(kit.decode(deleted), k)
    for folder in folders[1:]:
        found = json.loads((folder / "metrics.json").read_text())["metrics"]["accuracy"]["test"]
        assert found["forget"]["value"] <= 0.01
        assert found["retain"]["value"] > 0.7
