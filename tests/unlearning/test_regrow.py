"""Regrow: its loss, what the student has of the original, and what it is shown."""

import copy
import csv
import dataclasses
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from scipy.special import rel_entr, softmax
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec, parts_of
from geniu_lightning.unlearning.inputs import Warped, Warps
from geniu_lightning.unlearning.regrow import Regrow
from geniu_lightning.unlearning.sources import Access, UnlearnBatch

TrainerOf = Callable[[int], Trainer]
GONE, KEPT = (1, 3), (0, 2, 4)
COUNTS = (100, 40, 20, 10, 1)


def regrow(**settings: Any) -> Regrow:
    defaults: dict[str, Any] = {
        "forget": GONE,
        "warps": Warps(),
        "steps": 20,
        "optimizer": partial(torch.optim.Adam, lr=3e-3),
    }
    return Regrow(**defaults | settings)


def prepared(kit: Kit, archive: Any, **settings: Any) -> tuple[Regrow, list[UnlearnBatch]]:
    method = regrow(**settings)
    method.prepare(kit, archive.sources(method.access, GONE))
    assert method.batches is not None
    return method, list(method.batches)


def counted(kit: Kit) -> Kit:
    kit.info = dataclasses.replace(kit.info, class_counts=COUNTS)
    return kit


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tau", [0.0, 0.7])
@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_is_the_documented_one(
    kit: Kit, archive: Any, temperature: float, tau: float, masked: bool
) -> None:
    method, (batch, *_) = prepared(
        counted(kit), archive, temperature=temperature, tau=tau, masked=masked
    )
    original = kit.classifier(batch.images).double().numpy()
    original -= tau * np.log(np.array(COUNTS) / sum(COUNTS))
    named = KEPT if masked else tuple(range(5))
    target = np.zeros_like(original)
    target[:, named] = softmax(original[:, named] / temperature, axis=1)
    now = method.classifier(batch.images).detach().double().numpy()
    wanted = rel_entr(target, softmax(now / temperature, axis=1)).sum(axis=1).mean()
    found = method.loss_terms(batch)
    assert found.keys() == {"distill"}
    assert found["distill"].item() == pytest.approx(temperature**2 * wanted, rel=1e-4)


def test_what_an_earlier_request_took_out_is_not_taken_again(kit: Kit, archive: Any) -> None:
    for before, left in ((0.0, 0.7), (0.5, 0.2), (1.0, 0.0)):
        kit.info = dataclasses.replace(counted(kit).info, prior_taken=before)
        method, _ = prepared(kit, archive, tau=0.7)
        assert method.prior_taken == pytest.approx(left)
        log_priors = torch.tensor(COUNTS, dtype=torch.float64).div(sum(COUNTS)).log()
        assert torch.allclose(method.shift.double(), left * log_priors, atol=1e-6)


