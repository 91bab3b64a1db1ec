"""Exemplars: every rule against a search image by image, and the same on two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.training.exemplars import Exemplars, entropy

RULES = ["max_entropy", "min_entropy", "nearest_mean", "random"]


def an_epoch(seed: int, images: int, classes: int, width: int = 3) -> tuple[Tensor, Tensor]:
    """Return logits and features of every image."""
    rng = torch.Generator().manual_seed(seed)
    return (
        3 * torch.randn(images, classes, generator=rng),
        torch.randn(images, width, generator=rng),
    )


def show(
    exemplars: Exemplars, logits: Tensor, features: Tensor, order: Tensor, batch: int = 5
) -> None:
    for rows in order.split(batch):
        exemplars.observe(rows, exemplars.labels[rows], logits[rows], features[rows])


def brute_force(
    rule: str, labels: Tensor, candidates: list[int], per_class: int, logits: Tensor,
    features: Tensor, features_before: Tensor | None,
) -> list[list[int]]:  # fmt: skip
    """Return the best of each class, found one image at a time in float64."""
    chosen = []
    for k in range(int(labels.max()) + 1):
        members = [n for n in sorted(candidates) if labels[n] == k]
        score: dict[int, float] = {}
        for n in members:
            uncertainty = scipy_entropy(softmax(logits[n].double().numpy()))
            if rule == "nearest_mean":
                if features_before is None:
                    score[n] = 0.0
                    continue
                mean = np.mean([features_before[m].double().numpy() for m in members], axis=0)
                score[n] = -float(np.linalg.norm(features[n].double().numpy() - mean))
            else:
                score[n] = float(uncertainty if rule == "max_entropy" else -uncertainty)
        best = sorted(members, key=lambda n: (-score[n], n))[:per_class]
        chosen.append([best[n % len(best)] for n in range(per_class)])
    return chosen


def test_entropy_is_that_of_scipy() -> None:
    logits = 20 * torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    expected = scipy_entropy(softmax(logits.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_entropy_at_its_ends() -> None:
    certain = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert entropy(certain).tolist() == pytest.approx([0.0, float(np.log(3))])
    assert entropy(certain.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("rule", RULES[:3])
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999), classes=st.integers(2, 4), per_class=st.integers(1, 4),
    batch=st.integers(1, 9),
)  # fmt: skip
def test_choice_is_that_of_a_search_image_by_image_epoch_after_epoch(
    rule: Any, seed: int, classes: int, per_class: int, batch: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(2 * per_class + 2)[torch.randperm(
        classes * (2 * per_class + 2), generator=rng
    )]  # fmt: skip
    # some images stay out of training, but not all of a class
    candidates = torch.tensor([n for n in range(len(labels)) if n % 7 or labels[n] == 0])
    exemplars = Exemplars(labels, candidates, classes, per_class, rule, seed)
    before = None
    for epoch in range(3):
        logits, features = an_epoch(seed + epoch, len(labels), classes)
        order = candidates[torch.randperm(len(candidates), generator=rng)]
        show(exemplars, logits, features, order, batch)
        expected = brute_force(
            rule, labels, candidates.tolist(), per_class, logits, features, before
        )
        found = exemplars.select().tolist()
        assert [sorted(row) for row in found] == [sorted(row) for row in expected]
        if epoch == 0:
            assert found == expected
        before = features


@pytest.mark.parametrize("rule", RULES)
def test_order_and_size_of_batches_do_not_matter(rule: Any) -> None:
    labels = torch.arange(3).repeat(8)
    everything = torch.arange(24)
    results = []
    for seed, batch in ((0, 24), (1, 5), (2, 1)):
        exemplars = Exemplars(labels, everything, 3, 2, rule, seed=4)
        for epoch in range(2):
            order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
            show(exemplars, *an_epoch(epoch, 24, 3), order, batch)
            chosen = exemplars.select()
        results.append(chosen.tolist())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("rule", ["max_entropy", "min_entropy", "nearest_mean"])
def test_ties_fall_to_the_smaller_index(rule: Any) -> None:
    labels = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1])
    exemplars = Exemplars(labels, torch.arange(8), 2, 2, rule)
    for _ in range(2):
        order = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
        show(exemplars, torch.ones(8, 2), torch.ones(8, 3), order, batch=3)
        assert exemplars.select().tolist() == [[1, 3], [0, 2]]


def test_random_choice_is_a_function_of_the_seed() -> None:
    labels = torch.arange(3).repeat(20)

    def chosen(seed: int) -> list[list[int]]:
        exemplars = Exemplars(labels, torch.arange(60), 3, 4, "random", seed)
        first = exemplars.select().tolist()
        show(exemplars, *an_epoch(seed, 60, 3), torch.arange(60))
        assert exemplars.select().tolist() == first  # whatever passes by, drawn once
        return first

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    for k, row in enumerate(chosen(1)):
        assert len(set(row)) == 4
        assert all(labels[n] == k for n in row)


def test_random_choice_is_even() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    hits = np.zeros(4)
    for seed in range(200):
        exemplars = Exemplars(labels, torch.tensor([0, 2, 3]), 1, 1, "random", seed)
        hits[int(exemplars.select())] += 1
    assert hits[1] == 0  # no candidate
    assert all(40 < count < 95 for count in hits[[0, 2, 3]])


def test_who_is_chosen_again_keeps_its_place() -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    exemplars = Exemplars(labels, torch.arange(6), 1, 3)

    def choose(ranking: list[int]) -> list[int]:
        """Make the first of ``ranking`` the most uncertain, and so on."""
        logits = torch.zeros(6, 2)
        for place, index in enumerate(ranking):
            logits[index, 0] = 1.0 + place
        show(exemplars, logits, torch.zeros(6, 1), torch.arange(6))
        (row,) = exemplars.select().tolist()
        return row

    assert choose([4, 2, 0, 1, 3, 5]) == [4, 2, 0]
    assert choose([0, 4, 2, 1, 3, 5]) == [4, 2, 0]  # another order, the same images
    assert choose([5, 0, 4, 2, 1, 3]) == [4, 5, 0]  # 2 left, 5 takes its place
    assert choose([1, 3, 5, 0, 2, 4]) == [1, 5, 3]  # the better newcomer first
    assert choose([0, 2, 4, 1, 3, 5]) == [0, 2, 4]


def test_scores_of_an_earlier_epoch_do_not_count() -> None:
    exemplars = Exemplars(torch.zeros(4, dtype=torch.int64), torch.arange(4), 1, 1)
    certain, uncertain = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    show(exemplars, torch.cat([uncertain, certain, certain, certain]), torch.zeros(4, 1),
         torch.arange(4))  # fmt: skip
    assert exemplars.select().tolist() == [[0]]
    show(exemplars, torch.cat([certain, certain, certain, uncertain]), torch.zeros(4, 1),
         torch.tensor([1, 2, 3]))  # fmt: skip
    assert exemplars.select().tolist() == [[3]]


def test_class_with_too_few_images_repeats_them() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    exemplars = Exemplars(labels, torch.arange(9), 3, 5)
    for epoch in range(2):
        show(exemplars, *an_epoch(epoch, 9, 3), torch.arange(9))
        rows = exemplars.select().tolist()
        assert len(set(rows[0])) == 5
        assert sorted(rows[1].count(n) for n in (6, 7)) == [2, 3]
        assert rows[2] == [8] * 5


@pytest.mark.parametrize("rule", RULES)
def test_class_without_an_image_is_refused(rule: Any) -> None:
    labels = torch.tensor([0, 0, 1, 2, 2])
    exemplars = Exemplars(labels, torch.tensor([0, 1, 3, 4]), 3, 1, rule)
    show(exemplars, *an_epoch(0, 5, 3), torch.tensor([0, 1, 3, 4]))
    with pytest.raises(UserError, match="a class has no training image"):
        exemplars.select()


def test_unknown_rule_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"max_entropy, min_entropy, random, nearest_mean.*'best'"):
        Exemplars(torch.zeros(2), torch.arange(2), 1, 1, "best")  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_interrupted_epoch_goes_on_where_its_state_was_taken(rule: Any, tmp_path: Path) -> None:
    labels = torch.arange(3).repeat(8)
    whole = Exemplars(labels, torch.arange(24), 3, 2, rule, seed=1)
    show(whole, *an_epoch(0, 24, 3), torch.arange(24))
    whole.select()
    show(whole, *an_epoch(1, 24, 3), torch.arange(12))
    torch.save(whole.state_dict(), tmp_path / "state")
    again = Exemplars(labels, torch.arange(24), 3, 2, rule, seed=1)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    again.to(torch.device("cpu"))
    for exemplars in (whole, again):
        show(exemplars, *an_epoch(1, 24, 3), torch.arange(12, 24))
        exemplars.select()
        show(exemplars, *an_epoch(2, 24, 3), torch.arange(24))
    assert torch.equal(whole.select(), again.select())


def test_state_holds_no_features_and_no_images() -> None:
    exemplars = Exemplars(torch.arange(3).repeat(8), torch.arange(24), 3, 2, "nearest_mean")
    show(exemplars, *an_epoch(0, 24, 3, width=9), torch.arange(24))
    shapes = {k: tuple(v.shape) for k, v in exemplars.state_dict().items() if v is not None}
    assert shapes == {"scores": (24,), "sums": (3, 10)}


def test_observing_keeps_no_graph() -> None:
    exemplars = Exemplars(torch.arange(2), torch.arange(2), 2, 1, "nearest_mean")
    features = torch.ones(2, 3, requires_grad=True)
    exemplars.observe(torch.arange(2), torch.arange(2), features[:, :2] * 2, features)
    assert not any(v.requires_grad for v in exemplars.state_dict().values() if v is not None)


TWO_PROCESSES = """
import json, os, sys
import torch
import torch.distributed as dist
from geniu_lightning.training.exemplars import Exemplars

