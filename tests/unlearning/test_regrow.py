"""Regrow: its loss, what the student takes from the original, and the copies it learns from."""

import copy
import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from scipy.special import softmax
from torch import Tensor

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import parts_of
from geniu_lightning.unlearning import regrow as module
from geniu_lightning.unlearning import warps
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.regrow import Regrow
from geniu_lightning.unlearning.warps import Warps
from tests.unlearning.helpers import GONE, KEPT, Lab, divergence, masked, trainer_of

COUNTS = (100, 40, 20, 10, 1)


def regrow(**settings: Any) -> Regrow:
    adam = partial(torch.optim.Adam, lr=3e-3)
    return Regrow(**{"forget": GONE, "warps": Warps(), "steps": 20, "optimizer": adam} | settings)


def counted(kit: Kit, **more: Any) -> Kit:
    kit.info = dataclasses.replace(kit.info, class_counts=COUNTS, archive=None, **more)
    return kit


def logits(network: Any, batch: UnlearnBatch) -> np.ndarray:
    return network(batch.images).detach().double().numpy()


def test_the_loss_is_the_documented_formula(lab: Lab) -> None:
    counted(lab.kit)
    for temperature, tau, answers in itertools.product((1.0, 3.0), (0.0, 0.7), ("soft", "hard")):
        method = regrow(temperature=temperature, tau=tau, answers=answers)
        (batch, *_) = lab.prepared(method)
        original = logits(lab.kit.classifier, batch) - tau * np.log(np.array(COUNTS) / sum(COUNTS))
        target = masked(original / temperature)
        if answers == "hard":
            target = np.eye(5)[target.argmax(axis=1)]
        now = logits(method.classifier, batch) / temperature
        expected = temperature**2 * divergence(target, now).mean()
        found = {k: v.item() for k, v in method.loss_terms(batch).items()}
        assert found == pytest.approx({"distill": expected}, rel=1e-4)


def test_what_an_earlier_request_removed_is_not_removed_again(lab: Lab) -> None:
    for before, left in ((0.0, 0.7), (0.5, 0.2), (1.0, 0.0)):
        method = regrow(tau=0.7)
        counted(lab.kit, prior_taken=before)
        lab.prepared(method)
        assert method.prior_taken == pytest.approx(left)
        expected = left * np.log(np.array(COUNTS) / sum(COUNTS))
        np.testing.assert_allclose(method.shift.numpy(), expected, rtol=1e-5)
    lab.kit.info = dataclasses.replace(lab.kit.info, class_counts=(5, 5, 0, 5, 5), prior_taken=0.0)
    lab.prepared(regrow())
    with pytest.raises(UserError, match="how many images"):
        lab.prepared(regrow(tau=1.0))


def test_the_copies_that_are_likeliest_the_forget_classes_are_not_taught(lab: Lab) -> None:
    noisy = Warps(noise=2.0)  # no two copies are equally like a class
    for share in (0.0, 0.3, 0.5):
        method = regrow(drop_fraction=share, batch_size=40, tau=0.7, warps=noisy)
        counted(lab.kit)
        (batch, *_) = lab.prepared(method)
        original = logits(lab.kit.classifier, batch)
        likeness = softmax(original, axis=1)[:, GONE].sum(axis=1)  # as it is, priors and all
        target = masked(original - method.shift.numpy())
        loss = divergence(target, logits(method.classifier, batch))
        labels = target.argmax(axis=1)
        dropped = 0
        for k in KEPT:
            likeliest = sorted(np.flatnonzero(labels == k), key=lambda place: -likeness[place])
            these = likeliest[: math.ceil(share * len(likeliest) - 0.5)]  # a half stays
            loss[these] = 0.0
            dropped += len(these)
        assert len(set(labels)) > 1
        assert (dropped > 0) == (share > 0)
        found = method.loss_terms(batch)["distill"].item()
        assert found == pytest.approx(loss.mean(), rel=1e-4)


def test_forget_logits_are_in_the_softmax_in_a_fraction_of_the_steps_of_retraining(
    lab: Lab,
) -> None:
    # without GONE 121 images: two batches an epoch, ten steps
    counted(lab.kit, settings={"training": {"epochs": 5, "batch_size": 100}})

    class Watched(Regrow):
        seen: list[Tensor]

        def on_train_batch_start(self, batch: UnlearnBatch, batch_idx: int) -> None:
            self.seen.append(self.classifier.head.weight.detach().clone())

    for fraction, steps in [
        *((0.2, {0, 3}), (0.4, {0, 2, 3, 5}), (1e-6, {0})),
        *((1.0, {*range(6)}), (None, {*range(6)})),
    ]:
        sgd = partial(torch.optim.SGD, lr=0.1)
        settings: Any = {"forget": GONE, "warps": Warps(), "steps": 6, "optimizer": sgd}
        method = Watched(forget_logit_fraction=fraction, **settings)
        method.seen = []
        result = lab.run(method)
        for step, (before, after) in enumerate(
            itertools.pairwise([*method.seen, result.head.weight])
        ):
            assert torch.equal(before[[*GONE]], after[[*GONE]]) == (step not in steps)
            assert not torch.equal(before[[*KEPT]], after[[*KEPT]])
    counted(lab.kit, settings={})
    lab.prepared(regrow(forget_logit_fraction=None))
    remedy = r"unlearner.forget_logit_fraction=null"
    with pytest.raises(UserError, match=rf"how it was trained.*{remedy}"):
        lab.prepared(regrow(forget_logit_fraction=0.4))
    lab.kit.info = dataclasses.replace(lab.kit.info, class_counts=(0,) * 5)
    with pytest.raises(UserError, match=rf"how many images.*{remedy}"):
        lab.prepared(regrow(forget_logit_fraction=0.4))


