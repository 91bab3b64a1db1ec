"""Images of 128 pixels from a folder, from training to unlearning."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geniu_lightning.kit.file import Kit
from tests.commands import Command

SIZE = 128
NETWORKS = (("model=allcnn", "model.width=2"), ("model=timm", "model.name=resnet10t"))


@pytest.mark.slow
@pytest.mark.parametrize("model", NETWORKS)
def test_large_images_are_trained_on_and_a_class_of_them_unlearned(
    command: Command, tmp_path: Path, model: tuple[str, str]
) -> None:
    if "timm" in model[0]:
        pytest.importorskip("timm", reason="the extra timm is not installed", exc_type=Exception)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, (down, right) in {"stripes": (1, 0), "bars": (0, 1), "waves": (1, 1)}.items():
            folder = tmp_path / "patterns" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                side = int(rng.integers(100, 200))  # larger and smaller than they will be read
                rows, columns = np.mgrid[:side, :side] / side
                bright = np.sin(30 * (down * rows + right * columns) + rng.uniform(0, 6))
                pixels = 128 + 90 * bright[..., None] * rng.uniform(0.3, 1, 3)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    trained = command(
        *("train", "data=folder", f"data.root={tmp_path}", "data.name=patterns"),
        *(f"data.image_size={SIZE}", *model, "generator.width=4", "generator.latent=16"),
        *("imbalance=none", "training.epochs=2", "training.batch_size=12"),
        *("training.min_generator_steps=6", "training.proxies_per_class=2"),
        *("training.prompt_batch=4", "trainer.threads=1", f"out={tmp_path / 'kit'}"),
    )
    assert trained.status == 0, trained.err
    kit = Kit.load(tmp_path / "kit" / "kit.safetensors")
    assert kit.proxies().images.shape == (6, 3, SIZE, SIZE)
    unlearned = command(
        *("unlearn", f"kit={tmp_path / 'kit'}", "forget=[stripes]", "unlearner.steps=3"),
        f"data.root={tmp_path}",
        *("evaluation=accuracy", "trainer.threads=1", f"out={tmp_path / 'forgot'}"),
    )
    assert unlearned.status == 0, unlearned.err
    found = json.loads((tmp_path / "forgot" / "metrics.json").read_text())
    assert found["cost"]["training_images_read"] == 0
    assert 0 <= found["metrics"]["accuracy"]["test"]["retain"]["value"] <= 1
    weights = Kit.load(tmp_path / "forgot" / "unlearned.safetensors")
    assert weights.info.classifier == kit.info.classifier
