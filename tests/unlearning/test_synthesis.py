"""Image synthesis: sizes, rounds of generator and student, and what neither changes."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.gkt import Gkt
from geniu_lightning.unlearning.synthesis import (
    NoiseToImage,
    SyntheticBatches,
    batch_mean,
    synthetic_batch,
)

adam = partial(torch.optim.Adam, lr=0.01)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)
    return nn.Sequential(*layers)


def synthetic(student: nn.Module | None = None, **settings: Any) -> SyntheticBatches:
    """Return batches whose generator lowers the squares of the student's logits."""
    student = student or network()
    method: dict[str, Any] = {
        **{"classifier": student, "generator_optimizer": adam, "max_gradient_norm": None},
        **{"steps": 6, "student_steps": 3, "batch_size": 4, "seed": 0},
        **{"warm_up_steps": 0, "seek_steps": 0, "one_noise": False, "least": 0},
        "generator_loss": lambda images: student(images).square().mean(),
        "batch_of": lambda x: synthetic_batch(x, student(x), (1, 3)),
    }
    torch.manual_seed(0)
    generator = NoiseToImage(1, 8, 6, (8, 8, 4), ImageSpec.of(8, 1, 0.3, 0.2).normalise)
    return SyntheticBatches(SimpleNamespace(**method | settings), generator)


def counting(calls: list[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: calls.append(images.detach()) or images.square().mean()


def test_images_have_the_size_and_channels_of_the_data_in_either_mode() -> None:
    for size, channels in [(28, 1), (30, 3), (17, 1)]:
        spec = ImageSpec.of(size, channels, 0.3, 0.2)
        bounded = NoiseToImage(channels, size, 7, (8, 8, 4), spec.normalise)
        raw = bounded(torch.randn(5, 7)) * 0.2 + 0.3
        assert raw.shape == (5, channels, size, size)
        assert raw.min() >= 0
        assert raw.max() <= 1
        free = NoiseToImage(channels, size, 7, (8, 8, 4))(torch.randn(5, 7))
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        torch.testing.assert_close(free.mean(dim=(0, 2, 3)), zeros, atol=1e-4, rtol=0)
        torch.testing.assert_close(free.std(dim=(0, 2, 3)), ones, atol=2e-2, rtol=0)
    noise = torch.randn(4, 7)
    assert torch.equal(bounded.train()(noise), bounded.eval()(noise))
    assert not list(bounded.buffers())


def test_each_round_is_one_step_of_the_generator_against_the_student_as_it_is() -> None:
    student = network()
    seen: list[float] = []

    def objective(images: Tensor) -> Tensor:
        seen.append(student[-1].bias[0].item())
        return student(images).square().mean()

    batches = synthetic(student, generator_loss=objective, steps=7)
    before = batches.generator.expand.weight.clone()
    moves = 0
    for step, _ in enumerate(batches):
        now = batches.generator.expand.weight.clone()
        moves += not torch.equal(before, now)
        assert len(seen) == 1 + step // 3
        before = now
        with torch.no_grad():
            student[-1].bias.fill_(step + 1.0)
    assert moves == 3
    assert seen[1:] == [3.0, 6.0]
    assert len(batches) == 7 == step + 1
    calls: list[Tensor] = []
    next(iter(synthetic(generator_loss=counting(calls), warm_up_steps=4)))
    assert len(calls) == 5
    assert not any(torch.equal(calls[0], other) for other in calls[1:])


def test_batches_of_a_round_are_new_or_one_of_the_noise_that_was_stepped_on() -> None:
    new = [batch.images for batch in synthetic()]
    assert len({float(images.sum()) for images in new}) == 6
    batches = synthetic(one_noise=True)
    one = []
    for batch in batches:
        one.append(batch.images)
        with torch.no_grad():
            expected = batches.generator(batches._noise((len(one) - 1) // 3, 0))
        torch.testing.assert_close(batch.images, expected)
    assert [a is b for a, b in pairwise(one)] == [True, True, False, True, True]


def test_the_generator_seeks_until_enough_images_come_and_no_longer() -> None:
    for seek, expected in [(0, 1), (2, 3), (9, 4)]:
        calls: list[Tensor] = []

        def batch_of(images: Tensor, calls: list[Tensor] = calls) -> UnlearnBatch:
            images = images[: len(calls)]
            return synthetic_batch(images, torch.zeros(len(images), 5), (1,))

        settings = {"generator_loss": counting(calls), "batch_of": batch_of, "seek_steps": seek}
        batch = next(iter(synthetic(**settings, one_noise=True, least=4)))
        assert len(calls) == expected == len(batch.images)
    with pytest.raises(SettingError, match="batch_size must be greater than or equal to 4, got 3"):
        Gkt(forget=(1,), generator_optimizer=adam, batch_size=3)


def test_the_student_is_left_as_it_was_under_no_grad_too() -> None:
    student = network().train()
    student[1].eval()  # a mode of its own
    gradients = [torch.full_like(p, 0.5) for p in student.parameters()]
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    modes: list[bool] = []

    def objective(images: Tensor) -> Tensor:
        modes.append(any(layer.training for layer in student.modules()))
        return student(images).square().mean()

    label = partial(synthetic_batch, forget=(1,))
    batches = synthetic(student, generator_loss=objective, batch_of=lambda x: label(x, x[:, 0, 0]))
    weight = batches.generator.expand.weight.clone()
    with torch.no_grad():
        assert len(list(batches)) == 6
    assert modes == [False, False]
    assert [m.training for m in student] == [True, False, True, True]
    assert all(torch.equal(t, state[name]) for name, t in student.state_dict().items())
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)
    assert not torch.equal(weight, batches.generator.expand.weight)
    assert all(p.grad is None for p in batches.generator.parameters())


def test_the_objective_is_lowered_within_the_bound_of_the_gradient() -> None:
    values: list[float] = []
    student = network()

    def objective(images: Tensor) -> Tensor:
        loss = student(images).square().mean()
        values.append(loss.item())
        return loss

    list(synthetic(student, generator_loss=objective, steps=40, student_steps=1))
    assert values[-1] < 0.7 * values[0], values
    # a bound far below Adam's epsilon leaves no step; without an objective there is none
    for settings in ({"max_gradient_norm": 1e-12}, {"generator_loss": lambda images: None}):
        batches = synthetic(**settings)
        before = batches.generator.expand.weight.clone()
        assert len(list(batches)) == 6
        assert (batches.generator.expand.weight - before).abs().max() < 1e-4


def test_every_process_makes_the_same_whole_batches_of_the_seed() -> None:
    found = []
    for rank, (seed, state) in enumerate([(3, 0), (3, 8), (4, 0)]):
        batches = synthetic(seed=seed)
        batches.shard(rank, 2)
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(torch.cat([batch.images for batch in batches]))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(found[0]) == 6 * 4
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_batch_is_labelled_by_the_teacher_and_its_mean_is_over_both_sets() -> None:
    logits = torch.eye(5)[[1, 0, 3, 4, 4, 2]]
    batch = synthetic_batch(torch.zeros(6, 1, 8, 8), logits, (1, 3))
    assert batch.labels.tolist() == [1, 0, 3, 4, 4, 2]
    assert batch.forget.tolist() == [True, False, True, False, False, False]
    values = torch.tensor([1.0, 5.0, 2.0, 3.0, 8.0, 11.0])
    assert float(batch_mean(batch, values)) == pytest.approx(np.mean(values.numpy()))
    empty = synthetic_batch(torch.zeros(0, 1, 8, 8), torch.zeros(0, 5), (1, 3))
    assert float(batch_mean(empty, torch.zeros(0))) == 0
