"""Single scores: known models, what they cannot see, and an attack on what there is not."""

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from geniu_lightning.evaluation.metrics.scores import Scores, attack_accuracy, aus, nomus, tow
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.context import Outputs
from tests.evaluation.compat import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from tests.evaluation.metrics.test_accuracy import draw, said, world
from tests.evaluation.rigged import context_of, rigged

some = settings(max_examples=20, deadline=None)

# columns: ToW, AUS, NoMUS, and the area of the attack by losses
KNOWN = {
    "original": (0.0, 0.5, 1.0, 0.5),
    "oracle": (1.0, 1.0, 1.0, 0.5),
    "mask": (1.0, 1.0, 1.0, 0.5),
    "uniform": (0.0090, 0.0909, 0.55, 0.5),
    "memoriser": (0.0, 1.0, 0.5, 1.0),
    "collapsed": (0.0123, 0.1111, 0.5556, 0.5),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_have_their_known_scores(name: str) -> None:
    found = Scores()(context_of(rigged()[name]).restricted_to(Scores.needs))
    expected_tow, expected_aus, expected_nomus, area = KNOWN[name]
    assert found["tow"] == pytest.approx(expected_tow, abs=1e-4)
    assert found["aus"] == pytest.approx(expected_aus, abs=1e-4)
    assert found["nomus"] == pytest.approx(expected_nomus, abs=1e-4)
    kept = Accuracy()(context_of(rigged()[name]))
    rest = kept["train.retain"] * kept["test.retain"]  # the oracle has 1 in both
    assert found["tow_mia"] == pytest.approx((1 - abs(area - 0.5)) * rest, abs=1e-4)
    assert list(found) == ["tow", "tow_mia", "aus", "nomus"]


def test_a_mask_gets_the_full_score_everywhere() -> None:
    assert Scores()(context_of(rigged()["mask"])) == pytest.approx(
        dict.fromkeys(("tow", "tow_mia", "aus", "nomus"), 1.0)
    )


def test_each_score_says_how_it_is_read() -> None:
    for name in ("tow", "tow_mia", "aus", "nomus"):
        assert Scores().info(name) == MetricInfo("higher", 1.0)


# ---- formulas --------------------------------------------------------------------------------


def test_differences_are_to_the_mean_of_oracles() -> None:
    assert tow([0.5, 0.9], [[0.2, 1.0], [0.4, 0.8]]) == pytest.approx(0.8 * 1.0)
    assert tow([0.0, 1.0, 0.7], [[0.1, 0.9, 0.9]]) == pytest.approx(0.9 * 0.9 * 0.8)


def test_removal_of_a_class_has_its_own_form() -> None:
    assert aus(0.9, 0.9, 0.0) == 1.0  # not 1 / (1 + 0.9): an ideal removal
    assert aus(0.9, 0.6, 0.25) == pytest.approx(0.7 / 1.25)
    assert aus(0.8, 0.9, 0.0) == pytest.approx(1.1)


def test_an_attack_that_is_wrong_tells_as_much() -> None:
    assert nomus(0.8, 0.5) == pytest.approx(0.9)
    assert nomus(0.8, 0.9) == nomus(0.8, 0.1) == pytest.approx(0.5)


@some
@given(seed=st.integers(0, 2**16), forget=st.sampled_from([(0,), (4,), (1, 3), (0, 2, 5)]))
def test_scores_match_numpy(seed: int, forget: tuple[int, ...]) -> None:
    model, original, *oracles = (
        {"test": draw(seed + k, 61), "train": draw(seed + 9 + k, 85)} for k in range(4)
    )
    context = world(model, *oracles, original=original, forget=forget)
    found = Scores()(context)
    kept = [k for k in range(6) if k not in forget]

    def recall(outputs: Outputs) -> np.ndarray:
        truth, answer = outputs.labels.numpy(), outputs.logits.argmax(dim=1).numpy()
        return np.array([(answer[truth == k] == k).mean() for k in range(6)])

    def row(one: dict[str, Outputs]) -> list[float]:
        areas = []
        for k in forget:
            losses = [
                -np.log(one[s].logits[one[s].labels == k].double().softmax(1)[:, k].numpy())
                for s in ("train", "test")
            ]
            sides = np.repeat([1, 0], [len(part) for part in losses])
            areas.append(roc_auc_score(sides, -np.concatenate(losses)))
        seen, unseen = recall(one["train"]), recall(one["test"])
        return [
            seen[list(forget)].mean(),
            np.mean(areas),
            seen[kept].mean(),
            unseen[kept].mean(),
            unseen[list(forget)].mean(),
        ]

    rows = np.array([row(one) for one in (model, original, *oracles)])
    factors = 1 - np.abs(rows[0] - rows[2:].mean(axis=0))
    assert found["tow"] == pytest.approx(factors[0] * factors[2] * factors[3])
    assert found["tow_mia"] == pytest.approx(factors[1] * factors[2] * factors[3])
    assert found["aus"] == pytest.approx((1 - rows[1, 3] + rows[0, 3]) / (1 + rows[0, 4]))
    attacks = [
        attack_accuracy(
            *(model[s].of((k,)).log_probabilities[:, k] for s in ("train", "test")),
            context.generator("halves of the attack", k),
        )
        for k in forget
    ]
    assert found["nomus"] == pytest.approx(rows[0, 3] / 2 + 0.5 - np.abs(np.mean(attacks) - 0.5))


# ---- the attack ------------------------------------------------------------------------------


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, rows: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(rows, generator=stream(seed), dtype=torch.float64)


@some
@given(
    seed=st.integers(0, 2**16),
    sizes=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    shift=st.sampled_from([-2.0, 0.0, 0.3, 2.0]),
    decimals=st.sampled_from([0, 1]),
)
@example(seed=0, sizes=(6, 6), shift=0.0, decimals=1)  # a tie that thirds in 64 bits would break
def test_the_attack_is_a_search_on_one_half_and_a_score_on_the_other(
    seed: int, sizes: tuple[int, int], shift: float, decimals: int
) -> None:
    # rounded, so that there are ties, of scores and of rules
    members = normal(seed, sizes[0], shift).round(decimals=decimals)
    others = normal(seed + 1, sizes[1]).round(decimals=decimals)
    draws, halves = stream(seed), []
    for side in (members, others):
        mixed = side[torch.randperm(len(side), generator=draws)].tolist()
        halves.append((mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]))
    (a, b), (c, d) = halves

    def score(threshold: float, sign: int, one: list[float], other: list[float]) -> Fraction:
        right = Fraction(sum(x > threshold for x in one), len(one))
        above = (right + Fraction(sum(x <= threshold for x in other), len(other))) / 2
        return above if sign > 0 else 1 - above

    found = []
    for chosen, scored in (((a, c), (b, d)), ((b, d), (a, c))):
        values = sorted({*chosen[0], *chosen[1]})
        middles = [(x + y) / 2 for x, y in pairwise(values)]
        rules = [(middle, sign) for middle in middles for sign in (1, -1)]
        best = max(rules, key=lambda rule: score(*rule, *chosen), default=None)
        found.append(score(*best, *scored) if best else Fraction(1, 2))
    assert attack_accuracy(members, others, stream(seed)) == pytest.approx(float(sum(found) / 2))


