"""Relearning: a suppressed class comes back faster than one that was never there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.fine_tuning import RATES, Batch, mixed
from geniu_lightning.evaluation.attacks.relearn_time import RelearnTime
from geniu_lightning.evaluation.attacks.relearning import Adaptive, KShot, OwnProxies, RetainOnly
from geniu_lightning.evaluation.context import Proxies
from geniu_lightning.evaluation.metric import Absent, Metric, Values
from geniu_lightning.kit.networks import state_digest
from tests.evaluation.attacks.taught import TEST, TRAIN, about
from tests.evaluation.worlds import context_of, measured, rigged

STEPS = (0, 1, 2, 5, 10)
FEW = {"draws": 2, "scored": 40, "steps": STEPS, "rates": [3e-3]}


def test_a_suppressed_class_comes_back_and_a_masked_one_hides_from_gradients(
    models: dict[str, nn.Module],
) -> None:
    sgd, head = {"optimizer": "sgd", "rates": [1e-2]}, {"head_alone": True, "rates": [1e-2]}
    for more in ({}, sgd, head):
        metric = KShot(shots=(10,), **FEW | more)
        found = {name: metric(about(models, name)) for name in models}
        area = {name: values["k10.area"] for name, values in found.items()}
        oracles = max(area["oracle11"], area["oracle12"])
        assert area["original"] > 0.9
        assert area["suppressed"] > oracles + 0.3
        assert area["mask"] < 0.05  # hence the adaptive attack
        assert found["oracle11"]["loss"] < 0.05  # and the network is whole


def test_the_adaptive_attack_finds_behind_the_mask_what_the_original_has(
    models: dict[str, nn.Module],
) -> None:
    found: dict[str, Values] = {
        name: Adaptive(**FEW)(about(models, name)) for name in models if name != "suppressed"
    }
    for value in ("net", "net_area"):
        mask, original = found["mask"][value], found["original"][value]
        assert mask > max(found["oracle11"][value], found["oracle12"][value]) + 0.1
        assert mask == pytest.approx(original, abs=0.1)
    assert found["mask"]["start"] == found["mask"]["curve"][0] > 0.9
    assert found["mask"]["start_retain"] == found["mask"]["retain_curve"][0]


def test_retained_images_alone_bring_nothing_back(models: dict[str, nn.Module]) -> None:
    for name, expected in (("oracle11", 0.0), ("mask", 0.0), ("original", 1.0)):
        values = RetainOnly(**FEW)(about(models, name))
        assert values["area"] == pytest.approx(expected, abs=0.05), name
        assert len(values["curve"]) == len(STEPS)


def test_own_proxies_replace_real_images_and_come_with_as_many_retained_ones(
    models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = Proxies(TRAIN.read(torch.arange(50)), TRAIN.labels[:50])
    no_train = {"splits": {"test": TEST}, "proxies": proxies}
    metric = OwnProxies(**FEW)
    found = {
        name: metric(about(models, name, **no_train))["area"] for name in ("suppressed", "oracle11")
    }
    assert found["suppressed"] > found["oracle11"] + 0.1
    assert isinstance(metric(about(models, "oracle11"))["area"], Absent)
    seen: list[Batch] = []

    def watched(network: nn.Module, batches: Iterator[Batch], steps: Any, *_: Any) -> Any:
        seen.extend(next(batches) for _ in range(3))
        yield from steps

    monkeypatch.setattr("geniu_lightning.evaluation.attacks.fine_tuning.fine_tune", watched)
    proxies = Proxies(TRAIN.read(torch.arange(300)), TRAIN.labels[:300])
    OwnProxies(draws=1, scored=40)(about(models, "mask", proxies=proxies))
    for batch in seen:
        assert int((batch.labels == 0).sum()) == 60
        assert len(batch.labels) == 60 + 32
        assert batch.weights[batch.labels == 0].sum().item() == pytest.approx(0.2)
    assert not torch.equal(seen[0].labels, seen[1].labels)  # the others are drawn in each step


def test_attacks_repeat_change_nothing_and_need_training_images(
    models: dict[str, nn.Module],
) -> None:
    given = about(models, "mask")
    for metric in (KShot(shots=(1,), **FEW), Adaptive(**FEW), RetainOnly(**FEW)):
        before, state = state_digest(models["mask"]), torch.get_rng_state()
        assert metric(given) == metric(given)
        assert state_digest(models["mask"]) == before
        assert torch.equal(torch.get_rng_state(), state)
        assert metric.images_processed(given) > 0
        for lacks in ({"splits": {}}, {"forget": ()}):  # the latter after training
            (absent,) = metric(about(models, "mask", **lacks)).values()
            assert isinstance(absent, Absent)
    with pytest.raises(SettingError, match="steps must ascend from 0"):
        KShot(steps=[1, 5])
    for rates in ([], [1e-3, 1e-2]):
        with pytest.raises(SettingError, match="rates must descend"):
            KShot(rates=rates)


def test_curves_are_means_over_draws(models: dict[str, nn.Module]) -> None:
    given = about(models, "suppressed")
    one = KShot(shots=(1,), **FEW | {"draws": 1})
    single = [
        one.curves(given, lambda draw, only=only: mixed(given, one, 1)(only)) for only in (0, 1)
    ]
    assert single[0] != single[1]
    both = KShot(shots=(1,), **FEW)(given)
    for name, side in (("k1.curve", 0), ("k1.retain_curve", 1)):
        expected = [sum(pair) / 2 for pair in zip(*(curve[side] for curve in single), strict=True)]
        assert both[name] == pytest.approx(expected)
    two = KShot(shots=(1,), **FEW)(about(models, "mask", forget=(0, 3)))["k1.curve"]
    assert two[0] == pytest.approx(0.5, abs=0.05)  # one of the two was never masked
    found = RetainOnly(**FEW)(given)
    assert found["change"] == found["curve"][-1] - found["curve"][-2]
    assert found["peak"] == max(found["curve"])


def test_an_attack_has_a_ladder_of_rates_and_says_what_it_broke() -> None:
    """The largest loss of A_r at any step of any curve, oracles' mean: at most 0.05."""
    for optimizer in ("adam", "sgd"):
        rungs = KShot(optimizer=optimizer).variants
        assert [(rung.rates, rung.optimizer) for rung in rungs] == [
            ([rate], optimizer) for rate in RATES[optimizer]
        ]
    attack = KShot(rates=[0.1], steps=[0, 1, 2])
    values = attack.values(
        {"k1.": ([0.0] * 3, [0.9, 0.5, 0.8]), "k10.": ([0.0] * 3, [0.9, 0.9, 0.6])}
    )
    assert (values["loss"], values["rate"]) == (pytest.approx(0.4), 0.1)
    for losses, expected in (([0.0, 0.09], False), ([0.0, 0.11], True), ([], False)):
        assert attack.too_strong([{"loss": loss} for loss in losses]) is expected
    assert not attack.too_strong([{"area": Absent("no images")}])
    assert KShot(steps=[0, 7]).curve_steps == [0, 7]


@pytest.mark.parametrize("there", ["test", "train"])
@pytest.mark.parametrize("attack", [KShot(), RetainOnly(), Adaptive(), RelearnTime()])
def test_what_cannot_be_attacked_says_which_images_are_missing(attack: Metric, there: str) -> None:
    lacking = {"test": "train", "train": "test"}[there]
    found = measured(attack, context_of(rigged()["mask"], splits=(there,)))
    assert set(found.values()) == {Absent(f"the run has no {lacking} images")}