def test_kept_parts_stay_as_they_were_and_others_are_fresh(lab: Lab) -> None:
    for keep in (0, 3, 8):
        method = regrow(keep=keep, steps=8)
        lab.prepared(method)
        fresh = copy.deepcopy(method.classifier)
        done = lab.run(method)
        networks = zip(*(parts_of(net) for net in (lab.kit.classifier, fresh, done)), strict=True)
        for k, parts in enumerate(networks):
            original, before, after = (part.state_dict() for part in parts)
            if k < keep:  # running statistics, too
                assert all(torch.equal(original[name], after[name]) for name in original)
                continue
            # every network begins with the same zeros and ones
            drawn = [n for n in original if before[n].dim() and before[n].std() > 0]
            assert drawn
            assert not any(torch.equal(original[n], before[n]) for n in drawn)
            assert not any(torch.equal(before[n], after[n]) for n in drawn)
        assert not torch.equal(done.head.weight, lab.kit.classifier.head.weight)
    with pytest.raises(SettingError, match="keep is 9, and AllCNN has 8 parts"):
        lab.prepared(regrow(keep=9))


def test_students_differ_by_training_seed_and_earlier_requests(lab: Lab) -> None:
    weights = []
    for change in ({}, {}, {"seed": lab.kit.info.seed + 1}, {"forgotten": (1,)}):
        method = regrow()
        counted(lab.kit, **change)
        lab.prepared(method)
        weights.append(method.classifier.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])


def test_inputs_are_proxies_of_retained_classes_alone(lab: Lab) -> None:
    batches = lab.prepared(regrow())
    proxies = lab.kit.info.spec.normalise(lab.kit.proxies([*KEPT]).images)
    shown = {image.numpy().tobytes() for batch in batches for image in batch.images}
    assert shown == {image.numpy().tobytes() for image in proxies}
    assert not lab.opened
    first = lab.run(regrow(steps=5)).state_dict()
    lab.kit.prompts[[*GONE]] = torch.randn_like(lab.kit.prompts[[*GONE]])
    second = lab.run(regrow(steps=5)).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_warps_are_as_strong_as_the_original_reads_them_and_the_log_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked: list[float] = []

    def strength(given: Warps, images: Tensor, classify: Any, wanted: float, *_: Any) -> float:
        asked.append(wanted)
        answers = lab.kit.classifier(lab.kit.info.spec.normalise(lab.kit.proxies([*KEPT]).images))
        answers[:, list(GONE)] = -math.inf
        assert torch.equal(classify(images), answers.argmax(dim=1))
        return 0.5

    monkeypatch.setattr(module, "readable_strength", strength)
    strongest = Warps(rotate=20.0, elastic=0.1, mix=0.4)
    for agreement, factor in ((0.0, 1.0), (0.8, 0.5)):
        method = regrow(label_agreement=agreement, warps=strongest)
        lab.prepared(method)
        assert method.batches.warps == Warps(rotate=20.0 * factor, elastic=0.1 * factor, mix=0.4)
    assert asked == [0.8]
    monkeypatch.setattr(module, "readable_strength", warps.readable_strength)
    monkeypatch.setattr(warps, "PROBES", 64)
    method = regrow(label_agreement=1.0, warps=Warps(rotate=180.0, shift=0.5), steps=2)
    logger = CSVLogger(tmp_path)
    lab.run(method, partial(trainer_of, logger=logger))
    assert method.warp_strength < 1
    log = pd.read_csv(logger.experiment.metrics_file_path)
    assert log["unlearn/warp_strength"][0] == method.warp_strength


def test_old_names_and_removed_controls_are_refused_with_a_remedy() -> None:
    for old, sentence in {
        "leave_out": "leave_out is now drop_fraction",
        "denials": "denials is now forget_logit_fraction",
        "agreement": "agreement is now label_agreement",
        "masked": "masked was removed",
        "forgotten_inputs": "forgotten_inputs was removed",
        "budget": "budget was removed: use unlearner=coreset",
        "source": "source was removed",
        "warp": "warp is no setting of Regrow; did you mean warps",
    }.items():
        with pytest.raises(SettingError, match=sentence):
            regrow(**{old: 0.3})
    with pytest.raises(SettingError, match=r"drop_fraction must be less than or equal to 0\.5"):
        regrow(drop_fraction=0.6)
