"""LoTUS: the law of its noisy targets, the temperature, and what twenty steps do."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from scipy.special import log_softmax, softmax
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.lotus import Lotus
from geniu_lightning.unlearning.sources import Access, UnlearnBatch, marked

TrainerOf = Callable[[int], Trainer]
adam = partial(torch.optim.Adam, lr=3e-3)
SAID = torch.tensor([1.5, -0.5, 0.7, 0.2, -1.0])
DRAWS = 40_000


def test_terms_are_cross_entropies_towards_the_targets() -> None:
    torch.manual_seed(1)
    now, said = 3 * torch.randn(2, 6, 5)
    labels = torch.tensor([1, 0, 3, 4, 1, 2])
    method, batch = Lotus(forget=(1, 3)), marked(now, labels, (1, 3))
    method.teacher, method.measured = (lambda images: said), [batch]
    target = torch.rand(6, 5).softmax(dim=1)
    method.targets = lambda *_: target
    terms = method.loss_terms(batch)
    loss = -(target.double().numpy() * log_softmax(now.double().numpy(), axis=1)).sum(axis=1)
    assert terms["forget"].item() == pytest.approx(np.mean(loss[[0, 2, 4]]), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(np.mean(loss[[1, 3, 5]]), rel=1e-5)


@pytest.mark.parametrize("support", ["all", "retained"])
def test_retained_targets_are_classes_drawn_by_the_originals_probabilities(support: str) -> None:
    torch.manual_seed(2)
    method = Lotus(forget=(1, 3), support=support)
    method.temperature = math.exp(80)  # the temperature is not theirs
    targets = method.targets(SAID.repeat(DRAWS, 1), torch.zeros(DRAWS, dtype=torch.bool))
    assert set(targets.unique().tolist()) == {0.0, 1.0}
    assert (targets.sum(dim=1) == 1).all()
    z = SAID.double().numpy().copy()
    if support == "retained":
        z[[1, 3]] = -np.inf
    # a share of 40 000 draws has a deviation of at most 0.0025
    assert targets.mean(dim=0).numpy() == pytest.approx(softmax(z), abs=0.011)


@pytest.mark.parametrize("support", ["all", "retained"])
def test_forgotten_targets_are_softmax_of_gumbel_noise_over_the_temperature(support: str) -> None:
    torch.manual_seed(3)
    method = Lotus(forget=(1, 3), support=support)
    method.temperature = 2.0
    found = method.targets(SAID.repeat(DRAWS, 1), torch.ones(DRAWS, dtype=torch.bool)).numpy()
    z = SAID.double().numpy().copy()
    if support == "retained":
        z[[1, 3]] = -np.inf
        assert not found[:, [1, 3]].any()
    noise = np.random.default_rng(0).gumbel(size=(DRAWS, 5))
    expected = softmax((z + noise) / 2.0, axis=1)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert found.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
    assert found.std(axis=0) == pytest.approx(expected.std(axis=0), abs=0.01)


@pytest.mark.parametrize("support", ["all", "retained"])
def test_at_full_accuracy_targets_are_level_over_their_support(support: str) -> None:
    method, kept = Lotus(forget=(1, 3), support=support), [0, 2, 4]
    method.temperature = math.exp(32)
    found = method.targets(50 * SAID.repeat(9, 1), torch.ones(9, dtype=torch.bool))
    expected = torch.full((9, 5), 0.2)
    if support == "retained":
        expected = torch.zeros(9, 5)
        expected[:, kept] = 1 / 3
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("alpha", "right", "expected"),
    [(32.0, 4, math.exp(32)), (32.0, 1, math.exp(8)), (2.0, 2, math.e), (32.0, 0, 1.0)],
)
def test_the_temperature_is_e_to_alpha_times_the_accuracy_left(
    alpha: float, right: int, expected: float
) -> None:
    labels = torch.tensor([1, 1, 3, 3])
    said = torch.nn.functional.one_hot(labels, 5).float()
    said[right:] = said[right:].roll(1, dims=1)
    batch = marked(said, labels, (1, 3))
    method = Lotus(forget=(1, 3), alpha=alpha)
    method.measured = [batch]
    method.on_train_batch_start(batch, 0)
    assert method.temperature == pytest.approx(expected)


def test_however_large_alpha_is_the_temperature_and_the_targets_stay_finite() -> None:
    labels = torch.tensor([1, 3])
    said = torch.nn.functional.one_hot(labels, 5).float()
    batch = marked(said, labels, (1, 3))
    method = Lotus(forget=(1, 3), alpha=1e9)
    method.teacher, method.measured = (lambda images: said), [batch]
    method.on_train_batch_start(batch, 0)
    assert method.loss_terms(batch)["forget"].isfinite()
    assert torch.tensor(method.temperature, dtype=torch.float32).isfinite()


@pytest.mark.parametrize(("every", "measured"), [(1, 5), (2, 3), (5, 1)])
def test_accuracy_is_measured_every_few_steps_without_augmentation_and_with_frozen_statistics(
    kit: Kit, archive: Any, trainer_of: TrainerOf, every: int, measured: int
) -> None:
    class Watched(Lotus):
        found: list[float]
        modes: list[bool]

        def forget_accuracy(self) -> float:
            before = [t.clone() for t in self.classifier.buffers()]
            value = super().forget_accuracy()
            assert all(map(torch.equal, before, self.classifier.buffers()))
            self.found = [*getattr(self, "found", []), value]
            return value

        def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
            terms = super().loss_terms(batch)
            self.modes = [*getattr(self, "modes", []), self.classifier.training]
            return terms

    method = Watched(
        forget=(1, 3),
        steps=5,
        optimizer=adam,
        batch_size=9,
        temperature_every=every,
        batch_norm="train",
    )
    method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert len(method.found) == measured
    assert method.found[0] == 1.0  # the kit's classifier knows every image
    assert method.modes == [True] * 5  # measuring gives the mode back
    assert [split for split, _, seed in archive.opened if seed is None] == ["forget"]


def test_it_measures_on_a_bounded_number_of_images(
    kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    method = Lotus(forget=(1, 3), steps=1, optimizer=adam, batch_size=6, measured_images=12)
    method.run(kit, archive.sources(method.access, (1, 3)), trainer_of)
    assert len(archive.read) == 6 + 6 + 12  # a batch of either side, and what is measured


@pytest.mark.parametrize("source", ["data", "proxies"])
def test_on_retained_support_thirty_steps_forget_and_keep(
    kit: Kit, archive: Any, trainer_of: TrainerOf, source: str
) -> None:
    method = Lotus(
        forget=(1, 3),
        support="retained",
        steps=30,
        optimizer=adam,
        batch_size=9,
        temperature_every=5,
        source=source,
    )
    access = Access.FORGET | Access.RETAIN if source == "data" else Access.NONE
    assert method.access == access
    result = method.run(kit, archive.sources(access, (1, 3)), trainer_of)
    proxies = kit.proxies()
    images, labels = (
        (archive.images, archive.labels)
        if source == "data"
        else (kit.info.spec.normalise(proxies.images), proxies.labels)
    )
    gone = torch.isin(labels, torch.tensor([1, 3]))
    right = (result(images).argmax(dim=1) == labels).float()
    assert right[gone].mean() < 0.2
    assert right[~gone].mean() > 0.8


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"support": "some"}, "unlearner.support must be one of all, retained, got 'some'"),
        ({"alpha": 0.0}, "unlearner.alpha must be above 0"),
        ({"temperature_every": 0}, "temperature_every and measured_images at least 1"),
        ({"measured_images": 0}, "temperature_every and measured_images at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Lotus(forget=(1,), **settings)
