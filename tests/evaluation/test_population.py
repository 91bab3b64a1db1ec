"""Populations of models: null data, a transcription, and what masks and memories show."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logit, softmax

from geniu_lightning.evaluation import population
from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.population import INFOS, evaluate_population
from tests.evaluation.worlds import outputs

Models = list[dict[str, Outputs]]
PLACES = [f"{split}_{part}" for split in ("test", "train") for part in ("forget", "retain")]
NO_SIDES = Absent("no such class has both training and test images")
ATTACKS = {
    f"{attack}{form}.{value}"
    for form in ("", "_retained")
    for attack, values in (("u_lira", ("auc", "tpr", "accuracy")), ("rmia", ("auc", "tpr")))
    for value in values
}


def models(
    count: int, seed: int, change: Callable[[Outputs, str], None] = lambda out, split: None
) -> Models:
    """Return random models of four classes, changed by a function."""
    found = []
    for k in range(count):
        model = {}
        for split, counts in (("test", (200, 30, 20, 20)), ("train", (50, 40, 20, 20))):
            labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
            stream = torch.Generator().manual_seed(seed + 10 * k + (split == "train"))
            out = outputs(torch.randn(len(labels), 4, generator=stream), labels)
            change(out, split)
            model[split] = out
        found.append(model)
    return found


ORACLES = models(16, 10**6)
SAME = models(17, 0)


def margins_of(given: Outputs) -> Any:
    rows = np.arange(len(given.labels))
    return logit(softmax(given.logits.double().numpy(), axis=1)[rows, given.labels.numpy()])


def test_equal_laws_are_at_chance_and_at_their_floor() -> None:
    before = [model["train"].logits.clone() for model in SAME]
    found = evaluate_population(SAME, ORACLES, (0,))
    klom = {f"klom_gaussian.{place}" for place in PLACES}
    assert found.keys() == ATTACKS | {
        f"{place}.{value}" for place in klom for value in ("mean", "p95", "floor", "floor_p95")
    }
    for name in ("u_lira", "u_lira_retained", "rmia", "rmia_retained"):
        assert found[f"{name}.auc"] == pytest.approx(0.5, abs=0.06), name
    for place in klom:
        assert found[f"{place}.mean"] == pytest.approx(found[f"{place}.floor"], rel=0.4), place
    json.dumps(found, allow_nan=False)
    assert {name.rpartition(".")[2] for name in found} == set(INFOS)
    assert INFOS["auc"] == MetricInfo("oracle", 0.5, 0.02)
    assert INFOS["tpr"] == MetricInfo("lower", 0.01)
    assert all(torch.equal(m["train"].logits, b) for m, b in zip(SAME, before, strict=True))
    # 96 against 16 models, all at once, would be a third as far apart as 8 against 8
    many = evaluate_population(models(96, 0), ORACLES, (0,))
    for place in klom:
        assert many[f"{place}.mean"] == pytest.approx(many[f"{place}.floor"], rel=0.4), place


def test_divergences_match_a_transcription() -> None:
    for place, forget in (("test_forget", (0, 2)), ("train_retain", (1,))):
        split, part = place.split("_")
        classes = forget if part == "forget" else tuple(k for k in range(4) if k not in forget)
        (first, second), (one, other) = (
            [np.stack([margins_of(m[split]) for m in side[start::2][:8]]) for start in (0, 1)]
            for side in (SAME, ORACLES)
        )
        labels = SAME[0][split].labels.numpy()

        def summary(
            pairs: list[tuple[Any, Any]],
            labels: Any = labels,
            classes: tuple[int, ...] = classes,
        ) -> tuple[Any, Any]:
            means, tails = [], []
            for ours, theirs in pairs:
                v, w = ours.var(axis=0, ddof=1), theirs.var(axis=0, ddof=1)
                apart = (ours.mean(axis=0) - theirs.mean(axis=0)) ** 2
                each = np.log(w / v) / 2 + (v + apart) / (2 * w) - 0.5
                means += [each[labels == k].mean() for k in classes]
                tails += [np.percentile(each[labels == k], 95) for k in classes]
            return np.mean(means), np.mean(tails)

        mean, tail = summary([(a, b) for a in (first, second) for b in (one, other)])
        floor, floor_tail = summary([(one, other), (other, one)])
        found = evaluate_population(SAME, ORACLES, forget)
        expected = {"mean": mean, "p95": tail, "floor": floor, "floor_p95": floor_tail}
        for name, value in expected.items():
            assert found[f"klom_gaussian.{place}.{name}"] == pytest.approx(value, rel=1e-4), name


def test_memories_masks_and_neighbours_show_where_they_are() -> None:
    def remember(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 0] += 4.0 * (split == "train")

    def mask(out: Outputs, split: str) -> None:
        out.logits[:, 0] = -1e4

    def neighbour(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 3] += 5.0

    def remembered_neighbour(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 2] += 6.0  # the model's own largest one
        out.logits[out.labels == 0, 3] += 4.0 * (split == "train")

    found = evaluate_population(models(16, 0, remember), ORACLES, (0,))
    assert found["u_lira.auc"] > 0.95
    assert found["u_lira.accuracy"] > 0.9
    assert found["u_lira.tpr"] > 0.5
    assert found["rmia.auc"] > 0.9
    assert abs(found["u_lira_retained.auc"] - 0.5) < 0.05  # the other logits are as they were
    assert found["klom_gaussian.train_forget.mean"] > 5 * found["klom_gaussian.train_forget.floor"]
    assert (
        found["klom_gaussian.train_retain.mean"] < 1.5 * found["klom_gaussian.train_retain.floor"]
    )
    found = evaluate_population(models(16, 0, mask), ORACLES, (0,))
    assert found["u_lira.auc"] == 1.0
    assert abs(found["u_lira_retained.auc"] - 0.5) < 0.05
    assert abs(found["rmia_retained.auc"] - 0.5) < 0.05
    # the label of RMIA is the oracles' largest retained class
    oracles = models(16, 10**6, neighbour)
    found = evaluate_population(models(16, 0, remembered_neighbour), oracles, (0,))
    assert found["rmia_retained.auc"] > 0.8


def test_classes_count_alike() -> None:
    def remember(out: Outputs, split: str) -> None:
        out.logits[out.labels == 1, 1] += 200.0 * (split == "train")

    changed = models(16, 0, remember)
    both, zero, one = (evaluate_population(changed, ORACLES, f) for f in ((0, 1), (0,), (1,)))
    for name in ("u_lira.auc", "rmia.auc", "klom_gaussian.train_forget.mean"):
        assert both[name] == pytest.approx((zero[name] + one[name]) / 2), name
    assert one["u_lira.auc"] == 1.0
    assert isinstance(both["rmia.tpr"], Absent)  # class 1 has too few unseen images for a rate
    assert isinstance(zero["rmia.tpr"], float)


def test_a_value_that_cannot_be_computed_is_absent_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = evaluate_population(SAME, ORACLES, (0,)).keys()
    for ours, theirs, kind, count in ((15, 16, "unlearned", 15), (17, 3, "retrained", 3)):
        found = evaluate_population(SAME[:ours], ORACLES[:theirs], (0,))
        assert set(found.values()) == {
            Absent(f"at least 16 {kind} models are needed, there are {count}")
        }
        assert found.keys() == names

    def only(of: Callable[[str], tuple[int, ...]]) -> list[Models]:
        return [
            [{s: out.of(of(s)) for s, out in model.items()} for model in side]
            for side in (SAME, ORACLES)
        ]

    unseen = only(lambda split: (1, 2, 3) if split == "test" else (0, 1, 2, 3))
    found = evaluate_population(*unseen, (0,))
    assert found["rmia.auc"] == NO_SIDES
    assert isinstance(found["u_lira.auc"], float)
    assert found["klom_gaussian.test_forget.mean"] == Absent("there are no images of such classes")
    nothing = evaluate_population(*only(lambda split: (1, 2, 3)), (0,))
    assert {nothing[name] for name in ATTACKS} == {NO_SIDES}
    one = evaluate_population(*only(lambda split: (0, 2, 3)), (0, 1))
    assert isinstance(one["u_lira.auc"], float)  # of two forgotten classes one has images
    after_training = evaluate_population(SAME, ORACLES, ())
    assert all(isinstance(after_training[name], Absent) for name in ATTACKS)
    single = evaluate_population(SAME, ORACLES, (0, 1, 2))  # one retained class
    assert isinstance(single["u_lira_retained.auc"], Absent)
    assert isinstance(single["u_lira.auc"], float)
    other = [dict(model) for model in SAME]
    other[3]["test"] = outputs(other[3]["test"].logits, other[3]["test"].labels.flip(0))
    with pytest.raises(ValueError, match="same test images"):
        evaluate_population(other, ORACLES, (0,))
    for fewest, family in ((8, "klom"), (9, "klom_gaussian")):  # halves have eight models
        monkeypatch.setattr(population, "FEWEST_FOR_HISTOGRAM", fewest)
        found = evaluate_population(SAME, ORACLES, (0,))
        assert {name.split(".")[0] for name in found if "klom" in name} == {family}
