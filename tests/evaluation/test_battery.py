"""The battery: nests, reads, leaves out with a reason, and lets no metric change a model."""

import copy
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.accuracy import Accuracy
from geniu_lightning.evaluation.battery import Absent, Reading, Value, fingerprint, run
from geniu_lightning.evaluation.context import Context


class Images(NamedTuple):
    images: Tensor
    labels: Tensor


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval().requires_grad_(False)


def split(seed: int) -> Callable[[], Iterable[Images]]:
    images = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    return lambda: [Images(images, torch.arange(40) % 4)]


def context() -> Context:
    return Context(
        original=network(0),
        unlearned=network(1),
        forget=(1,),
        class_names=tuple("abcd"),
        class_counts=(10,) * 4,
        splits={"test": split(2), "train": split(3)},
    )


class Given:
    """Returns what it was given, and may do something on the way."""

    def __init__(
        self,
        values: dict[str, Value | Absent],
        act: Callable[[Context], object] = lambda context: None,
    ) -> None:
        self.values, self.act = values, act

    def reading(self, name: str) -> Reading:
        return Reading("lower", 0.25) if name.endswith("b") else Reading("oracle")

    def __call__(self, context: Context) -> dict[str, Value | Absent]:
        self.act(context)
        return self.values


def test_names_are_nested_and_each_value_says_how_it_is_read() -> None:
    metrics = {"x": Given({"test.a": 0.5, "test.b": 1.0}), "y": Given({"deep.er.b": [0.1, None]})}
    rest = {"oracle_mean": None, "oracle_std": None, "z": None}
    assert run(context(), metrics) == {
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


def test_what_cannot_be_computed_is_written_with_its_reason_alone() -> None:
    found = run(context(), {"x": Given({"test.a": Absent("no oracles"), "test.b": 0.0})})
    assert found["x"]["test"]["a"] == {"absent": "no oracles"}
    assert found["x"]["test"]["b"]["value"] == 0.0  # a zero is a value


def nudge_parameter(context: Context) -> None:
    next(context.unlearned.parameters()).data[0, 0] += 1e-6


def nudge_original(context: Context) -> None:
    next(context.original.parameters()).data[0, 0] += 1e-6


def train_mode_batch(context: Context) -> None:
    context.unlearned.train()(torch.randn(8, 6))
    context.unlearned.eval()


def count_batches(context: Context) -> None:
    context.unlearned[1].num_batches_tracked += 1


@pytest.mark.parametrize(
    "change", [nudge_parameter, nudge_original, train_mode_batch, count_batches]
)
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
        run(context(), metrics)
    assert after == []


def test_a_metric_may_do_as_it_likes_with_a_copy() -> None:
    def relearn(context: Context) -> None:
        train_mode_batch(
            Context(
                context.original,
                copy.deepcopy(context.unlearned),
                (1,),
                tuple("abcd"),
                (1,) * 4,
                {},
            )
        )

    run(context(), {"copying": Given({"a": 1.0}, relearn)})


def test_a_metric_that_leaves_a_model_in_training_mode_is_caught() -> None:
    with pytest.raises(RuntimeError, match="changed a model"):
        run(context(), {"sly": Given({"a": 1.0}, lambda context: context.unlearned.train())})


def test_evaluating_twice_gives_the_same_numbers_and_changes_no_bit() -> None:
    shared = context()
    networks = (shared.original, shared.unlearned)
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    state = torch.get_rng_state()
    first = run(shared, {"accuracy": Accuracy()})
    again = run(shared, {"accuracy": Accuracy()})
    torch.manual_seed(99)
    anew = run(context(), {"accuracy": Accuracy()})
    torch.set_rng_state(state)
    assert first == again == anew
    for old, now in zip(before, networks, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in now.state_dict().items())
        assert not any(module.training for module in now.modules())


def test_evaluating_leaves_the_global_random_state_and_gradient_mode_alone() -> None:
    state = torch.get_rng_state()
    run(context(), {"accuracy": Accuracy()})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_the_tree_is_plain_json() -> None:
    tree = run(context(), {"accuracy": Accuracy(("test", "validation"))})
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert tree["accuracy"]["validation"]["retain"] == {
        "absent": "the run has no validation images"
    }


def test_no_metric_is_an_empty_tree() -> None:
    assert run(context(), {}) == {}


def changed(**tensors: Any) -> nn.Module:
    found = network(0)
    found.load_state_dict(found.state_dict() | tensors)
    return found


def test_a_fingerprint_is_equal_exactly_where_every_parameter_and_buffer_is() -> None:
    same = network(0)
    assert fingerprint(same) == fingerprint(network(0))
    for name, tensor in same.state_dict().items():
        assert fingerprint(changed(**{name: tensor + 1})) != fingerprint(same), name


def test_a_network_in_half_precision_has_a_fingerprint() -> None:
    assert fingerprint(network(0).bfloat16()) != fingerprint(network(1).bfloat16())