def test_a_second_student_does_not_begin_as_its_teacher_did(kit: Kit, archive: Any) -> None:
    first, _ = prepared(kit, archive)
    again, _ = prepared(kit, archive)
    kit.info = dataclasses.replace(kit.info, forgotten=(1,))
    assert kit.prompts is not None
    kit.prompts = kit.prompts[[0, 2, 3, 4]]
    second, _ = prepared(kit, archive)
    weights = [method.classifier.head.weight for method in (first, again, second)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def state(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_hard_answers_are_the_likeliest_retained_class(
    kit: Kit, archive: Any, temperature: float
) -> None:
    method, (batch, *_) = prepared(
        counted(kit), archive, answers="hard", temperature=temperature, tau=0.7
    )
    original = kit.classifier(batch.images).double().numpy()
    original -= 0.7 * np.log(np.array(COUNTS) / sum(COUNTS))
    named = np.array(KEPT)[original[:, KEPT].argmax(axis=1)]
    now = method.classifier(batch.images).detach().double().numpy() / temperature
    wanted = -np.log(softmax(now, axis=1)[range(len(named)), named]).mean()
    assert len(set(named)) > 1
    found = method.loss_terms(batch)["distill"].item()
    assert found == pytest.approx(temperature**2 * wanted, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_the_copies_that_are_likest_the_forgotten_classes_are_not_taught(
    kit: Kit, archive: Any, share: float
) -> None:
    warps = Warps(noise=2.0)  # no two copies are equally like a class
    method, (batch, *_) = prepared(
        counted(kit), archive, leave_out=share, batch_size=40, tau=0.7, warps=warps
    )
    original = kit.classifier(batch.images).detach().numpy()
    likeness = softmax(original, axis=1)[:, GONE].sum(axis=1)  # as it is, priors and all
    target = np.zeros_like(original)
    target[:, KEPT] = softmax((original - method.shift.numpy())[:, KEPT], axis=1)
    now = method.classifier(batch.images).detach().numpy()
    each = rel_entr(target, softmax(now, axis=1)).sum(axis=1)
    named = target.argmax(axis=1)
    left_out = 0
    for k in KEPT:
        likest = sorted(np.flatnonzero(named == k), key=lambda place: -likeness[place])
        these = likest[: math.ceil(share * len(likest) - 0.5)]  # a half stays
        assert len(these) < len(likest)
        each[these] = 0.0
        left_out += len(these)
    assert len(set(named)) > 1
    assert (left_out > 0) == (share > 0)
    assert method.loss_terms(batch)["distill"].item() == pytest.approx(each.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("denials", "steps"),
    [
        (0.2, {0, 3}),
        (0.4, {0, 2, 3, 5}),
        (1e-6, {0}),
        (1.0, {*range(6)}),
        (None, {*range(6)}),
    ],
)
def test_forgotten_classes_are_denied_in_a_share_of_the_steps_of_retraining(
    kit: Kit, archive: Any, trainer_of: TrainerOf, denials: float | None, steps: set[int]
) -> None:
    # without GONE 121 images: two batches an epoch, ten steps
    recipe = {"training": {"epochs": 5, "batch_size": 100}}
    kit.info = dataclasses.replace(counted(kit).info, settings=recipe)
    seen: list[Any] = []

    class Watched(Regrow):
        def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
            seen.append((self.classifier.head.weight.detach().clone(), batch_idx))

    method = Watched(
        forget=GONE,
        warps=Warps(),
        steps=6,
        denials=denials,
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    method.run(kit, archive.sources(Access.NONE, GONE), trainer_of)
    rows = [weight for weight, _ in seen] + [method.classifier.head.weight]
    for step, (before, after) in enumerate(itertools.pairwise(rows)):
        assert torch.equal(before[list(GONE)], after[list(GONE)]) == (step not in steps)
        assert not torch.equal(before[list(KEPT)], after[list(KEPT)])


@pytest.mark.parametrize("keep", [0, 3, 8])
def test_kept_parts_stay_as_they_were_and_others_begin_afresh(
    kit: Kit, archive: Any, trainer_of: TrainerOf, keep: int
) -> None:
    method = regrow(keep=keep)
    method.prepare(kit, archive.sources(Access.NONE, GONE))
    fresh = copy.deepcopy(method.classifier)
    done = method.run(kit, archive.sources(Access.NONE, GONE), trainer_of)
    for k, parts in enumerate(
        zip(*(parts_of(net) for net in (kit.classifier, fresh, done)), strict=True)
    ):
        original, before, after = (state(part) for part in parts)
        same = [torch.equal(original[name], after[name]) for name in original]
        if k < keep:
            assert all(same)  # running statistics, too
        else:
            # what every network begins with: zeros, ones
            drawn = [n for n in original if before[n].dim() and before[n].std() > 0]
            assert drawn
            assert not any(torch.equal(original[n], before[n]) for n in drawn)
            assert not any(torch.equal(before[n], after[n]) for n in drawn)
    assert not torch.equal(done.head.weight, kit.classifier.head.weight)


def test_a_resnet_counts_its_stem(kit: Kit) -> None:
    network = NetworkSpec(
        "geniu_lightning.models.resnet.ResNet18", {"channels": 1, "num_classes": 5, "width": 2}
    ).build_classifier()
    parts = parts_of(network)
    assert len(parts) == 9
    assert parts[0] is network.stem
    assert len(parts_of(kit.classifier)) == 8


def test_more_parts_than_there_are_is_an_error(kit: Kit, archive: Any) -> None:
    with pytest.raises(UserError, match="keep is 9, and AllCNN has 8 parts"):
        prepared(kit, archive, keep=9)


def test_students_of_kits_of_two_training_seeds_differ(kit: Kit, archive: Any) -> None:
    first, _ = prepared(kit, archive)
    kit.info = dataclasses.replace(kit.info, seed=kit.info.seed + 1)
    second, _ = prepared(kit, archive)
    assert not torch.equal(first.classifier.head.weight, second.classifier.head.weight)


def shown(batches: list[UnlearnBatch]) -> set[bytes]:
    return {image.numpy().tobytes() for batch in batches for image in batch.images}


@pytest.mark.parametrize(("forgotten", "classes"), [(False, KEPT), (True, range(5))])
def test_the_stream_is_of_proxies_of_retained_classes(
    kit: Kit, archive: Any, forgotten: bool, classes: Any
) -> None:
    _, batches = prepared(kit, archive, forgotten_inputs=forgotten)
    proxies = kit.info.spec.normalise(kit.proxies(list(classes)).images)
    assert shown(batches) == {image.numpy().tobytes() for image in proxies}
    assert not archive.opened


def test_what_the_kit_holds_of_the_forgotten_classes_makes_no_difference(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    first = regrow().run(kit, archive.sources(Access.NONE, GONE), trainer_of)
    assert kit.prompts is not None
    kit.prompts[list(GONE)] = torch.randn_like(kit.prompts[list(GONE)])
    second = regrow().run(kit, archive.sources(Access.NONE, GONE), trainer_of)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize("agreement", [0.0, 0.8, 1.0])
def test_copies_are_bent_as_far_as_the_original_still_names_them(
    kit: Kit, archive: Any, agreement: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []

    def strength(
        warps: Warps, images: Tensor, named: Callable[[Tensor], Tensor], wanted: float, *_: Any
    ) -> float:
        assert wanted == agreement
        asked.append(images)
        answers = kit.classifier(kit.info.spec.normalise(kit.proxies(list(KEPT)).images))
        answers[:, list(GONE)] = -math.inf
        assert torch.equal(named(images), answers.argmax(dim=1))
        return 0.5

    monkeypatch.setattr("geniu_lightning.unlearning.regrow.readable_strength", strength)
    warps = Warps(rotate=20.0, elastic=0.1, mix=0.4)
    method, _ = prepared(kit, archive, agreement=agreement, warps=warps)
    method.prepare(kit, archive.sources(method.access, GONE))  # again, as for a second timing
    assert len(asked) == (2 if agreement else 0)
    assert isinstance(method.batches, Warped)
    share = 0.5 if agreement else 1.0
    assert method.batches.warps == Warps(rotate=20.0 * share, elastic=0.1 * share, mix=0.4)


def test_the_log_says_how_far_copies_are_bent(
    kit: Kit, archive: Any, trainer_of: TrainerOf, tmp_path: Path
) -> None:
    def trainer(steps: int) -> Trainer:
        made = trainer_of(steps)
        made.loggers = [CSVLogger(tmp_path)]
        return made

    method = regrow(agreement=1.0, warps=Warps(rotate=180.0, shift=0.5))
    method.run(kit, archive.sources(Access.NONE, GONE), trainer)
    (log,) = tmp_path.rglob("metrics.csv")
    with log.open() as lines:
        (said,) = (row for row in csv.DictReader(lines) if row["unlearn/bending"])
    assert (float(said["unlearn/bending"]), said["step"]) == (method.bending, "0")
    assert method.bending < 1


@pytest.mark.parametrize(("budget", "count"), [("proxies", 3 * 2), ("kit", 3 * 9)])
def test_real_images_are_as_many_as_the_budget_pays_for(
    kit: Kit, archive: Any, budget: Any, count: int
) -> None:
    method, batches = prepared(kit, archive, source="data", budget=budget)
    assert method.access is Access.RETAIN
    assert method.stored == (count if budget == "proxies" else sum(9 for _ in KEPT))
    assert len(archive.read) == count
    assert not set(archive.read) & set(GONE)
    assert len(shown(batches)) == count


def test_noise_is_fresh_in_every_step_and_needs_no_generator(kit: Kit, archive: Any) -> None:
    kit.generator = kit.prompts = None
    _, batches = prepared(kit, archive, source="noise", batch_size=30, warps=Warps(shift=0.5))
    images = torch.cat([batch.images for batch in batches])
    assert len(images.flatten(1).unique(dim=0)) == 20 * 30
    assert images.mean().abs() < 0.02
    assert images.std() == pytest.approx(1, abs=0.02)


def test_it_learns_the_retained_classes_and_never_names_the_forgotten_ones(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    warps = Warps(shift=0.05, mix=0.5, noise=0.1)
    method = regrow(
        warps=warps, steps=150, batch_size=32, optimizer=partial(torch.optim.Adam, lr=0.01)
    )
    student = method.run(kit, archive.sources(Access.NONE, GONE), trainer_of)
    named = student(archive.images).argmax(dim=1)
    gone = torch.isin(archive.labels, torch.tensor(GONE))
    assert not torch.isin(named, torch.tensor(GONE)).any()
    assert (named == archive.labels)[~gone].float().mean() > 0.9


def test_denials_need_a_record_of_training_and_say_so(kit: Kit, archive: Any) -> None:
    kit.info = dataclasses.replace(counted(kit).info, settings={})
    with pytest.raises(UserError, match=r"how it was trained.*unlearner.denials=null"):
        prepared(kit, archive, denials=0.4)
    prepared(kit, archive, denials=None)
    prepared(kit, archive, denials=0.4, masked=False)
    kit.info = dataclasses.replace(kit.info, class_counts=(0,) * 5)
    with pytest.raises(UserError, match=r"how many images.*unlearner.denials=null"):
        prepared(kit, archive, denials=0.4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"agreement": -0.1},
        {"agreement": 1.1},
        {"keep": -1},
        {"answers": "loud"},
        {"denials": 0.0},
        {"denials": 250},
        {"denials": math.nan},
        {"leave_out": -0.1},
        {"leave_out": 0.6},
        {"temperature": 0.0},
        {"tau": -0.1},
        {"batch_size": 1},
        {"batch_size": 4.5},
        {"keep": 1.5},
        {"proxies_per_class": 1.5},
        {"source": "data", "proxies_per_class": 1},
        {"masked": "no"},
        {"forgotten_inputs": "no"},
        {"tau": math.inf},
        {"temperature": math.inf},
        {"source": "images"},
        {"source": "noise", "forgotten_inputs": True},
    ],
)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    name = list(wrong)[-1]
    with pytest.raises(UserError, match=f"unlearner.{name}"):
        regrow(**wrong)


def test_priors_need_counts(kit: Kit, archive: Any) -> None:
    kit.info = dataclasses.replace(kit.info, class_counts=(5, 5, 0, 5, 5))
    prepared(kit, archive)
    with pytest.raises(UserError, match="how many images"):
        prepared(kit, archive, tau=1.0)
