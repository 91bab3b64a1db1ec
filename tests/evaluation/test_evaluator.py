"""The battery: reads, sets oracles beside, remembers, and lets no metric change a model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from geniu_lightning.evaluation import cache as memory_module
from geniu_lightning.evaluation.context import Context, Proxies
from geniu_lightning.evaluation.evaluator import Findings, fingerprint, missing_work, run, tree_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Value, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from tests.evaluation.test_context import Counted, Small, context


def about(*oracles: nn.Module) -> Context:
    splits = {"test": Counted(40).split, "train": Counted(40).split}
    return context(splits, (1,), oracles=oracles)


class Given(Metric):
    """Returns what it was given, and may do something on the way."""

    readings: ClassVar = {"a": MetricInfo("oracle"), "b": MetricInfo("lower", 0.25)}

    def __init__(
        self, values: Values, act: Callable[[Context], object] = lambda context: None
    ) -> None:
        self.given, self.act = values, act

    def __call__(self, context: Context) -> Values:
        self.act(context)
        return self.given


class Bias(Metric):
    """Returns the first bias of the head, and counts how often it was asked."""

    readings: ClassVar = {"value": MetricInfo("oracle"), "excess": MetricInfo("oracle")}
    asked = 0

    def __call__(self, context: Context) -> Values:
        type(self).asked += 1
        return {"value": float(context.unlearned.head.bias[0])}

    def conclude(self, own: Values, oracles: Sequence[Values]) -> Values:
        others = [row["value"] for row in oracles]
        assert own["value"] not in others  # a model is not its own yardstick
        return {"excess": own["value"] - sum(others)} if others else {}

    def work(self, context: Context) -> int:
        return 7


class Oracles(Bias):
    needs: ClassVar = frozenset({"oracles"})

    def __call__(self, context: Context) -> Values:
        return super().__call__(context) | {"value": float(len(context.oracles))}

    def conclude(self, own: Values, oracles: Sequence[Values]) -> Values:
        return {}


class Remembering:
    def __init__(self) -> None:
        self.kept: dict[str, Values] = {}

    def recall(self, key: str) -> Values | None:
        return self.kept.get(key)

    def keep(self, key: str, values: Values) -> None:
        self.kept[key] = values


def biased(value: float) -> Small:
    network = Small(3)
    network.head.bias[0] = value
    return network


def test_names_are_nested_and_each_value_says_how_it_is_read() -> None:
    metrics = {"x": Given({"test.a": 0.5, "test.b": 1}), "y": Given({"deep.er.b": [0.1, None]})}
    rest = dict.fromkeys(("oracle_mean", "oracle_std", "z", "original", "position"))
    tree = tree_of(run(about(), metrics))
    assert tree == {
        "x": {
            "test": {
                "a": {"value": 0.5, "direction": "oracle", "ideal": None} | rest,
                "b": {"value": 1.0, "direction": "lower", "ideal": 0.25} | rest,
            }
        },
        "y": {
            "deep": {
                "er": {"b": {"value": [0.1, None], "direction": "lower", "ideal": 0.25} | rest}
            }
        },
    }
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.0, float("nan")]])
def test_what_is_no_number_is_absent_and_never_written(value: Value) -> None:
    (found,) = run(about(), {"x": Given({"a": value})}).unlearned.values()
    assert isinstance(found, Absent)


def test_what_cannot_be_computed_is_written_with_its_reason_alone() -> None:
    found = tree_of(run(about(), {"x": Given({"a": Absent("no oracles"), "b": 0.0})}))
    assert found["x"]["a"] == {"absent": "no oracles"}
    assert found["x"]["b"]["value"] == 0.0  # a zero is a value


def test_oracles_are_judged_by_the_others_and_stand_beside_the_value() -> None:
    oracles = [biased(1.0), biased(2.0), biased(6.0)]
    given = about(*oracles).judging(biased(9.0))
    found = run(given, {"x": Bias(), "y": Oracles()}, {"original": biased(12.0)})
    assert found.of_oracles("x.value") == [1.0, 2.0, 6.0]
    assert found.of_oracles("x.excess") == [1 - 8, 2 - 7, 6 - 3]
    assert found.of_oracles("y.value") == [2.0, 2.0, 2.0]
    assert found.unlearned["y.value"] == 3.0
    entry = tree_of(found)["x"]["value"]
    deviation = 7**0.5  # of 1, 2 and 6 with divisor 2
    assert entry["oracle_mean"] == 3.0
    assert entry["oracle_std"] == pytest.approx(deviation)
    assert entry["z"] == pytest.approx((9 - 3) / (deviation * (4 / 3) ** 0.5))
    assert entry["original"] == 12.0
    assert entry["position"] == pytest.approx((9 - 3) / (12 - 3))


def test_a_name_that_one_oracle_lacks_has_no_yardstick() -> None:
    found = Findings({"x.a": 1.0}, [{"x.a": 2.0}, {"x.a": Absent("none")}], {}, {})
    assert found.of_oracles("x.a") == []


def test_controls_are_looked_at_only_where_there_are_oracles() -> None:
    assert run(about(), {"x": Bias()}, {"original": Small(0)}).controls == {}


def test_nothing_is_measured_twice() -> None:
    memory, metrics = Remembering(), {"x": Bias(), "y": Oracles()}
    given = about(biased(1.0), biased(2.0))
    controls = {"original": biased(5.0)}
    Bias.asked = Oracles.asked = 0
    first = run(given, metrics, controls, memory)
    assert (Bias.asked, Oracles.asked) == (4, 4)
    assert missing_work(given, metrics, controls, memory) == 0
    assert missing_work(given, metrics, controls, None) == 8 * 7
    assert run(given, metrics, controls, memory) == first
    assert (Bias.asked, Oracles.asked) == (4, 4)
    # another oracle changes what depends on oracles, and nothing else
    run(about(biased(1.0), biased(3.0)), metrics, controls, memory)
    assert (Bias.asked, Oracles.asked) == (5, 8)


class OfProxies(Bias):
    about = "proxies"


def test_what_is_about_proxies_is_measured_once_and_has_no_oracles() -> None:
    metrics = {"x": OfProxies(), "y": Bias()}
    given = about(biased(1.0), biased(2.0))
    Bias.asked = OfProxies.asked = 0
    assert missing_work(given, metrics, {"original": biased(5.0)}, None) == 7 + 4 * 7
    found = run(given, metrics, {"original": biased(5.0)})
    assert (Bias.asked, OfProxies.asked) == (4, 1)
    assert found.of_oracles("x.value") == []
    entry = tree_of(found)["x"]["value"]
    assert [entry["oracle_mean"], entry["z"], entry["original"]] == [None, None, None]


class Scaled(Metric):
    """Looks at all that it may, and has a setting."""

    needs: ClassVar = frozenset({"original", "proxies"})
    readings: ClassVar = {"value": MetricInfo("oracle")}

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, context: Context) -> Values:
        return {"value": self.factor}


def proxies(value: float) -> Proxies:
    return Proxies(torch.full((2, 6), value), torch.arange(2))


def test_what_was_remembered_is_used_only_where_everything_it_follows_from_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Remembering()

    def keys_after(metric: Metric, **changes: object) -> int:
        given = replace(about(biased(1.0), biased(2.0)), proxies=proxies(0.0))
        run(replace(given, **changes), {"x": metric}, None, memory)
        return len(memory.kept)

    count = keys_after(Scaled())
    assert count == 3
    assert keys_after(Scaled()) == count
    changes = (
        {"original": biased(3.0)},
        {"proxies": proxies(1.0)},
        {"proxies": Proxies(proxies(0.0).images, torch.tensor([1, 0]))},
        {"proxies": None},
        {"seed": 1},
        {"forget": (2,)},
        {"class_counts": (9, 9, 9, 8)},
        {"splits": {"test": Counted(40).split}},
        {"splits": {"test": Counted(40).split, "train": Counted(41).split}},
    )
    for change in changes:
        count += 3
        assert keys_after(Scaled(), **change) == count, change
    assert keys_after(Scaled(2.0)) == count + 3
    monkeypatch.setattr(memory_module, "code_of", lambda metric: "another version")
    assert keys_after(Scaled()) == count + 6


def nudge_parameter(context: Context) -> None:
    next(context.unlearned.parameters()).data[0, 0] += 1e-6


def train_mode_batch(context: Context) -> None:
    context.unlearned.train()(torch.randn(8, 6))
    context.unlearned.eval()


def leave_in_train_mode(context: Context) -> None:
    context.unlearned.train()


@pytest.mark.parametrize("change", [nudge_parameter, train_mode_batch, leave_in_train_mode])
def test_a_metric_that_changes_a_model_is_named_and_stops_the_battery(
    change: Callable[[Context], object],
) -> None:
    after: list[str] = []
    metrics = {
        "honest": Given({"a": 1.0}),
        "sly": Given({"a": 1.0}, change),
        "later": Given({"a": 1.0}, lambda context: after.append("ran")),
    }
    with pytest.raises(RuntimeError, match="metric sly changed a model"):
        run(about(), metrics)
    assert after == []


def test_a_metric_that_changes_the_original_it_declared_is_caught() -> None:
    class Sly(Given):
        needs: ClassVar = frozenset({"original"})

    def change(context: Context) -> None:
        next(context.original.parameters()).data[0, 0] += 1e-6

    with pytest.raises(RuntimeError, match="metric sly changed a model"):
        run(about(), {"sly": Sly({"a": 1.0}, change)})


def test_a_metric_may_do_as_it_likes_with_a_copy() -> None:
    def relearn(context: Context) -> None:
        context.copy_of(context.unlearned).train()(torch.randn(8, 6))

    run(about(), {"copying": Given({"a": 1.0}, relearn)})


def test_evaluating_twice_gives_the_same_numbers_and_leaves_random_state_and_mode() -> None:
    state = torch.get_rng_state()
    first = run(about(), {"accuracy": Accuracy()})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert run(about(), {"accuracy": Accuracy()}) == first


def test_no_metric_is_an_empty_tree() -> None:
    assert tree_of(run(about(), {})) == {}


def test_a_fingerprint_is_equal_exactly_where_every_parameter_and_buffer_is() -> None:
    same = Small(0)
    assert fingerprint(same) == fingerprint(Small(0))
    for name, tensor in same.state_dict().items():
        other = Small(0)
        other.load_state_dict(same.state_dict() | {name: tensor + 1})
        assert fingerprint(other) != fingerprint(same), name


def test_a_network_in_half_precision_has_a_fingerprint() -> None:
    assert fingerprint(Small(0).bfloat16()) != fingerprint(Small(1).bfloat16())
