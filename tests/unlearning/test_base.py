"""The base: batch norm, gradients, steps, schedule, logs, the clock, and what it refuses."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from geniu_lightning.errors import SettingError, TrainingDivergedError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning import base
from geniu_lightning.unlearning.base import Clock, Unlearner
from geniu_lightning.unlearning.batches import StepBatches, UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.sources import Sources
from tests.unlearning.helpers import Lab, trainer_of

rough = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1)


class Toy(Unlearner):
    """Cross-entropy towards the next class, on the kit's proxies."""

    def __init__(self, *, scale: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.scale = scale
        self.rates: list[float] = []
        self.modes: list[bool] = []
        self.shares: list[tuple[int, int]] = []

    def prepare(self, kit: Kit, sources: Sources) -> None:
        super().prepare(kit, sources)
        proxies = kit.proxies()
        images, labels = kit.info.spec.normalise(proxies.images), (proxies.labels + 1) % 5
        batch = labelled_batch(images, labels, (0,))
        self.batches = StepBatches(lambda step: batch, self.steps)
        self.batches.shard = lambda *share: self.shares.append(share)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.modes.append(self.classifier.training)
        loss = self.scale * F.cross_entropy(self.classifier(batch.images), batch.labels)
        return {"near": 0.25 * loss, "far": 0.75 * loss}


def toy(kind: type[Toy] = Toy, **settings: Any) -> Toy:
    return kind(**{"forget": (0,), "steps": 3, "optimizer": rough} | settings)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def equal(first: Any, second: Any) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def shift(before: nn.Module, after: nn.Module) -> float:
    """Return the norm of the change of all parameters together."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return math.sqrt(sum((a - b).double().square().sum().item() for a, b in pairs))


@pytest.mark.parametrize(
    ("mode", "statistics_stay", "affine_stays"),
    [("frozen", True, False), ("frozen_affine", True, True), ("train", False, False)],
)
def test_batch_norm_modes_hold_against_weight_decay_and_momentum(
    lab: Lab,
    mode: str,
    statistics_stay: bool,
    affine_stays: bool,
) -> None:
    method = toy(batch_norm=mode)
    result = lab.run(method)
    same = equal(lab.kit.classifier.buffers(), result.buffers())
    assert same == [statistics_stay] * len(same)
    for old, new in zip(norms(lab.kit.classifier), norms(result), strict=True):
        assert equal([old.weight, old.bias], [new.weight, new.bias]) == [affine_stays] * 2
    assert not torch.equal(lab.kit.classifier.head.weight, result.head.weight)
    assert method.modes == [mode == "train"] * 3


def test_the_bound_of_the_gradient_bounds_the_step_and_leaves_smaller_gradients(lab: Lab) -> None:
    settings = {"steps": 1, "scale": 1e3, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    free = lab.run(toy(**settings))
    assert shift(lab.kit.classifier, free) > 10
    for bound in (0.5, 0.01):
        held = lab.run(toy(**settings, max_gradient_norm=bound))
        assert shift(lab.kit.classifier, held) == pytest.approx(bound, rel=1e-3)
    loose = lab.run(toy(**settings, max_gradient_norm=1e6))
    assert all(equal(free.state_dict().values(), loose.state_dict().values()))


def test_the_trainer_is_asked_for_the_steps_and_the_rate_follows_its_schedule(lab: Lab) -> None:
    asked: list[int] = []
    method = toy(steps=4, schedule="cosine")
    lab.run(method, lambda steps: asked.append(steps) or trainer_of(steps))
    assert asked == [4]
    expected = [0.01 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert method.rates == pytest.approx(expected)
    assert method.shares == [(0, 1)]  # divided among the trainer's processes
    lab.run(toy(steps=0, optimizer=None))


def test_a_trainer_of_ones_own_gives_the_same_weights(lab: Lab) -> None:
    settings = {"batch_norm": "frozen_affine"}
    expected = lab.run(toy(**settings))
    method = toy(**settings)
    method.begin(lab.kit, lab.sources(method.access, (0,)))
    trainer_of(method.steps).fit(method)
    found = method.end()
    assert not found.training
    assert all(equal(expected.state_dict().values(), found.state_dict().values()))


def test_wrong_settings_are_refused_in_a_sentence_that_names_them() -> None:
    for settings, sentence in [
        ({"forget": ()}, "forget must name at least one class"),
        ({"steps": -1}, "steps must be greater than or equal to 0, got -1"),
        ({"optimizer": None}, "steps must be 0 without an optimizer, got 3"),
        ({"optimizer": partial(torch.optim.SGD, lr=-1.0)}, "optimizer must be .*made .Invalid"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_norm": "off"}, "batch_norm must be 'frozen', 'frozen_affine' or 'train'"),
        ({"scale": "much"}, "scale must be a number, got 'much'"),  # a subclass is checked too
        ({"nonsense": 1}, "nonsense is no setting of Toy"),
    ]:
        with pytest.raises(SettingError, match=sentence):
            toy(**settings)


def test_a_method_without_loss_or_batches_says_so(lab: Lab) -> None:
    bare = Unlearner(forget=(0,), steps=1, optimizer=rough)
    with pytest.raises(UserError, match="Unlearner has no batches: set its steps to 0"):
        lab.run(bare)
    with pytest.raises(UserError, match="Unlearner has no loss: set its steps to 0"):
        bare.loss_terms(UnlearnBatch(*[torch.zeros(1)] * 4))


def test_a_non_finite_loss_or_weight_stops_the_run(lab: Lab) -> None:
    class Breaking(Toy):
        bad = 0

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            factor = math.nan if self.global_step == self.bad else 1.0
            return {name: factor * term for name, term in super().loss_terms(batch).items()}

    for bad, steps, every in ((0, 3, 10), (3, 8, 4), (4, 5, 10)):
        method = toy(Breaking, steps=steps, log_every_n_steps=every)
        method.bad = bad
        with pytest.raises(TrainingDivergedError, match=rf"at step {bad};.*learning rate"):
            lab.run(method)
        assert len(method.rates) <= bad + every  # noticed at the next entry, not at the end

    class Ending(Toy):
        def finish(self) -> None:
            self.classifier.head.weight.data[0] = math.inf

    with pytest.raises(TrainingDivergedError, match="weights stopped being finite"):
        lab.run(toy(Ending, steps=0, optimizer=None))


def test_losses_are_logged_by_name_every_few_steps_and_at_the_last(
    lab: Lab, tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path)
    lab.run(toy(steps=6, log_every_n_steps=2), partial(trainer_of, logger=logger))
    rows = pd.read_csv(logger.experiment.metrics_file_path).to_dict("records")
    assert [row.pop("step") for row in rows] == [0, 2, 4, 5]
    for values in rows:
        assert values.keys() == {"unlearn/loss/near", "unlearn/loss/far"}
        assert values["unlearn/loss/far"] == pytest.approx(3 * values["unlearn/loss/near"])


def test_the_clock_counts_preparing_batches_steps_and_finishing_but_not_setting_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(Toy):
        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            made = self.batches.batch_of

            def slowly_made(step: int) -> UnlearnBatch:
                now[0] += 0.5
                return made(step)

            self.batches.batch_of = slowly_made
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

    method = toy(Slow, optimizer=optimizer)
    lab.run(method, slowly)
    assert method.clock.seconds == 1 + 3 * 10.5 + 100 + 1000
    assert now[0] == 12_132.5  # the optimizer was made once before, to see whether it can be


def test_the_device_is_at_rest_whenever_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def note(what: str, answer: Any = None) -> Callable[[], Any]:
        return lambda: happened.append(what) or answer

    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=note("read", 0.0)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", note("rest"))
    with pytest.raises(KeyError), Clock():
        {}[happened.append("work")]
    assert happened == ["rest", "read", "work", "rest", "read"]


def test_what_a_method_draws_from_the_global_stream_follows_from_its_seed(lab: Lab) -> None:
    class Draws(Toy):
        def prepare(self, kit: Kit, sources: Sources) -> None:
            super().prepare(kit, sources)
            self.drawn = torch.rand(3).tolist()

    def drawn(seed: int) -> list[float]:
        method = toy(Draws, seed=seed, steps=0, optimizer=None)
        lab.run(method)
        return method.drawn

    assert drawn(1) == drawn(1) != drawn(2)
