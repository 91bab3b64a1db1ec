"""Relearning: a suppressed class comes back faster than one that was never there."""

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.fine_tuning import few_shot
from geniu_lightning.evaluation.attacks.relearning import Adaptive, KShot, OwnProxies, RetainOnly
from geniu_lightning.evaluation.context import Proxies
from geniu_lightning.evaluation.metric import Absent, Values
from geniu_lightning.kit.networks import state_digest
from tests.evaluation.attacks.taught import TEST, TRAIN, about

STEPS = (0, 1, 2, 5, 10)
FEW = {"draws": 2, "scored": 40, "steps": STEPS}


def test_a_suppressed_class_comes_back_and_a_masked_one_hides_from_gradients(
    models: dict[str, nn.Module],
) -> None:
    metric = KShot(shots=(10,), rate=3e-3, **FEW)
    found = {name: metric(about(models, name))["k10.area"] for name in models}
    oracles = max(found["oracle11"], found["oracle12"])
    assert found["original"] > 0.9
    assert found["original"] > oracles + 0.3
    assert found["suppressed"] > oracles + 0.1
    assert found["mask"] < 0.05  # hence the adaptive attack


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
    metric = OwnProxies(rate=3e-3, **FEW)
    found = {
        name: metric(about(models, name, **no_train))["area"] for name in ("suppressed", "oracle11")
    }
    assert found["suppressed"] > found["oracle11"] + 0.1
    assert isinstance(metric(about(models, "oracle11"))["area"], Absent)
    seen: list[Tensor] = []

    def watched(network: nn.Module, batches, steps, rate: float):
        seen.extend(next(batches)[1] for _ in range(3))
        yield from steps

    monkeypatch.setattr("geniu_lightning.evaluation.attacks.fine_tuning.fine_tune", watched)
    proxies = Proxies(TRAIN.read(torch.arange(300)), TRAIN.labels[:300])
    OwnProxies(draws=1, scored=40)(about(models, "mask", proxies=proxies))
    for labels in seen:
        assert int((labels == 0).sum()) == 60
        assert len(labels) == 120
    assert not torch.equal(seen[0], seen[1])  # the others are drawn anew in each step


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


def test_curves_are_means_over_draws_and_the_rate_is_varied_for_ten(
    models: dict[str, nn.Module],
) -> None:
    given, few = about(models, "suppressed"), {"scored": 40, "steps": STEPS}
    found = KShot(shots=(1, 10), draws=1, **few)(given)
    names = {name.removesuffix(".area") for name in found if name.endswith("area")}
    assert names == {"k1", "k10", "k10.slow", "k10.fast"}
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        alone = KShot(shots=(10,), draws=1, rate=rate, **few)(given)
        assert found[f"k10.{name}.curve"] == alone["k10.curve"], name
    assert found["k10.slow.area"] < found["k10.fast.area"]
    one = KShot(shots=(1,), draws=1, rate=3e-3, **few)
    single = [
        one.curves(given, lambda draw, only=only: few_shot(given, 1)(only)) for only in (0, 1)
    ]
    assert single[0] != single[1]
    both = KShot(shots=(1,), draws=2, rate=3e-3, **few)(given)
    for name, side in (("k1.curve", 0), ("k1.retain_curve", 1)):
        expected = [sum(pair) / 2 for pair in zip(*(curve[side] for curve in single), strict=True)]
        assert both[name] == pytest.approx(expected)
    two = KShot(shots=(1,), **FEW)(about(models, "mask", forget=(0, 3)))["k1.curve"]
    assert two[0] == pytest.approx(0.5, abs=0.05)  # one of the two was never masked
    assert KShot().curve_steps == [0, 1, 2, 5, 10, 20, 50]
