"""Coreset: how many images a budget pays for, which are read, and what is made of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from geniu_lightning.data import imbalance
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Digits
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.coreset import Coreset, CoresetTune, images_for
from geniu_lightning.unlearning.sources import Access, Sources

TrainerOf = Callable[[int], Trainer]
IMAGE = 16 * 16  # bytes of one
sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def tune(**settings: Any) -> CoresetTune:
    defaults = {"forget": (1, 3), "steps": 8, "optimizer": sgd, "batch_size": 9}
    return CoresetTune(**defaults | settings)


class Store:
    """Real images behind the real loader; remembers the positions that were read."""

    def __init__(self, folder: Path, forget: tuple[int, ...]) -> None:
        source: Any = Digits
        self.data = ImageData(
            name="digits",
            source=source,
            image_size=16,
            channels=1,
            imbalance=imbalance.none,
            cache_folder=str(folder),
        )
        self.data.set_forget(forget)
        self.read: list[list[int]] = []
        gate = self.data.read

        def noted(which: str, indices: Tensor, device: torch.device | None = None) -> Tensor:
            self.read.append(indices.tolist())
            return gate(which, indices, device)

        self.data.read = noted  # type: ignore[method-assign]
        self.forget = forget

    def sources(self) -> Sources:
        def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> Any:
            return self.data.loader(split, batch_size=batch_size, seed=seed, limit=limit)

        return Sources(Access.RETAIN, self.forget, open_split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoded")


# ---- the budget ------------------------------------------------------------------------------


def test_the_kits_budget_is_the_bytes_of_generator_and_prompts(kit: Kit, tmp_path: Path) -> None:
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
    assert images_for(kit, (1, 3), "kit", None) == 27  # all that there are
    kit.info = replace(kit.info, class_counts=(10**6,) * 5)
    assert images_for(kit, (1, 3), "kit", None) == size // IMAGE


def test_the_proxies_budget_is_an_image_for_each_retained_prompt(kit: Kit) -> None:
    assert images_for(kit, (1, 3), "proxies", None) == 3 * 2
    assert images_for(kit, (0,), "proxies", None) == 4 * 2


@pytest.mark.parametrize(("size", "images"), [(IMAGE, 1), (10 * IMAGE - 1, 9), (10 * IMAGE, 10)])
def test_bytes_stand_before_the_budget_and_pay_for_whole_images(
    kit: Kit, size: int, images: int
) -> None:
    kit.generator = kit.prompts = None
    assert images_for(kit, (1, 3), "proxies", size) == images


@pytest.mark.parametrize("budget", ["kit", "proxies"])
@pytest.mark.parametrize("make", [Coreset, tune])
def test_a_kit_without_a_generator_needs_bytes(
    kit: Kit, archive: Any, budget: str, make: Any
) -> None:
    kit.generator = kit.prompts = None
    with pytest.raises(UserError, match=r"no generator .* set unlearner\.bytes"):
        make(forget=(1, 3), budget=budget).prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    assert archive.opened == []


@pytest.mark.parametrize("size", [IMAGE - 1, 0, -5])
def test_bytes_that_hold_no_image_are_refused(kit: Kit, size: int) -> None:
    with pytest.raises(UserError, match=f"must hold at least an image of {IMAGE}, got {size}"):
        images_for(kit, (1, 3), "kit", size)


def test_an_unknown_budget_is_refused_with_the_choices(kit: Kit) -> None:
    with pytest.raises(UserError, match="budget must be one of kit, proxies, got 'more'"):
        images_for(kit, (1, 3), "more", None)


def test_min_steps_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"unlearner\.min_steps must be at least 0, got -1"):
        Coreset(forget=(1,), min_steps=-1)


def test_tuning_on_proxies_in_place_of_stored_images_is_refused() -> None:
    with pytest.raises(TypeError, match="source"):
        tune(source="proxies")


# ---- which images ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [partial(Coreset, min_steps=8), tune])
@pytest.mark.parametrize("forget", [(0,), (1, 3)])
def test_just_so_many_images_are_read_the_same_in_each_epoch_evenly_over_retained_classes(
    kit: Kit, folder: Path, trainer_of: TrainerOf, make: Any, forget: tuple[int, ...]
) -> None:
    store = Store(folder, forget)
    count, classes = 21, 10 - len(forget)  # two or three of each class
    method = make(forget=forget, bytes=count * IMAGE + 5)
    method.run(kit_of_ten(kit), store.sources(), trainer_of)
    read = torch.tensor([i for batch in store.read for i in batch])
    distinct = read.unique()
    assert len(distinct) == count == method.stored
    assert len(read) >= 2 * count  # several epochs, and yet no other image
    labels = store.data.all_labels[distinct]
    assert not set(labels.tolist()) & set(forget)
    counts = torch.bincount(labels, minlength=10)
    assert set(counts.tolist()) == {0, 2, 3}
    assert (counts > 0).sum() == classes


@pytest.mark.parametrize("make", [partial(Coreset, min_steps=8), tune])
def test_the_draw_follows_from_the_seed(
    kit: Kit, folder: Path, trainer_of: TrainerOf, make: Any
) -> None:
    drawn = []
    for seed in (1, 1, 2):
        store = Store(folder, (1, 3))
        make(forget=(1, 3), bytes=20 * IMAGE, seed=seed).run(
            kit_of_ten(kit), store.sources(), trainer_of
        )
        drawn.append({i for batch in store.read for i in batch})
    assert drawn[0] == drawn[1] != drawn[2]


def test_on_a_kit_of_another_training_seed_it_is_another_run(kit: Kit, archive: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        kit.info = replace(kit.info, seed=seed)
        method = Coreset(forget=(1, 3), bytes=20 * IMAGE)
        method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
        found.append((archive.opened[-1], method.classifier.head.weight))
    assert found[0][0] == found[1][0] != found[2][0]  # order, augmentation and draw
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def kit_of_ten(kit: Kit) -> Kit:
    """Return a kit whose classifier has ten classes; its prompts are not asked for."""
    spec = replace(
        kit.info.classifier, arguments=kit.info.classifier.arguments | {"num_classes": 10}
    )
    info = replace(
        kit.info,
        classifier=spec,
        generator=None,
        class_names=tuple("abcdefghij"),
        class_counts=(9,) * 10,
    )
    return Kit(spec.build_classifier(), info)


# ---- what is made of them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_steps", "steps"),
    [(0, 4), (4, 4), (5, 6), (300, 300)],  # 24 images in batches of 12, two epochs
)
def test_epochs_are_added_until_there_are_enough_steps(
    kit: Kit, archive: Any, min_steps: int, steps: int
) -> None:
    method = Coreset(forget=(1, 3), bytes=24 * IMAGE, min_steps=min_steps)
    method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    assert method.steps == steps


def test_retraining_starts_anew_with_batch_statistics_and_learns_what_was_stored(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Coreset(forget=(1, 3), bytes=15 * IMAGE, min_steps=40)
    method.prepare(kit, archive.sources(Access.RETAIN, (1, 3)))
    old, new = kit.classifier.state_dict(), method.classifier.state_dict()
    assert not any(torch.equal(new[k], old[k]) for k in old)
    assert (method.batch_norm, method.from_scratch) == ("train", True)
    result = method.run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    answers = result(archive.images).argmax(dim=1)
    assert not torch.isin(answers, torch.tensor([1, 3])).any()  # what it never saw it never says
    assert (answers == archive.labels)[~gone].float().mean() > 0.8


def test_where_the_budget_holds_all_images_this_is_retraining_on_all(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Coreset(forget=(1, 3), bytes=10**6)  # no epoch is added: it is retraining
    method.run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)
    counts = torch.bincount(torch.tensor(archive.read), minlength=5).tolist()
    assert counts == [18, 0, 18, 0, 18]  # two epochs of nine
    assert method.stored == 27


def test_tuning_keeps_the_rest_and_masks_the_forgotten(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    result = tune(bytes=15 * IMAGE).run(kit, archive.sources(Access.RETAIN, (1, 3)), trainer_of)
    logits = result(archive.images)
    gone = torch.isin(archive.labels, torch.tensor([1, 3]))
    assert (logits.argmax(dim=1) == archive.labels)[~gone].float().mean() > 0.9
    assert logits[:, [1, 3]].max() < logits[:, [0, 2, 4]].min() - 100
    assert not torch.equal(result.head.weight[[0, 2, 4]], kit.classifier.head.weight[[0, 2, 4]])
