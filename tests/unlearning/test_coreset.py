"""Coreset: the budget, which images are drawn, and both methods on them."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.unlearning.coreset import Coreset, CoresetTune, coreset_size
from tests.unlearning.helpers import GONE, KEPT, Lab

IMAGE = 16 * 16  # bytes of one


def tune(**settings: Any) -> CoresetTune:
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    defaults = {"forget": GONE, "steps": 8, "optimizer": optimizer, "batch_size": 9}
    return CoresetTune(**defaults | settings)


def test_the_size_is_that_of_the_budget(lab: Lab, tmp_path: Path) -> None:
    lab.kit.save(tmp_path / "kit.safetensors")
    bytes_of = {"F32": 4, "I64": 8}
    raw = (tmp_path / "kit.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    size = sum(
        bytes_of[about["dtype"]] * int(torch.tensor(about["shape"]).prod())
        for name, about in header.items()
        if name.startswith("generator.") or name == "prompts"
    )
    assert size // IMAGE > 27
    assert coreset_size(lab.kit, GONE, "kit", None) == 27  # all that there are
    assert coreset_size(lab.kit, GONE, "proxies", None) == 3 * 2
    assert coreset_size(lab.kit, (0,), "proxies", None) == 4 * 2
    lab.kit.info = dataclasses.replace(lab.kit.info, class_counts=(10**6,) * 5)
    assert coreset_size(lab.kit, GONE, "kit", None) == size // IMAGE
    lab.kit.generator = lab.kit.prompts = None
    for given, images in ((IMAGE, 1), (10 * IMAGE - 1, 9), (10 * IMAGE, 10)):
        assert coreset_size(lab.kit, GONE, "proxies", given) == images
    with pytest.raises(SettingError, match=f"bytes must hold at least one image of {IMAGE}"):
        coreset_size(lab.kit, GONE, "kit", IMAGE - 1)
    for method in (Coreset(forget=GONE), tune(budget="proxies")):
        with pytest.raises(UserError, match=r"no generator .* set unlearner\.bytes"):
            lab.prepared(method)
    assert lab.opened == []


def test_epochs_are_added_and_the_seed_is_of_both_seeds(lab: Lab) -> None:
    for min_steps, steps in [(0, 4), (4, 4), (5, 6), (300, 300)]:
        # 24 images in batches of 12, two epochs
        method = Coreset(forget=GONE, bytes=24 * IMAGE, min_steps=min_steps)
        lab.prepared(method)
        assert method.steps == steps
    found = []
    for seed in (1, 1, 2):
        lab.kit.info = dataclasses.replace(lab.kit.info, seed=seed)
        method = Coreset(forget=GONE, bytes=20 * IMAGE)
        lab.prepared(method)
        found.append((lab.opened[-1], method.classifier.head.weight))
    assert found[0][0] == found[1][0] != found[2][0]  # order, augmentation and draw
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_a_budget_of_all_images_is_retraining(lab: Lab) -> None:
    whole = Coreset(forget=GONE, bytes=10**6)  # no epoch is added: it is retraining
    lab.run(whole)
    assert whole.stored == 27
    assert lab.counts() == [18, 0, 18, 0, 18]


def test_tuning_on_a_coreset_masks_the_forget_classes(lab: Lab) -> None:
    method = tune(bytes=15 * IMAGE)
    result = lab.run(method)
    assert lab.limits == [15] == [method.stored]
    logits = result(lab.images)
    assert logits[:, GONE].max() < logits[:, KEPT].min() - 100
    assert lab.own_probability(result)[1] > 0.9
    before, after = (n.head.weight[list(KEPT)] for n in (lab.kit.classifier, result))
    assert not torch.equal(before, after)
    with pytest.raises(TypeError, match="source"):
        tune(source="proxies")
