"""Relearning on small real networks: what was hidden comes back, what was never there does not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks import relearning
from geniu_lightning.evaluation.attacks.fine_tuning import few_shot
from geniu_lightning.evaluation.attacks.relearning import (
    Adaptive,
    KShot,
    OwnProxies,
    RelearnTime,
    RetainOnly,
)
from geniu_lightning.evaluation.context import Context, Proxies, Split
from geniu_lightning.evaluation.evaluator import fingerprint
from geniu_lightning.evaluation.metric import Absent, Values

CLASSES, SIZE = 5, 12
FEW = {"draws": 2, "scored": 40, "steps": (0, 1, 2, 5, 10)}


class TwoLayers(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(SIZE, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
            self.head = nn.Linear(16, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def blobs(seed: int, each: int) -> Split:
    centres = 2 * torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(CLASSES).repeat(each)
    noise = torch.randn(len(labels), SIZE, generator=torch.Generator().manual_seed(seed))
    images = centres[labels] + noise
    return Split(labels, lambda positions: images[positions])


TRAIN, TEST = blobs(2, 60), blobs(3, 40)


def taught(seed: int, classes: tuple[int, ...]) -> TwoLayers:
    network = TwoLayers(seed)
    chosen = TRAIN.positions_of(classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(network(TRAIN.read(chosen)), TRAIN.labels[chosen]).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    original = taught(0, (0, 1, 2, 3, 4))
    mask = copy.deepcopy(original)
    mask.head.weight[0], mask.head.bias[0] = 0.0, -1e4
    suppressed = copy.deepcopy(original)  # hides as tuning does: a bias that gradients can lift
    suppressed.head.bias[0] -= 12.0
    found = {"original": original, "mask": mask, "suppressed": suppressed}
    return found | {f"oracle{k}": taught(k, (1, 2, 3, 4)) for k in (11, 12)}


def about(models: dict[str, nn.Module], name: str, **more: object) -> Context:
    return Context(
        original=models["original"],
        unlearned=models[name],
        forget=(0,),
        class_names=tuple("abcde"),
        class_counts=(60,) * 5,
        splits={"train": TRAIN, "test": TEST},
        **more,
    )


def test_what_was_hidden_comes_back_faster_than_what_was_never_there(
    models: dict[str, nn.Module],
) -> None:
    found = {
        name: KShot(shots=(10,), rate=3e-3, **FEW)(about(models, name))["k10.area"]
        for name in models
    }
    oracles = max(found["oracle11"], found["oracle12"])
    assert found["original"] > 0.9
    assert found["original"] > oracles + 0.3
    assert found["suppressed"] > oracles + 0.1
    assert found["mask"] < 0.05  # gradients do not get through: hence the adaptive attack


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
    start, kept = found["mask"]["start"], found["mask"]["start_retain"]
    assert start > 0.9
    assert found["mask"]["curve"][0] == start
    assert found["mask"]["retain_curve"][0] == kept


def test_retained_images_alone_bring_no_oracle_anything_back(models: dict[str, nn.Module]) -> None:
    for name, expected in (("oracle11", 0.0), ("mask", 0.0), ("original", 1.0)):
        values = RetainOnly(**FEW)(about(models, name))
        assert values["area"] == pytest.approx(expected, abs=0.05), name
        assert len(values["curve"]) == len(FEW["steps"])


def test_relearn_time_counts_steps_and_its_ratio_is_small_where_knowledge_was_left(
    models: dict[str, nn.Module],
) -> None:
    metric = RelearnTime(rate=3e-3, draws=2, scored=40, batch=30)
    rows = {name: metric(about(models, name)) for name in models}
    oracles = [rows["oracle11"], rows["oracle12"]]
    assert rows["original"]["steps"] == 0.0  # it is read before the first step
    assert metric.conclude(rows["original"], oracles) == {"ain": 0.0}
    assert metric.conclude(rows["suppressed"], oracles)["ain"] < 0.8
    assert 0.5 < metric.conclude(oracles[0], oracles[1:])["ain"] < 2


@pytest.mark.parametrize(
    ("own", "oracles", "said"),
    [
        (4.0, [2.0, 6.0], 1.0),
        (4.0, [2.0, None, 8.0], 0.5),  # one that is not through is slower than all that are
        (None, [2.0, 6.0], "above 25.00"),
        (4.0, [2.0, None, None], "below 0.04"),
        (None, [2.0, None], "neither"),
        (4.0, [], "no oracles"),
        (4.0, [0.0, 0.0], "at once"),
    ],
)
def test_what_was_not_relearned_in_time_is_said_and_never_a_number(
    own: float | None, oracles: list[float | None], said: float | str
) -> None:
    late = Absent("not relearned within 100 steps")
    row, *others = [{"steps": late if v is None else v} for v in (own, *oracles)]
    (found,) = RelearnTime().conclude(row, others).values()
    if isinstance(said, str):
        assert isinstance(found, Absent)
        assert said in found.reason
    else:
        assert found == pytest.approx(said)


def test_a_budget_that_is_used_up_is_absent(models: dict[str, nn.Module]) -> None:
    found = RelearnTime(budget=1, rate=1e-6, draws=1, scored=40)(about(models, "oracle11"))
    assert found == {"steps": Absent("not relearned within 1 steps")}


def test_own_proxies_are_attacked_with_alone(models: dict[str, nn.Module]) -> None:
    assert isinstance(OwnProxies(**FEW)(about(models, "oracle11"))["area"], Absent)
    proxies = Proxies(TRAIN.read(torch.arange(50)), TRAIN.labels[:50])
    nothing = {"test": TEST}  # no training image is needed, or read
    given = {
        name: Context(
            original=models["original"],
            unlearned=models[name],
            forget=(0,),
            class_names=tuple("abcde"),
            class_counts=(60,) * 5,
            splits=nothing,
            proxies=proxies,
        )
        for name in ("suppressed", "oracle11")
    }
    found = {name: OwnProxies(rate=3e-3, **FEW)(context) for name, context in given.items()}
    assert found["suppressed"]["area"] > found["oracle11"]["area"] + 0.1


@pytest.mark.parametrize("metric", [KShot(shots=(1,), **FEW), Adaptive(**FEW), RetainOnly(**FEW)])
def test_attacks_repeat_change_nothing_and_need_training_images(
    metric: KShot, models: dict[str, nn.Module]
) -> None:
    given = about(models, "mask")
    before, state = fingerprint(models["mask"]), torch.get_rng_state()
    assert metric(given) == metric(given)
    assert fingerprint(models["mask"]) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert metric.work(given) > 0
    (without,) = metric(
        Context(models["original"], models["mask"], (0,), tuple("abcde"), (60,) * 5, {})
    ).values()
    assert isinstance(without, Absent)


def test_every_k_has_its_values_and_the_rate_is_varied_for_ten(
    models: dict[str, nn.Module],
) -> None:
    few = {"scored": 40, "steps": (0, 1, 2, 5, 10)}
    given = about(models, "suppressed")
    found = KShot(shots=(1, 10), draws=1, rate=1e-3, **few)(given)
    assert {name.removesuffix(".area") for name in found if name.endswith("area")} == {
        "k1",
        "k10",
        "k10.slow",
        "k10.fast",
    }
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        alone = KShot(shots=(10,), draws=1, rate=rate, **few)(given)
        assert found[f"k10.{name}.curve"] == alone["k10.curve"], name
    assert found["k10.slow.area"] < found["k10.fast.area"]


def test_values_are_means_over_draws(models: dict[str, nn.Module]) -> None:
    settings = {"shots": (1,), "rate": 3e-3, "scored": 40, "steps": FEW["steps"]}
    given = about(models, "suppressed")
    single = [
        KShot(draws=1, **settings).curves(given, lambda draw, only=only: few_shot(given, 1)(only))
        for only in (0, 1)
    ]
    assert single[0] != single[1]
    both = KShot(draws=2, **settings)(given)
    for name, side in (("k1.curve", 0), ("k1.retain_curve", 1)):
        expected = [sum(pair) / 2 for pair in zip(*(one[side] for one in single), strict=True)]
        assert both[name] == pytest.approx(expected)


def test_own_proxies_come_with_as_many_retained_ones(
    models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(network: nn.Module, batches, steps, rate: float):
        seen.extend(next(batches)[1] for _ in range(3))
        yield from steps

    monkeypatch.setattr(relearning, "fine_tune", watched)
    proxies = Proxies(TRAIN.read(torch.arange(300)), TRAIN.labels[:300])
    OwnProxies(draws=1, scored=40)(about(models, "mask", proxies=proxies))
    for labels in seen:
        assert int((labels == 0).sum()) == 60
        assert len(labels) == 120
    assert not torch.equal(seen[0], seen[1])  # others are drawn anew in each step


def test_two_forgotten_classes_are_both_shown_and_averaged(models: dict[str, nn.Module]) -> None:
    given = Context(
        models["original"],
        models["mask"],
        (0, 3),
        tuple("abcde"),
        (60,) * 5,
        {"train": TRAIN, "test": TEST},
    )
    curve = KShot(shots=(1,), **FEW)(given)["k1.curve"]
    assert curve[0] == pytest.approx(0.5, abs=0.05)  # one of the two was never masked
