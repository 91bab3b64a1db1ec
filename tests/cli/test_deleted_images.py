"""The images of the class are gone, wholly or in part: unlearning ends, and says what it lacks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import fromarray

from tests.commands import TINY, Command

CLASSES = ("ant", "bee", "cat")
STATES = {  # the splits from which the class was deleted
    "none": (),
    "train": ("train",),
    "test": ("test",),
    "both": ("train", "test"),
}


def write(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, each in (("train", 12), ("test", 5)):
        for k, name in enumerate(CLASSES):
            place = root / "pets" / split / name
            place.mkdir(parents=True)
            for j in range(each):
                pixels = rng.integers(0, 60, (16, 16)) + 90 * k
                fromarray(pixels.astype(np.uint8)).save(place / f"{j}.png")


@pytest.mark.parametrize("evaluation", ["accuracy", pytest.param("full", marks=pytest.mark.slow)])
def test_each_state_ends_with_weights_and_receipt(
    evaluation: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "whole")
    tiny = [word for word in TINY if not word.startswith("imbalance")]
    form = ("data=folder", "data.name=pets", "imbalance=none", "data.image_size=16")
    where = (f"data.root={tmp_path / 'whole'}", "data.channels=1", f"out={tmp_path / 'kit'}")
    made = command("train", *tiny, *form, *where, "training.batch_size=8", "seed=1")
    assert made.status == 0, made.err
    for state, splits in STATES.items():
        root, out = tmp_path / state, tmp_path / f"without {state}"
        shutil.copytree(tmp_path / "whole", root)
        for split in splits:
            shutil.rmtree(root / "pets" / split / "bee")
        outcome = command(
            *("unlearn", f"kit={tmp_path / 'kit'}", "forget=[bee]", "unlearner=geniu"),
            *("unlearner.steps=4", "trainer.threads=1", f"evaluation={evaluation}"),
            *(f"data.root={root}", f"out={out}", f"oracles.folder={tmp_path / 'bank'}"),
            *("oracles.count=3", "next_kit=false"),
        )
        assert outcome.status == 0, (state, outcome.err)
        for split in ("train", "test"):
            said = f"the {split} images of bee are missing" in outcome.out
            assert said == (split in splits), (state, outcome.out)
        document = json.loads((out / "metrics.json").read_text())
        for split in ("train", "test"):
            found = document["metrics"]["accuracy"][split]
            assert ("absent" in found["forget"]) == (split in splits), (state, split)
            assert found["retain"]["value"] >= 0
        receipt = (out / "receipt.md").read_text()
        assert "1 (bee)" in receipt
        assert (out / "unlearned.safetensors").is_file()
        measured = command(
            *("evaluate", f"kit={tmp_path / 'kit'}", f"weights={out}", f"data.root={root}"),
            *("evaluation=accuracy", "trainer.threads=1", f"out={tmp_path / 'measured' / state}"),
        )
        assert measured.status == 0, (state, measured.err)
        reader = command(
            *("unlearn", f"kit={tmp_path / 'kit'}", "forget=[bee]", "trainer.threads=1"),
            *("unlearner=gradient_ascent", "evaluation=none", f"data.root={root}"),
            *(f"out={tmp_path / 'reads' / state}", "next_kit=false"),
        )
        assert reader.status == (2 if "train" in splits else 0), (state, reader.err)
        said = "gradient_ascent reads the forget images, which are missing; methods" in reader.err
        assert said == ("train" in splits), (state, reader.err)


def test_a_class_that_is_to_stay_may_not_be_absent(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "pets" / "train" / "cat")
    tiny = [word for word in TINY if not word.startswith("imbalance")]
    form = ("data=folder", "data.name=pets", "imbalance=none", "data.image_size=16")
    small = (*tiny, *form, "data.channels=1", "training.batch_size=8", "evaluation=none")
    refused = command("train", *small, f"data.root={tmp_path / 'part'}", f"out={tmp_path / 'no'}")
    assert (refused.status, refused.err.count("\n")) == (2, 1), refused.err
    assert "no training image of 2 (cat)" in refused.err
    made = command("train", *small, f"data.root={tmp_path / 'whole'}", f"out={tmp_path / 'kit'}")
    assert made.status == 0, made.err
    request = (f"kit={tmp_path / 'kit'}", "forget=[bee]", "unlearner=retrain", "next_kit=false")
    where = (f"data.root={tmp_path / 'part'}", f"out={tmp_path / 'out'}")
    refused = command("unlearn", *request, *where)
    assert refused.status == 2
    assert "they differ in train/cat" in refused.err
