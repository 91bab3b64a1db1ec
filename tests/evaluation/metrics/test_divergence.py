"""Distances of answers: known models, pairs with known values, scipy on random ones."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation import context as context_module
from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.evaluator import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.metrics.divergence import (
    GROUPS,
    LOG2,
    Divergence,
    RandomTeacher,
    activation_distance,
    agreement,
    js,
    kl,
)
from tests.evaluation.metrics.test_accuracy import draw, said, world
from tests.evaluation.rigged import Rigged, context_of, rigged, saturated

some = settings(max_examples=20, deadline=None)
NAMES = ("js", "kl", "kl_median", "kl_reverse", "activation", "agreement")
DISTANCES = ("js", "kl", "activation", "agreement")

# columns: js, KL(oracle to model), activation distance, agreement, all on forgotten test images
KNOWN = {
    "original": (0.6011, 4.0106, 1.2721, 0.0),
    "oracle": (0.0, 0.0, 0.0, 1.0),
    "mask": (0.3674, 1.7080, 0.8475, 0.1111),
    "uniform": (0.3844, 1.8134, 0.8540, 0.1),
    "memoriser": (0.0, 0.0, 0.0, 1.0),
    "collapsed": (0.5786, 3.9612, 1.2642, 0.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_are_as_far_from_the_oracle_as_is_known(name: str) -> None:
    context = context_of(rigged()[name])
    found = Divergence()(context.showing(Divergence.needs))
    for column, value in zip(DISTANCES, KNOWN[name], strict=True):
        assert found[f"test_forget.{column}"] == pytest.approx(value, abs=1e-4), column
    assert found["test_forget.kl_median"] == pytest.approx(KNOWN[name][1], abs=1e-4)
    # what is in the training images alone shows there alone
    seen = KNOWN["original" if name == "memoriser" else name]
    for column, value in zip(DISTANCES, seen, strict=True):
        assert found[f"train_forget.{column}"] == pytest.approx(value, abs=1e-4), column
    assert found.keys() == {f"{group}.{column}" for group in GROUPS for column in NAMES}


@pytest.mark.parametrize(
    ("name", "expected", "agrees"),
    [("oracle", 0.0, 1.0), ("mask", 0.0, 1.0), ("uniform", 0.3844, 0.1), ("memoriser", 0.0, 1.0)],
)
def test_a_mask_leaves_the_answers_to_retained_images(
    name: str, expected: float, agrees: float
) -> None:
    found = Divergence()(context_of(rigged()[name]))
    assert found["test_retain.js"] == pytest.approx(expected, abs=1e-4)
    assert found["test_retain.agreement"] == pytest.approx(agrees, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("oracle", 0.6011), ("mask", 0.5256), ("uniform", 0.3681)]
)
def test_near_to_the_original_does_not_mean_that_it_remembers(name: str, expected: float) -> None:
    found = Divergence()(context_of(rigged()[name], rigged()["original"]))
    assert found["test_forget.js"] == pytest.approx(expected, abs=1e-4)


def test_every_distance_is_read_beside_the_oracles() -> None:
    for name in NAMES:
        reading = Divergence().reading(f"test_forget.{name}")
        assert reading == MetricInfo("oracle", None, 0.005 if name == "js" else 0.01)
    assert RandomTeacher().reading("normalised") == RandomTeacher().reading("nats")
    assert RandomTeacher().reading("nats") == MetricInfo("oracle")


# ---- pairs with known values -----------------------------------------------------------------


def logs(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def nine_tenths(classes: int) -> tuple[Tensor, Tensor]:
    """Nine tenths on class 0 and on class 1, the rest equal."""
    rest = 0.1 / (classes - 1)
    return tuple(logs([0.9 if c == k else rest for c in range(classes)]) for k in (0, 1))


@pytest.mark.parametrize(("classes", "expected"), [(10, 0.571527), (100, 0.6167)])
def test_jensen_shannon_of_a_pair_is_known_for_any_number_of_classes(
    classes: int, expected: float
) -> None:
    first, second = nine_tenths(classes)
    # not 0.138156, nor 0.0244: that is another divergence, and divided by the classes
    assert js(first, second).item() == pytest.approx(expected, abs=1e-4 if classes > 10 else 1e-6)
    assert js(second, first).item() == pytest.approx(expected, abs=1e-4)


def test_other_distances_of_that_pair_are_known_too() -> None:
    first, second = nine_tenths(10)
    assert kl(first, second).item() == pytest.approx(3.906177, abs=1e-6)
    assert activation_distance(first, second).item() == pytest.approx(1.257079, abs=1e-6)
    assert agreement(first, second).item() == 0.0
    assert js(first, second).item() / LOG2 == pytest.approx(0.824540, abs=1e-6)  # in bits


def test_a_repeated_image_changes_nothing() -> None:
    first, second = (part.repeat(7, 1) for part in nine_tenths(10))
    for distance in (js, kl, activation_distance, agreement):
        assert distance(first, second).shape == (7,)
        assert distance(first, second).mean().item() == pytest.approx(
            distance(first[:1], second[:1]).item()
        )


def test_classes_without_mass_change_nothing() -> None:
    first, second = nine_tenths(10)
    wider = [
        torch.cat([x, torch.full((1, 90), -torch.inf).double()], dim=1) for x in (first, second)
    ]
    for distance in (js, kl, activation_distance, agreement):
        assert distance(*wider).item() == pytest.approx(distance(first, second).item())


def test_a_direction_is_that_of_its_name() -> None:
    oracle, model = logs([0.5, 0.5]), logs([0.25, 0.75])
    assert kl(oracle, model).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl(model, oracle).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    found = Divergence()(
        world({"test": said(model, [0])}, {"test": said(oracle, [0])}, counts=(1, 1))
    )
    assert found["test_forget.kl"] == pytest.approx(0.143841, abs=1e-6)
    assert found["test_forget.kl_reverse"] == pytest.approx(0.130812, abs=1e-6)


def test_saturated_answers_give_numbers() -> None:
    logits = torch.full((2, 10), -200.0)
    logits[0, 3] = logits[1, 5] = 200.0
    first, second = logits.double().log_softmax(dim=1).split(1)
    for distance, same, apart in (
        (js, 0.0, 0.693147),
        (kl, 0.0, 400.0),
        (activation_distance, 0.0, 1.414214),
        (agreement, 1.0, 0.0),
    ):
        assert distance(first, first).item() == same
        assert distance(first, second).item() == pytest.approx(apart, abs=1e-6)


def test_exact_certainty_gives_infinity_where_it_is_due_and_never_nan() -> None:
    first, second = logs([1.0, 0.0, 0.0]), logs([0.0, 1.0, 0.0])
    assert kl(first, second).item() == math.inf
    assert kl(first, first).item() == js(first, first).item() == 0.0
    assert js(first, second).item() == pytest.approx(LOG2)
    assert kl(logs([0.5, 0.5, 0.0]), logs([0.25, 0.75, 0.0])).item() == pytest.approx(
        0.143841, 1e-5
    )


def test_saturated_models_give_numbers_too() -> None:
    same = Divergence()(context_of(saturated(3), saturated(3)))
    apart = Divergence()(context_of(saturated(3), saturated(5)))
    for group in GROUPS:
        assert [same[f"{group}.{n}"] for n in NAMES] == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        assert [apart[f"{group}.{n}"] for n in NAMES] == pytest.approx(
            [0.693147, 400.0, 400.0, 400.0, 1.414214, 0.0], abs=1e-6
        )


@pytest.mark.parametrize("name", ["original", "mask", "uniform", "collapsed"])
def test_no_distance_to_oneself(name: str) -> None:
    found = Divergence()(context_of(rigged()[name], rigged()[name]))
    assert [found[f"test_forget.{n}"] for n in NAMES[:5]] == pytest.approx([0.0] * 5, abs=1e-12)


def test_an_activation_distance_is_a_mean_of_norms() -> None:
    # half of the images at 0 and half at √2: not the root of the mean square, which is 1
    oracle = said(200 * torch.eye(3)[[1, 1]], [0, 0])
    model = said(200 * torch.eye(3)[[1, 2]], [0, 0])
    found = Divergence()(world({"test": model}, {"test": oracle}))
    assert found["test_forget.activation"] == pytest.approx(math.sqrt(2) / 2)


def test_probabilities_are_not_taken_for_logarithms() -> None:
    first, second = nine_tenths(10)
    for distance in (js, kl, activation_distance):
        for pair in ((first.exp(), second), (first, second.exp())):
            with pytest.raises(AssertionError, match="no log-probabilities"):
                distance(*pair)


def test_agreement_shares_ties() -> None:
    first = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    second = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert agreement(first, second).tolist() == pytest.approx([0.5, 0.5, 1 / 3])


# ---- on random answers -----------------------------------------------------------------------


@some
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 40), scale=st.floats(0.1, 8))
def test_distances_match_scipy(seed: int, classes: int, scale: float) -> None:
    stream = torch.Generator().manual_seed(seed)
    first, second = (
        (scale * torch.randn(9, classes, generator=stream)).double().log_softmax(dim=1)
        for _ in range(2)
    )
    p, q = first.exp().numpy(), second.exp().numpy()
    assert kl(first, second).numpy() == pytest.approx(entropy(p, q, axis=1))
    found = js(first, second)
    assert found.numpy() == pytest.approx(jensenshannon(p, q, axis=1) ** 2)
    assert 0 <= found.min() <= found.max() <= LOG2
    assert activation_distance(first, second).numpy() == pytest.approx(
        np.sqrt(((p - q) ** 2).sum(axis=1))
    )
    assert agreement(first, second).tolist() == (p.argmax(axis=1) == q.argmax(axis=1)).tolist()
    assert torch.equal(agreement(3 * first, 3 * second), agreement(first, second))


@some
@given(seed=st.integers(0, 2**16), forget=st.sampled_from([(2,), (0, 3), (1, 4, 5)]))
def test_groups_are_means_over_images_then_classes_then_oracles(
    seed: int, forget: tuple[int, ...]
) -> None:
    model, *oracles = (
        {"test": draw(seed + k, 77), "train": draw(-1 - seed - k, 50)} for k in range(3)
    )
    found = Divergence()(world(model, *oracles, forget=forget))
    kept = tuple(k for k in range(6) if k not in forget)

    def mean(split: str, classes: tuple[int, ...], reverse: bool, by: str) -> float:
        truth, parts = model[split].labels.numpy(), []
        for oracle in oracles:
            pair = [o[split].log_probabilities.exp().numpy() for o in (oracle, model)]
            each = entropy(*(pair[::-1] if reverse else pair), axis=1)
            parts += [getattr(np, by)(each[truth == k]) for k in classes]
        return float(np.mean(parts))

    for group, split, classes in (
        ("test_forget", "test", forget),
        ("train_forget", "train", forget),
        ("test_retain", "test", kept),
    ):
        assert found[f"{group}.kl"] == pytest.approx(mean(split, classes, False, "mean"))
        assert found[f"{group}.kl_reverse"] == pytest.approx(mean(split, classes, True, "mean"))
        assert found[f"{group}.kl_median"] == pytest.approx(mean(split, classes, False, "median"))


def test_oracles_are_not_averaged_into_a_mixture() -> None:
    # the mixture of two sure oracles is as unsure as the model, and none of them is
    model = said(torch.zeros(1, 2), [0])
    oracles = [{"test": said(torch.tensor([[x, -x]]), [0])} for x in (100.0, -100.0)]
    found = Divergence()(world({"test": model}, *oracles, counts=(1, 1)))
    assert found["test_forget.js"] == pytest.approx(0.215762, abs=1e-6)  # ¾ log 4/3


def test_a_median_is_not_ruled_by_one_image() -> None:
    logits = torch.zeros(3, 2)
    logits[2, 0] = -200.0
    found = Divergence()(
        world({"test": said(logits, [0] * 3)}, {"test": said(torch.zeros(3, 2), [0] * 3)})
    )
    assert found["test_forget.kl_median"] == 0.0
    assert found["test_forget.kl"] > 30


def test_a_forgotten_class_without_images_takes_no_part() -> None:
    model, oracle = said(torch.eye(3)[[1, 1]], [0, 0]), said(torch.eye(3)[[2, 1]], [0, 0])
    alone = Divergence()(world({"test": model}, {"test": oracle}, forget=(0,)))
    both = Divergence()(world({"test": model}, {"test": oracle}, forget=(0, 1)))
    for name in NAMES:
        assert both[f"test_forget.{name}"] == alone[f"test_forget.{name}"]
    assert both["test_forget.agreement"] == 0.5


# ---- what is absent --------------------------------------------------------------------------


def test_without_oracles_all_is_absent() -> None:
    context = dataclasses.replace(context_of(rigged()["mask"]), oracles=())
    found = Divergence()(context)
    assert len(found) == 18
    assert set(found.values()) == {Absent("there is no oracle to compare with")}


def test_what_the_run_has_is_measured() -> None:
    found = Divergence()(context_of(rigged()["mask"], splits=("test",)))
    for name, value in found.items():
        if name.startswith("train"):
            assert value == Absent("the run has no train images")
        else:
            assert isinstance(value, float)
    nothing = Divergence()(dataclasses.replace(context_of(rigged()["mask"]), forget=()))
    for name, value in nothing.items():
        if name.startswith("test_retain"):
            assert isinstance(value, float)
        else:
            assert value == Absent("the split has no image of such a class")


def test_the_floor_is_what_oracles_show_against_each_other() -> None:
    models = rigged()
    other = models["collapsed"]
    context = context_of(models["mask"], models["oracle"], other)
    tree = tree_of(run(context, {"divergence": Divergence()}))["divergence"]["test_forget"]
    assert tree["js"]["oracle_mean"] == pytest.approx(0.5786, abs=1e-4)
    assert tree["agreement"]["oracle_mean"] == 0.0


# ---- the random teacher ----------------------------------------------------------------------

RANDOM = {  # ÷ log 2, and in nats
    "original": (0.4690, 0.6319),
    "oracle": (0.4454, 0.6156),
    "mask": (0.9481, 0.9640),
    "uniform": (1.0, 1.0),
    "memoriser": (0.4454, 0.6156),
    "collapsed": (0.4690, 0.6319),
}


@pytest.mark.parametrize("name", RANDOM)
def test_an_unknowing_teacher_praises_noise(name: str) -> None:
    context = context_of(rigged()[name], fresh=lambda seed: rigged()["uniform"])
    found = RandomTeacher()(context.showing(RandomTeacher.needs))
    assert list(found) == ["normalised", "nats"]
    assert list(found.values()) == pytest.approx(RANDOM[name], abs=1e-4)


class Normed(nn.Module):
    """Draws its weights from the global generator, and has the statistics of a batch."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.norm(images.flatten(1) + torch.tensor([0.0, 1.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Nursery:
    """Makes networks, in train mode as they come, and remembers them."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.made: list[nn.Module] = []

    def __call__(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        self.seeds.append(seed)
        self.made.append(Normed())
        return self.made[-1]


def context_with(nursery: Nursery, name: str = "original", **more: int) -> Context:
    return dataclasses.replace(context_of(rigged()[name], fresh=nursery, **more), forget=(0, 3))


def test_teachers_are_evaluated_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for chunk in (1, 64):
        monkeypatch.setattr(context_module, "CHUNK", chunk)
        nursery = Nursery()
        found.append(RandomTeacher()(context_with(nursery)))
        for teacher in nursery.made:
            assert not teacher.training
            assert teacher.norm.num_batches_tracked == 0
            assert torch.equal(teacher.norm.running_mean, torch.zeros(2))
    assert found[0] == pytest.approx(found[1])


def test_teachers_differ_and_are_the_same_for_every_model() -> None:
    first, second, third = Nursery(), Nursery(), Nursery()
    RandomTeacher()(context_with(first))
    RandomTeacher()(context_with(second, "mask"))
    assert len(set(first.seeds)) == 3
    assert first.seeds == second.seeds
    RandomTeacher(2)(context_with(third, seed=1))
    assert len(third.seeds) == 2
    assert not set(third.seeds) & set(first.seeds)


def test_the_global_generator_stays_where_it_was() -> None:
    contexts = [context_with(Nursery()) for _ in range(2)]
    before = torch.get_rng_state()
    twice = [RandomTeacher()(context) for context in contexts]
    assert torch.equal(torch.get_rng_state(), before)
    assert twice[0] == twice[1]


def test_the_value_is_the_mean_over_teachers_and_classes() -> None:
    teachers = iter([rigged()["uniform"], rigged()["original"]])
    context = context_of(rigged()["original"], fresh=lambda seed: next(teachers))
    assert RandomTeacher(2)(context)["nats"] == pytest.approx((0.6319 + 1) / 2, abs=1e-4)
    # one class has many images and one has few
    outputs = said(torch.tensor([[0.0, 0.0, 0.0]] * 9 + [[0.0, 0.0, 200.0]]), [0] * 9 + [1])
    uniform = Rigged(torch.zeros(2, 3, 1), torch.zeros(3, 1), torch.zeros(3))
    about = world({"test": outputs}, forget=(0, 1))
    about = dataclasses.replace(
        about,
        fresh=lambda seed: copy.deepcopy(uniform),
        unlearned=_with_device(about, outputs),
        splits={
            "test": dataclasses.replace(
                about.splits["test"], read=lambda positions: torch.zeros(len(positions), 1, 1, 2)
            )
        },
    )
    far = js(logs([1.0, 0.0, 0.0]), logs([1 / 3] * 3)).item()
    assert RandomTeacher(1)(about)["nats"] == pytest.approx(1 - far / 2)


def _with_device(context: Context, outputs: Outputs) -> nn.Module:
    network = nn.Linear(1, 1)
    context.store.known[id(network), "test"] = outputs
    return network


def test_teachers_answer_once_for_all_models() -> None:
    made = []

    def nursery(seed: int) -> nn.Module:
        made.append(seed)
        return rigged()["uniform"]

    context = context_of(rigged()["original"], fresh=nursery)
    metric = RandomTeacher(teachers=2)
    first = metric(context)
    assert metric(context.judging(rigged()["uniform"])) != first
    assert len(made) == len(set(made)) == 2


def test_only_forgotten_test_images_are_read_by_teachers() -> None:
    context = context_with(Nursery())
    assert RandomTeacher(4).work(context) == 4 * 200
    assert Divergence().work(context) == 0
    assert RandomTeacher().work(dataclasses.replace(context, splits={})) == 0
    read: list[int] = []
    test = context.splits["test"]

    def counted(positions: Tensor) -> Tensor:
        read.extend(test.labels[positions].tolist())
        return test.read(positions)

    context.outputs(context.unlearned, "test")
    splits = {"test": dataclasses.replace(test, read=counted)}
    RandomTeacher(2)(dataclasses.replace(context, splits=splits))
    assert sorted(read) == [0] * 200 + [3] * 200


def test_no_teacher_no_value() -> None:
    context = context_of(rigged()["mask"])
    reason = Absent("there is no way to make an untrained network")
    assert RandomTeacher()(context) == {"normalised": reason, "nats": reason}
    nothing = dataclasses.replace(context_with(Nursery()), forget=())
    none = Absent("the split has no image of such a class")
    assert RandomTeacher()(nothing) == {"normalised": none, "nats": none}
    with pytest.raises(UserError, match="teachers must be at least 1, got 0"):
        RandomTeacher(0)
