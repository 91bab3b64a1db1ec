"""ToW, AUS and NoMUS: known models, numpy's arithmetic, and the attack of NoMUS."""

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.scores import Scores, attack_accuracy
from tests.evaluation.worlds import (
    NO_IMAGE,
    NO_ORACLE,
    context_of,
    outputs,
    random_outputs,
    rigged,
    world,
)

NAMES = ("tow", "tow_mia", "aus", "nomus")


def test_scores_match_numpy() -> None:
    for seed, forget in ((1, (0,)), (2, (4,)), (3, (1, 3)), (4, (0, 2, 5))):
        model, original, *oracles = (
            {"test": random_outputs(seed + k, 61), "train": random_outputs(seed + 9 + k, 85)}
            for k in range(4)
        )
        context = world(model, *oracles, original=original, forget=forget)
        found = Scores()(context)
        retained = [k for k in range(6) if k not in forget]

        def recall(of: Outputs) -> np.ndarray:
            truth, answer = of.labels.numpy(), of.logits.argmax(dim=1).numpy()
            return np.array([(answer[truth == k] == k).mean() for k in range(6)])

        def row(
            one: dict[str, Outputs],
            forget: tuple[int, ...] = forget,
            retained: list[int] = retained,
        ) -> list[float]:
            areas = []
            for k in forget:
                losses = [
                    -np.log(one[s].logits[one[s].labels == k].double().softmax(1)[:, k].numpy())
                    for s in ("train", "test")
                ]
                sides = np.repeat([1, 0], [len(part) for part in losses])
                areas.append(roc_auc_score(sides, -np.concatenate(losses)))
            seen, unseen = recall(one["train"]), recall(one["test"])
            means = [seen[list(forget)].mean(), np.mean(areas), seen[retained].mean()]
            return [*means, unseen[retained].mean(), unseen[list(forget)].mean()]

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
        mean = np.abs(np.mean(attacks) - 0.5)
        assert found["nomus"] == pytest.approx(rows[0, 3] / 2 + 0.5 - mean)


# ---- the attack of NoMUS -----------------------------------------------------------------------


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, rows: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(rows, generator=stream(seed), dtype=torch.float64)


@settings(max_examples=15, deadline=None)
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
        rules = [((x + y) / 2, sign) for x, y in pairwise(values) for sign in (1, -1)]
        best = max(rules, key=lambda rule: score(*rule, *chosen), default=None)
        found.append(score(*best, *scored) if best else Fraction(1, 2))
    assert attack_accuracy(members, others, stream(seed)) == pytest.approx(float(sum(found) / 2))


def test_equal_laws_are_not_told_apart_and_members_on_either_side_are_found() -> None:
    for sizes in ((20, 20), (200, 10)):
        found = [
            attack_accuracy(normal(2 * k, sizes[0]), normal(2 * k + 1, sizes[1]), stream(k))
            for k in range(100)
        ]
        # chosen and scored on the same images, it would be at 0.62 for 20
        assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(len(found))
    for shift in (50.0, -50.0):
        assert attack_accuracy(normal(0, 40, shift), normal(1, 25), stream(0)) == 1.0
    assert attack_accuracy(torch.zeros(5), torch.zeros(80), stream(0)) == 0.5


def confident(labels: list[int], by: list[float]) -> Outputs:
    """The class of each image right, with a margin."""
    found = torch.tensor(labels)
    return outputs(torch.eye(3)[found] * torch.tensor(by)[:, None], found)


def test_members_are_compared_with_images_of_their_own_class_one_class_after_another() -> None:
    rows = [0] * 40 + [1] * 40 + [2] * 40
    margins = torch.linspace(0, 1, 40).tolist() + [9.0] * 80
    same = {"train": confident(rows, margins), "test": confident(rows, margins)}
    found = Scores()(world(same, same))
    assert found["tow_mia"] == 1.0
    assert found["nomus"] > 0.85  # and not ½, where other classes are non-members
    leaky = same | {"train": confident(rows, [5.0] * 40 + [9.0] * 80)}
    assert Scores()(world(leaky, same))["nomus"] == pytest.approx(0.5)
    random = [{"test": random_outputs(k, 60), "train": random_outputs(k + 5, 90)} for k in range(2)]
    context = world(*random)
    seeds = {Scores()(dataclasses.replace(context, seed=k))["nomus"] for k in range(5)}
    assert len(seeds) > 1  # halves are drawn by the evaluation seed


def test_a_score_that_cannot_be_computed_is_absent_with_its_reason() -> None:
    mask = context_of(rigged()["mask"])
    found = Scores()(dataclasses.replace(mask, oracles=()))
    assert found == {"tow": NO_ORACLE, "tow_mia": NO_ORACLE, "aus": 1.0, "nomus": 1.0}
    for there, other in (("test", "train"), ("train", "test")):
        none = Absent(f"the run has no {other} images")
        expected = dict.fromkeys(NAMES, none) | ({"aus": 1.0} if there == "test" else {})
        assert Scores()(context_of(rigged()["mask"], splits=(there,))) == expected
    for forget in ((), tuple(range(10))):
        found = Scores()(dataclasses.replace(mask, forget=forget))
        assert found == dict.fromkeys(NAMES, NO_IMAGE)
    one = {split: confident([0, 1, 2], [1.0, 1.0, 1.0]) for split in ("train", "test")}
    none = Absent("no forgotten class has two training and two test images to attack")
    assert Scores()(world(one, one)) == {"tow": 1.0, "tow_mia": 1.0, "aus": 0.5, "nomus": none}
    apart = {"train": confident([0, 2], [1.0, 1.0]), "test": confident([1, 2], [1.0, 1.0])}
    found = Scores()(world(apart, apart, forget=(0, 1)))
    assert found["tow_mia"] == Absent("no forgotten class has both training and test images")
    assert found["tow"] == 1.0