@pytest.mark.parametrize("sizes", [(20, 20), (100, 100), (80, 20), (200, 10), (10, 200)])
def test_equal_laws_are_not_told_apart(sizes: tuple[int, int]) -> None:
    found = [
        attack_accuracy(normal(2 * k, sizes[0]), normal(2 * k + 1, sizes[1]), stream(k))
        for k in range(300)
    ]
    error = np.std(found) / math.sqrt(len(found))
    # chosen and scored on the same images, it would be at 0.62 for 20, and at 0.56 for 100
    assert abs(np.mean(found) - 0.5) < 3 * error
    assert error < 0.01


@pytest.mark.parametrize("shift", [50.0, -50.0])
def test_members_are_found_on_either_side(shift: float) -> None:
    assert attack_accuracy(normal(0, 40, shift), normal(1, 25), stream(0)) == 1.0


def test_equal_scores_tell_nothing() -> None:
    assert attack_accuracy(torch.zeros(5), torch.zeros(80), stream(0)) == 0.5


def test_the_attack_leaves_all_as_it_was() -> None:
    members, others = normal(0, 30, 1.0), normal(1, 20)
    copies, state = (members.clone(), others.clone()), torch.get_rng_state()
    first = attack_accuracy(members, others, stream(3))
    assert torch.equal(members, copies[0])
    assert torch.equal(others, copies[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert attack_accuracy(members, others, stream(3)) == first


def confident(labels: list[int], by: list[float]) -> Outputs:
    """Class of each image right, with a margin."""
    found = torch.tensor(labels)
    return said(torch.eye(3)[found] * torch.tensor(by)[:, None], found)


def test_members_are_compared_with_images_of_their_own_class_alone() -> None:
    # forgotten images are unlike others, and training images of theirs like test images of theirs
    rows = [0] * 40 + [1] * 40 + [2] * 40
    margins = torch.linspace(0, 1, 40).tolist() + [9.0] * 80
    same = {"train": confident(rows, margins), "test": confident(rows, margins)}
    found = Scores()(world(same, same))
    assert found["tow_mia"] == 1.0
    assert found["nomus"] > 0.85  # and not ½, where others' images are non-members
    leaky = same | {"train": confident(rows, [5.0] * 40 + [9.0] * 80)}
    assert Scores()(world(leaky, same))["nomus"] == pytest.approx(0.5)


def test_forgotten_classes_are_attacked_one_by_one() -> None:
    # losses of class 0 are all below those of class 1: pooled, the attack would see classes only
    rows = [0] * 20 + [1] * 20 + [2]
    train = confident(rows, [5.0] * 20 + [2.0] * 20 + [9.0])
    test = confident(rows, [4.0] * 20 + [1.0] * 20 + [9.0])
    found = Scores()(world({"train": train, "test": test}, forget=(0, 1)))
    assert found["nomus"] == pytest.approx(0.5)


def test_halves_are_those_of_the_seed_alone() -> None:
    models = [{"test": draw(k, 60), "train": draw(k + 5, 90)} for k in range(2)]
    context = world(models[0], models[1])
    state = torch.get_rng_state()
    first = Scores()(context)
    assert Scores()(context) == first
    assert torch.equal(torch.get_rng_state(), state)
    others = {Scores()(dataclasses.replace(context, seed=k))["nomus"] for k in range(5)}
    assert len(others) > 1


# ---- what is absent --------------------------------------------------------------------------


def test_without_oracles_what_needs_none_is_measured() -> None:
    found = Scores()(dataclasses.replace(context_of(rigged()["mask"]), oracles=()))
    none = Absent("there is no oracle to compare with")
    assert found == {"tow": none, "tow_mia": none, "aus": 1.0, "nomus": 1.0}


@pytest.mark.parametrize("there", ["test", "train"])
def test_a_missing_split_takes_its_scores_along(there: str) -> None:
    found = Scores()(context_of(rigged()["mask"], splits=(there,)))
    other = {"test": "train", "train": "test"}[there]
    none = Absent(f"the run has no {other} images")
    expected = 1.0 if there == "test" else none
    assert found == {"tow": none, "tow_mia": none, "aus": expected, "nomus": none}


@pytest.mark.parametrize("forget", [(), tuple(range(10))])
def test_without_forgotten_or_without_retained_classes_nothing_is_scored(
    forget: tuple[int, ...],
) -> None:
    found = Scores()(dataclasses.replace(context_of(rigged()["mask"]), forget=forget))
    none = Absent("the split has no image of such a class")
    assert found == dict.fromkeys(("tow", "tow_mia", "aus", "nomus"), none)


def test_one_image_has_no_halves() -> None:
    one = confident([0, 1, 2], [1.0, 1.0, 1.0])
    found = Scores()(world({"train": one, "test": one}, {"train": one, "test": one}))
    reason = "no forgotten class has two training and two test images to attack"
    assert found == {"tow": 1.0, "tow_mia": 1.0, "aus": 0.5, "nomus": Absent(reason)}


def test_sides_of_different_classes_are_no_pair() -> None:
    train, test = confident([0, 2], [1.0, 1.0]), confident([1, 2], [1.0, 1.0])
    model = {"train": train, "test": test}
    found = Scores()(world(model, model, forget=(0, 1)))
    assert found["tow_mia"] == Absent("no forgotten class has both training and test images")
    assert found["tow"] == 1.0


def test_the_battery_shows_what_the_original_gets_beside() -> None:
    models = rigged()
    context = context_of(models["mask"], models["oracle"], rigged()["oracle"])
    controls = {"original": models["original"], "mask": rigged()["mask"]}
    tree = tree_of(run(context, {"scores": Scores()}, controls))["scores"]
    assert tree["nomus"]["original"] == 1.0
    assert tree["nomus"]["position"] is None  # it does not tell the original from an oracle
    assert (tree["tow"]["oracle_mean"], tree["tow"]["position"]) == (1.0, 0.0)