folder = sys.argv[1]
rank = 0 if os.fork() else 1
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
cases = torch.load(f"{folder}/cases", weights_only=True)
labels = cases.pop("labels")

def run(rule, checkpoint, resume):
    # at a checkpoint Lightning asks every rank for its state, writes rank 0's, gives that to all
    exemplars = Exemplars(labels, torch.arange(len(labels)), 3, 2, rule, seed=1)
    chosen = []
    for epoch, (logits, features, order) in enumerate(cases[rule]):
        for place, rows in enumerate(order.split(6)):
            mine = rows[rank::2]
            exemplars.observe(mine, labels[mine], logits[mine], features[mine])
            if checkpoint and (epoch, place) == (1, 1):
                state = exemplars.state_dict()
                if rank == 0:
                    torch.save(state, f"{folder}/{rule}")
                dist.barrier()
                if resume:
                    exemplars = Exemplars(labels, torch.arange(len(labels)), 3, 2, rule, seed=1)
                    exemplars.load_state_dict(torch.load(f"{folder}/{rule}", weights_only=True))
                dist.barrier()
        chosen.append(exemplars.select().tolist())
    return chosen

results = {
    name: {rule: run(rule, *how) for rule in cases}
    for name, how in
    {"through": (False, False), "checkpointed": (True, False), "resumed": (True, True)}.items()
}
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump(results, file)
dist.destroy_process_group()
if rank:
    os._exit(0)
os.wait()
"""


def case(rule: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    epochs = []
    for epoch in range(3):
        logits, features = an_epoch(epoch, 24, 3)
        logits[4:12] = logits[4]  # ties, some across the processes
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        epochs.append((logits, features, order))
    return epochs


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    cases = {rule: case(rule) for rule in RULES}
    torch.save({"labels": torch.arange(3).repeat(8)} | cases, folder / "cases")
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(folder)],
        timeout=60, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["through", "checkpointed", "resumed"])
def test_two_processes_choose_as_one_does(
    how: str, rule: Any, two_processes: list[dict[str, Any]]
) -> None:
    exemplars = Exemplars(torch.arange(3).repeat(8), torch.arange(24), 3, 2, rule, seed=1)
    expected = []
    for logits, features, order in case(rule):
        show(exemplars, logits, features, order, batch=6)
        expected.append(exemplars.select().tolist())
    first, second = (results[how][rule] for results in two_processes)
    assert first == second
    assert first == expected
