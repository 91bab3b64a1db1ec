"""Coreset: the budget, which images are drawn, and both methods on them."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geniu_lightning.data import imbalance
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.coreset import Coreset, CoresetTune, coreset_size
from geniu_lightning.unlearning.sources import Access, Sources
from tests.unlearning.helpers import (
    GONE,
    KEPT,
    TrainerOf,
    own_probability,
    prepared,
    run,
)

IMAGE = 16 * 16  # bytes of one


def tune(**settings: Any) -> CoresetTune:
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    defaults = {"forget": GONE, "steps": 8, "optimizer": optimizer, "batch_size": 9}
    return CoresetTune(**defaults | settings)


def test_the_size_is_that_of_the_budget(kit: Kit, archive: Any, tmp_path: Path) -> None:
    kit.save(tmp_path / "kit.safetensors")
    bytes_of = {"F32": 4, "I64": 8}
    raw = (tmp_path / "kit.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    size = sum(
        bytes_of[about["dtype"]] * int(torch.tensor(about["shape"]).prod())
        for name, about in header.items()
        if name.startswith("generator.") or name == "prompts"
    )
    assert size // IMAGE > 27
    assert coreset_size(kit, GONE, "kit", None) == 27  # all that there are
    assert coreset_size(kit, GONE, "proxies", None) == 3 * 2
    assert coreset_size(kit, (0,), "proxies", None) == 4 * 2
    kit.info = dataclasses.replace(kit.info, class_counts=(10**6,) * 5)
    assert coreset_size(kit, GONE, "kit", None) == size // IMAGE
    kit.generator = kit.prompts = None
    for given, images in ((IMAGE, 1), (10 * IMAGE - 1, 9), (10 * IMAGE, 10)):
        assert coreset_size(kit, GONE, "proxies", given) == images
    with pytest.raises(SettingError, match=f"bytes must hold at least one image of {IMAGE}"):
        coreset_size(kit, GONE, "kit", IMAGE - 1)
    for method in (Coreset(forget=GONE), tune(budget="proxies")):
        with pytest.raises(UserError, match=r"no generator .* set unlearner\.bytes"):
            prepared(method, kit, archive)
    assert archive.opened == []


def kit_of_ten(kit: Kit) -> Kit:
    """Return a kit whose classifier has ten classes."""
    arguments = kit.info.classifier.arguments | {"num_classes": 10}
    spec = dataclasses.replace(kit.info.classifier, arguments=arguments)
    names = {"class_names": tuple("abcdefghij"), "class_counts": (9,) * 10}
    info = dataclasses.replace(kit.info, classifier=spec, generator=None, **names)
    return Kit(spec.build_classifier(), info)


@pytest.mark.parametrize("make", [partial(Coreset, min_steps=8, forget=GONE), tune])
def test_the_same_images_are_read_in_each_epoch_evenly_over_retained_classes(
    kit: Kit, tmp_path_factory: Any, trainer_of: TrainerOf, make: Any
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        data = ImageData(
            name="digits",
            source=Digits,
            image_size=16,
            channels=1,
            imbalance=imbalance.none,
            cache_folder=str(tmp_path_factory.getbasetemp() / "digits"),
        )
        data.set_forget(GONE)
        read: list[int] = []
        gate = data.read

        def noted(
            which: str, indices: Tensor, *more: Any, read: Any = read, gate: Any = gate
        ) -> Tensor:
            read += indices.tolist()
            return gate(which, indices, *more)

        data.read = noted

        def open_split(
            split: str, batch_size: int, seed: int | None, limit: int | None, data: Any = data
        ) -> Any:
            return data.loader(split, batch_size=batch_size, seed=seed, limit=limit)

        method = make(bytes=21 * IMAGE + 5, seed=seed)
        method.run(kit_of_ten(kit), Sources(Access.RETAIN, GONE, open_split), trainer_of)
        distinct = torch.tensor(read).unique()
        assert len(distinct) == 21 == method.stored
        assert len(read) >= 2 * 21  # several epochs, and yet no other image
        counts = torch.bincount(data.all_labels[distinct], minlength=10)
        assert counts[list(GONE)].tolist() == [0, 0]
        assert set(counts.tolist()) == {0, 2, 3}
        assert (counts > 0).sum() == 8
        drawn.append(set(read))
    assert drawn[0] == drawn[1] != drawn[2]


def test_epochs_are_added_and_the_seed_is_of_both_seeds(kit: Kit, archive: Any) -> None:
    for min_steps, steps in [(0, 4), (4, 4), (5, 6), (300, 300)]:
        # 24 images in batches of 12, two epochs
        method = Coreset(forget=GONE, bytes=24 * IMAGE, min_steps=min_steps)
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        assert method.steps == steps
    found = []
    for seed in (1, 1, 2):
        kit.info = dataclasses.replace(kit.info, seed=seed)
        method = Coreset(forget=GONE, bytes=20 * IMAGE)
        method.prepare(kit, archive.sources(Access.RETAIN, GONE))
        found.append((archive.opened[-1], method.classifier.head.weight))
    assert found[0][0] == found[1][0] != found[2][0]  # order, augmentation and draw
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_retraining_on_a_coreset_never_answers_a_forget_class(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Coreset(forget=GONE, bytes=15 * IMAGE, min_steps=40)
    assert (method.batch_norm, method.from_scratch) == ("train", True)
    answers = run(method, kit, archive, trainer_of)(archive.images).argmax(dim=1)
    forgotten = torch.isin(archive.labels, torch.tensor(GONE))
    assert not torch.isin(answers, torch.tensor(GONE)).any()
    assert (answers == archive.labels)[~forgotten].float().mean() > 0.8
    archive.read.clear()
    whole = Coreset(forget=GONE, bytes=10**6)  # no epoch is added: it is retraining
    run(whole, kit, archive, trainer_of)
    assert whole.stored == 27
    assert torch.bincount(torch.tensor(archive.read), minlength=5).tolist() == [18, 0, 18, 0, 18]


def test_tuning_on_a_coreset_masks_the_forget_classes(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    result = run(tune(bytes=15 * IMAGE), kit, archive, trainer_of)
    logits = result(archive.images)
    assert logits[:, GONE].max() < logits[:, KEPT].min() - 100
    assert own_probability(result, archive)[1] > 0.9
    before, after = (n.head.weight[list(KEPT)] for n in (kit.classifier, result))
    assert not torch.equal(before, after)
    with pytest.raises(TypeError, match="source"):
        tune(source="proxies")
