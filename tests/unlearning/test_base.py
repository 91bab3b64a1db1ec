"""The base: batch norm, gradients, steps, schedule, logs, the clock, and what it refuses."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import base
from geniu_lightning.unlearning.base import Clock, Unlearner
from geniu_lightning.unlearning.sources import Access, RepeatBatch, Sources, UnlearnBatch, marked

TrainerOf = Callable[[int], Trainer]
rough = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)


class Toy(Unlearner):
    """Cross-entropy towards the next class, on the kit's proxies."""

    def __init__(self, *, scale: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.scale = scale
        self.rates: list[float] = []
        self.modes: list[bool] = []

    def prepare(self, kit: Kit, sources: Sources) -> None:
        super().prepare(kit, sources)
        proxies = kit.proxies()
        images, labels = kit.info.spec.normalise(proxies.images), (proxies.labels + 1) % 5
        self.batches = RepeatBatch(marked(images, labels, (0,)), self.steps)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.modes.append(self.classifier.training)
        loss = self.scale * F.cross_entropy(self.classifier(batch.images), batch.labels)
        return {"near": 0.25 * loss, "far": 0.75 * loss}


def toy(**settings: Any) -> Toy:
    return Toy(**{"forget": (0,), "steps": 3, "optimizer": rough} | settings)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def equal(first: list[Tensor], second: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def shift(before: nn.Module, after: nn.Module) -> float:
    """How far a step moved all parameters together."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return math.sqrt(sum((a - b).double().square().sum().item() for a, b in pairs))


# ---- batch norm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "statistics_stay", "affine_stays"),
    [("frozen", True, False), ("frozen_affine", True, True), ("train", False, False)],
)
def test_batch_norm_modes_hold_against_weight_decay_and_momentum(
    kit: Kit,
    archive: Any,
    trainer_of: TrainerOf,
    mode: str,
    statistics_stay: bool,
    affine_stays: bool,
) -> None:
    method = toy(batch_norm=mode)
    result = method.run(kit, archive.sources(Access.NONE, (0,)), trainer_of)
    kept = equal(list(kit.classifier.buffers()), list(result.buffers()))
    assert kept == [statistics_stay] * len(kept)
    for old, new in zip(norms(kit.classifier), norms(result), strict=True):
        assert equal([old.weight, old.bias], [new.weight, new.bias]) == [affine_stays] * 2
    assert not torch.equal(kit.classifier.head.weight, result.head.weight)
    assert method.modes == [mode == "train"] * 3
    assert not any(layer.training for layer in result.modules())


def test_an_unknown_batch_norm_mode_is_refused_with_the_choices() -> None:
    with pytest.raises(
        UserError, match=r"unlearner.batch_norm must be one of frozen, frozen_affine, train.*'off'"
    ):
        toy(batch_norm="off")


# ---- gradient, steps, schedule ---------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.5, 0.01])
def test_the_bound_of_the_gradient_bounds_the_step(
    kit: Kit, archive: Any, trainer_of: TrainerOf, bound: float
) -> None:
    settings = {"steps": 1, "scale": 1e3, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    sources = archive.sources(Access.NONE, (0,))
    free = toy(**settings).run(kit, sources, trainer_of)
    held = toy(**settings, max_gradient_norm=bound).run(kit, sources, trainer_of)
    assert shift(kit.classifier, free) > 10
    assert shift(kit.classifier, held) == pytest.approx(bound, rel=1e-3)


def test_a_gradient_within_its_bound_is_left_as_it_is(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    sources = archive.sources(Access.NONE, (0,))
    free = toy().run(kit, sources, trainer_of)
    held = toy(max_gradient_norm=1e6).run(kit, sources, trainer_of)
    assert all(equal(list(free.state_dict().values()), list(held.state_dict().values())))


@pytest.mark.parametrize("steps", [1, 4])
def test_the_trainer_is_asked_for_and_takes_just_the_steps(
    kit: Kit, archive: Any, trainer_of: TrainerOf, steps: int
) -> None:
    asked: list[int] = []
    method = toy(steps=steps)
    method.run(kit, archive.sources(Access.NONE, (0,)), lambda n: asked.append(n) or trainer_of(n))
    assert asked == [steps]
    assert len(method.rates) == steps


def test_without_steps_no_trainer_is_made(kit: Kit, archive: Any) -> None:
    def refuse(steps: int) -> Trainer:
        raise AssertionError("a trainer was made")

    toy(steps=0).run(kit, archive.sources(Access.NONE, (0,)), refuse)


def test_the_learning_rate_follows_its_course_step_by_step(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = toy(steps=4, schedule="cosine")
    method.run(kit, archive.sources(Access.NONE, (0,)), trainer_of)
    expected = [0.01 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert method.rates == pytest.approx(expected)


def test_batches_are_shared_out_to_the_trainers_rank(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    shares: list[tuple[int, int]] = []

    class Noted(RepeatBatch):
        def shard(self, rank: int, world: int) -> None:
            shares.append((rank, world))

        def __iter__(self) -> Iterator[UnlearnBatch]:
            assert shares  # shared out before anything is read
            return super().__iter__()

    class OnNoted(Toy):
        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            self.batches = Noted(self.batches.batch, self.steps)

    OnNoted(forget=(0,), steps=2, optimizer=rough).run(
        kit, archive.sources(Access.NONE, (0,)), trainer_of
    )
    assert shares == [(0, 1)]


@pytest.mark.parametrize("where", ["prepare", "loss_terms", "finish"])
def test_what_a_method_draws_follows_from_its_seed_alone(
    kit: Kit, archive: Any, trainer_of: TrainerOf, where: str
) -> None:
    class Drawing(Toy):
        draws: Tensor

        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            if where == "prepare":
                self.draws = torch.rand(3)

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            if where == "loss_terms":
                self.draws = torch.rand(3)
            return super().loss_terms(batch)

        def finish(self) -> None:
            if where == "finish":
                self.draws = torch.rand(3)

    def drawn(seed: int, random_state: int) -> Tensor:
        torch.manual_seed(random_state)
        method = Drawing(forget=(0,), steps=2, optimizer=rough, seed=seed)
        method.run(kit, archive.sources(Access.NONE, (0,)), trainer_of)
        return method.draws

    assert torch.equal(drawn(1, 0), drawn(1, 8))
    assert not torch.equal(drawn(1, 0), drawn(2, 0))


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"steps": -1}, {"steps": 5, "optimizer": None}])
def test_steps_below_zero_or_without_an_optimizer_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"got {settings['steps']} steps"):
        toy(**settings)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        toy(nonsense=1)


def test_a_method_without_a_loss_says_so() -> None:
    with pytest.raises(UserError, match="Unlearner has no loss: set its steps to 0"):
        Unlearner(forget=(0,)).loss_terms(
            UnlearnBatch(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1))
        )


@pytest.mark.parametrize(("bad", "steps", "every"), [(0, 3, 10), (3, 8, 4), (4, 5, 10)])
def test_a_loss_that_is_no_number_stops_the_run_and_names_its_step(
    kit: Kit, archive: Any, trainer_of: TrainerOf, bad: int, steps: int, every: int
) -> None:
    class Breaking(Toy):
        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            terms = super().loss_terms(batch)
            factor = math.nan if self.global_step == bad else 1.0
            return {name: factor * term for name, term in terms.items()}

    method = Breaking(forget=(0,), steps=steps, optimizer=rough, log_every_n_steps=every)
    with pytest.raises(TrainingDivergedError, match=rf"at step {bad};.*learning rate"):
        method.run(kit, archive.sources(Access.NONE, (0,)), trainer_of)
    assert len(method.rates) <= bad + every  # noticed at the next look, not at the end


# ---- what it says and how long it takes ------------------------------------------------------


class Notes(Logger):
    """Remembers what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.written.append((step, metrics))


def test_terms_are_logged_by_name_every_few_steps_and_at_the_last(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    notes = Notes()

    def with_notes(steps: int) -> Trainer:
        trainer = trainer_of(steps)
        trainer.loggers = [notes]
        return trainer

    method = toy(steps=6, log_every_n_steps=2)
    method.run(kit, archive.sources(Access.NONE, (0,)), with_notes)
    assert [step for step, _ in notes.written] == [0, 2, 4, 5]
    for _, values in notes.written:
        assert values.keys() == {"unlearn/loss/near", "unlearn/loss/far"}
        assert values["unlearn/loss/far"] == pytest.approx(3 * values["unlearn/loss/near"])


def test_the_clock_counts_preparing_stepping_and_finishing_but_not_setting_up(
    kit: Kit, archive: Any, trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(Toy):
        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            now[0] += 1

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            now[0] += 10
            return super().loss_terms(batch)

        def finish(self) -> None:
            now[0] += 100

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        now[0] += 1000
        return rough(parameters)

    def slowly(steps: int) -> Trainer:
        now[0] += 10_000
        return trainer_of(steps)

    method = Slow(forget=(0,), steps=3, optimizer=optimizer)
    method.run(kit, archive.sources(Access.NONE, (0,)), slowly)
    assert method.clock.seconds == 1 + 3 * 10 + 100 + 1000
    assert now[0] == 12_131  # the optimizer was made once before, to see whether it can be


def test_a_clock_adds_up_and_stops_when_its_block_fails() -> None:
    clock = Clock()
    assert clock.seconds == 0.0
    with clock:
        time.sleep(0.01)
    first = clock.seconds
    assert first >= 0.01
    time.sleep(0.02)
    assert clock.seconds == first
    with pytest.raises(KeyError), clock:
        raise KeyError
    second = clock.seconds
    assert second > first
    clock.start()
    clock.stop()
    assert clock.seconds > second
