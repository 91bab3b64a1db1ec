"""The evaluator: compares with oracles and controls, caches, and lets no metric change a model."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from geniu_lightning.evaluation import cache as cache_module
from geniu_lightning.evaluation.context import Context, Proxies
from geniu_lightning.evaluation.evaluator import Evaluation, Evaluator, masked
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.configs import CONF, built, plain
from tests.evaluation.clouds import Small
from tests.evaluation.test_context import Counted, context
from tests.evaluation.worlds import context_of, proxies_like, rigged


def about(*oracles: nn.Module, **more: Any) -> Context:
    splits = {"test": Counted(40).split, "train": Counted(40).split}
    return context(splits, (1,), oracles=oracles, **more)


class Given(Metric):
    """Returns what it was given, after an act."""

    infos: ClassVar = {"a": MetricInfo("oracle"), "b": MetricInfo("lower", 0.25)}

    def __init__(self, values: Values, act: Callable[[Context], object] = lambda _: None) -> None:
        self.given, self.act = values, act

    def __call__(self, context: Context) -> Values:
        self.act(context)
        return self.given


class GivenOriginal(Given):
    needs: ClassVar = frozenset({"original"})


class Bias(Metric):
    """Returns the first bias of the head, and counts its calls."""

    infos: ClassVar = {"value": MetricInfo("oracle"), "excess": MetricInfo("oracle")}
    calls = 0

    def __call__(self, context: Context) -> Values:
        type(self).calls += 1
        return {"value": float(context.unlearned.head.bias[0])}

    def compared(self, own: Values, oracles: Sequence[Values]) -> Values:
        others = [row["value"] for row in oracles]
        assert own["value"] not in others  # a model is not compared with itself
        return {"excess": own["value"] - sum(others)} if others else {}

    def images_processed(self, context: Context) -> int:
        return 7


class Oracles(Bias):
    needs: ClassVar = frozenset({"oracles"})

    def __call__(self, context: Context) -> Values:
        return super().__call__(context) | {"value": float(len(context.oracles))}

    def compared(self, own: Values, oracles: Sequence[Values]) -> Values:
        return {}


class OfProxies(Bias):
    subject = "proxies"


def biased(value: float) -> Small:
    network = Small(3)
    network.head.bias[0] = value
    return network


def test_values_are_nested_by_name_with_direction_and_ideal() -> None:
    metrics = {"x": Given({"test.a": 0.5, "test.b": 1}), "y": Given({"deep.er.b": [0.1, None]})}
    rest = dict.fromkeys(("oracle_mean", "oracle_std", "z", "original", "position"))
    tree = Evaluator(metrics).evaluate(about()).metrics
    half = {"value": 0.5, "direction": "oracle", "ideal": None} | rest
    one = {"value": 1.0, "direction": "lower", "ideal": 0.25} | rest
    listed = {"value": [0.1, None], "direction": "lower", "ideal": 0.25} | rest
    assert tree == {"x": {"test": {"a": half, "b": one}}, "y": {"deep": {"er": {"b": listed}}}}
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert Evaluator({}).evaluate(about()).metrics == {}


def test_a_value_that_is_not_finite_is_absent_with_its_reason() -> None:
    for value in (float("nan"), float("inf"), [0.0, float("nan")]):
        (found,) = Evaluator({"x": Given({"a": value})}).evaluate(about()).values.values()
        assert isinstance(found, Absent)
    found = Evaluator({"x": Given({"a": Absent("no oracles"), "b": 0.0})}).evaluate(about()).metrics
    assert found["x"]["a"] == {"absent": "no oracles"}
    assert found["x"]["b"]["value"] == 0.0


def test_a_model_is_compared_with_oracles_and_each_of_them_with_the_others() -> None:
    given = about(biased(1.0), biased(2.0), biased(6.0), original=biased(12.0))
    found = Evaluator({"x": Bias(), "y": Oracles()}).evaluate(given.evaluating(biased(9.0)))
    assert found.of_oracles("x.value") == [1.0, 2.0, 6.0]
    assert found.of_oracles("x.excess") == [1 - 8, 2 - 7, 6 - 3]
    assert found.of_oracles("y.value") == [2.0, 2.0, 2.0]
    assert found.values["y.value"] == 3.0
    assert found.controls.keys() == {"original", "mask"}
    leaf, deviation = found.metrics["x"]["value"], 7**0.5  # of 1, 2 and 6 with divisor 2
    assert leaf["oracle_mean"] == 3.0
    assert leaf["oracle_std"] == pytest.approx(deviation)
    assert leaf["z"] == pytest.approx((9 - 3) / (deviation * (4 / 3) ** 0.5))
    assert leaf["original"] == 12.0
    assert leaf["position"] == pytest.approx((9 - 3) / (12 - 3))
    assert Evaluator({"x": Bias()}).evaluate(about()).controls == {}  # nothing to compare with
    partly = Evaluation({"x.a": 1.0}, [{"x.a": 2.0}, {"x.a": Absent("none")}])
    assert partly.of_oracles("x.a") == []


def test_values_are_measured_once(tmp_path: Path) -> None:
    metrics = {"x": Bias(), "y": Oracles()}
    given = about(biased(1.0), biased(2.0), original=biased(5.0))
    evaluator = Evaluator(metrics, cache_module.FileCache(tmp_path))
    Bias.calls = Oracles.calls = 0
    first = evaluator.evaluate(given)
    assert (Bias.calls, Oracles.calls) == (5, 5)  # the model, two controls and two oracles
    assert evaluator.images_left(given) == 0
    assert Evaluator(metrics).images_left(given) == 10 * 7
    assert evaluator.evaluate(given).metrics == first.metrics
    assert (Bias.calls, Oracles.calls) == (5, 5)
    # another oracle changes what depends on oracles, and nothing else
    evaluator.evaluate(about(biased(1.0), biased(3.0), original=biased(5.0)))
    assert (Bias.calls, Oracles.calls) == (6, 10)


def test_values_of_proxies_are_measured_once_and_have_no_oracles() -> None:
    evaluator = Evaluator({"x": OfProxies(), "y": Bias()})
    given = about(biased(1.0), biased(2.0), original=biased(5.0))
    Bias.calls = OfProxies.calls = 0
    assert evaluator.images_left(given) == 7 + 5 * 7
    found = evaluator.evaluate(given)
    assert (Bias.calls, OfProxies.calls) == (5, 1)
    assert found.of_oracles("x.value") == []
    leaf = found.metrics["x"]["value"]
    assert [leaf["oracle_mean"], leaf["z"], leaf["original"]] == [None, None, None]


class Scaled(Metric):
    """Looks at original and proxies, and has a setting."""

    needs: ClassVar = frozenset({"original", "proxies"})
    infos: ClassVar = {"value": MetricInfo("oracle")}

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, context: Context) -> Values:
        return {"value": self.factor}


def test_a_cached_value_is_used_only_where_all_that_it_follows_from_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def proxies(value: float) -> Proxies:
        return Proxies(torch.full((2, 6), value), torch.arange(2))

    def keys(metric: Metric, **changes: object) -> str:
        given = replace(about(biased(1.0), biased(2.0)), proxies=proxies(0.0))
        return cache_module.key_of(replace(given, **changes), "x", metric)

    first = keys(Scaled())
    assert keys(Scaled(), unlearned=Small(1), oracles=()) == first  # no oracle is needed
    found = {first, keys(Scaled(2.0))}
    changes = (
        {"original": biased(3.0)},
        {"unlearned": biased(3.0)},
        {"proxies": proxies(1.0)},
        {"proxies": Proxies(proxies(0.0).images, torch.tensor([1, 0]))},
        {"proxies": None},
        {"seed": 1},
        {"forget": (2,)},
        {"class_counts": (9, 9, 9, 8)},
        {"splits": {"test": Counted(40).split}},
        {"splits": {"test": Counted(40).split, "train": Counted(41).split}},
    )
    found |= {keys(Scaled(), **change) for change in changes}
    monkeypatch.setattr(cache_module, "code_of", lambda metric: "another version")
    found.add(keys(Scaled()))
    assert len(found) == len(changes) + 3


def test_a_metric_that_changes_a_model_is_named_and_stops_the_evaluation() -> None:
    changes: tuple[Callable[[Context], object], ...] = (
        lambda c: next(c.unlearned.parameters()).data[0, 0].add_(1e-6),
        lambda c: (c.unlearned.train()(torch.randn(8, 8)), c.unlearned.eval()),  # batch statistics
        lambda c: c.unlearned.train(),
        lambda c: c.unlearned.requires_grad_(True),
        lambda c: next(c.original.parameters()).data[0, 0].add_(1e-6),
    )
    for change in changes:
        later: list[str] = []
        metrics = {
            "honest": Given({"a": 1.0}),
            "sly": GivenOriginal({"a": 1.0}, change),
            "later": Given({"a": 1.0}, lambda context, later=later: later.append("ran")),
        }
        with pytest.raises(RuntimeError, match="metric sly changed a model"):
            Evaluator(metrics).evaluate(about())
        assert later == []
    relearn = Given({"a": 1.0}, lambda c: c.copy_of(c.unlearned).train()(torch.randn(8, 8)))
    Evaluator({"copying": relearn}).evaluate(about())


def test_the_mask_is_the_original_with_sunk_biases() -> None:
    original = Small(0)
    before = state_digest(original)
    mask = masked(original, (1, 3))
    assert state_digest(original) == before
    assert mask.head.bias[[1, 3]].tolist() == [-1e4, -1e4]
    mask.head.bias[[1, 3]] = original.head.bias[[1, 3]]
    assert state_digest(mask) == before


def test_every_shipped_metric_keeps_the_rules() -> None:
    """Names, infos and settings fit JSON; nothing is drawn globally; twice is the same."""
    from omegaconf import OmegaConf

    targets: dict[str, Any] = {}
    for name in ("fast", "verdict", "full"):
        targets |= plain(OmegaConf.load(CONF / "evaluation" / f"{name}.yaml"))["metrics"]
    few = {"steps": [0, 1, 2], "draws": 1, "scored": 10}
    short: dict[str, Any] = {
        **dict.fromkeys(("relearning", "relearning_sgd", "relearning_head"), few),
        **dict.fromkeys(("retain_only", "adaptive", "own_proxies"), few),
        "relearn_time": {"budget": 2, "draws": 1, "scored": 10},
        "knowledge": {"steps": 2},
    }
    metrics = {k: built(v | short.get(k, {}), k, _convert_="all") for k, v in targets.items()}
    assert len(metrics) == 25
    uniform = rigged()["uniform"]
    contexts = [
        context_of(
            rigged()["memoriser"],
            rigged()["oracle"],
            proxies=proxies_like(torch.arange(10).repeat(2)),
            fresh=lambda seed: copy.deepcopy(uniform),
        )
        for _ in range(2)
    ]
    state, noise = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = Evaluator(metrics).evaluate(contexts[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == noise).all()
    torch.manual_seed(5)
    again = Evaluator(metrics).evaluate(contexts[1])
    torch.set_rng_state(state)
    assert again.metrics == first.metrics
    tree = json.loads(json.dumps(first.metrics, allow_nan=False))
    assert tree.keys() == metrics.keys() - {"layers"}  # rigged networks have no parts
    assert first.infos.keys() >= first.values.keys()
    assert all(json.dumps(vars(metric)) for metric in metrics.values())
    assert first.steps["relearning_sgd"] == [0, 1, 2]
    assert sum(metric.images_processed(contexts[0]) for metric in metrics.values()) > 0
    assert first.confusions["after"].sum() == 1000
    assert first.accuracies["before"] == [1.0] * 10
    readings = (
        ("accuracy.test.forget", MetricInfo("oracle", 0.0)),
        ("accuracy.generalisation.retain", MetricInfo("oracle", None)),
        ("divergence.test_forget.js", MetricInfo("oracle", None, 0.005)),
        ("scores.tow", MetricInfo("higher", 1.0)),
        ("membership.loss.auc", MetricInfo("oracle", 0.5, 0.02)),
        ("membership.confidence.tpr", MetricInfo("lower", 0.01)),
        ("membership.retained_control.leak", MetricInfo("oracle", None, 0.02)),
        ("retained_attack.distance", MetricInfo("oracle", None, 0.02)),
        ("head.bias_anomaly", MetricInfo("oracle", None, 0.1)),
        ("relearning.k10.area", MetricInfo("oracle", None, 0.02)),
        ("adaptive.net", MetricInfo("oracle", None, 0.02)),
        ("relearn_time.ain", MetricInfo("oracle", 1.0, 0.5)),
        ("copying.pixel.forget.nearer", MetricInfo("lower", 0.5)),
    )
    for name, info in readings:
        assert first.infos[name] == info, name


def test_accuracy_is_written_with_its_oracles_and_its_position() -> None:
    found = Evaluator({"accuracy": Accuracy()}).evaluate(context_of(rigged()["memoriser"]))
    accuracy = found.metrics["accuracy"]
    assert accuracy["test"]["forget"]["value"] == 0.0
    assert accuracy["train"]["forget"]["position"] == 1.0  # the original's
    assert accuracy["test"]["per_class"]["oracle_mean"] == [0.0, *[1.0] * 9]
