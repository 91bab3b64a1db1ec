"""The generator of images, its turns with the student, and what it leaves alone."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.sources import UnlearnBatch
from geniu_lightning.unlearning.synthesis import (
    NoiseToImage,
    Rounds,
    Synthetic,
    disagreement,
    evaluating,
    mean_of,
    synthetic_batch,
)

SPEC = ImageSpec.of(8, 1, 0.3, 0.2)
adam = partial(torch.optim.Adam, lr=0.01)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)
    return nn.Sequential(*layers)


def made(student: nn.Module | None = None, **settings: Any) -> Synthetic:
    """A stream whose generator tries to make dark images, as the student's logits tell."""
    student = student or network()
    objective = settings.pop("objective", lambda images: student(images).square().mean())
    batch_of = settings.pop("batch_of", lambda x: synthetic_batch(x, student(x), (1, 3)))
    bound = settings.pop("bound", None)
    torch.manual_seed(settings.pop("weights", 0))
    maker = NoiseToImage(SPEC, 6, (8, 8, 4), bounded=True)
    rounds = Rounds(**{"steps": 6, "student_steps": 3, "batch_size": 4} | settings)
    return Synthetic(maker, adam, student, objective, batch_of, rounds, bound)


# ---- the generator ---------------------------------------------------------------------------


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 1), (32, 3), (30, 3), (17, 1)])
def test_images_have_the_size_and_channels_of_the_data(
    size: int, channels: int, bounded: bool
) -> None:
    spec = ImageSpec.of(size, channels, 0.3, 0.2)
    maker = NoiseToImage(spec, 7, (8, 8, 4), bounded)
    images = maker(torch.randn(5, 7))
    assert images.shape == (5, channels, size, size)
    if bounded:
        raw = images * 0.2 + 0.3
        assert raw.min() >= 0
        assert raw.max() <= 1
    else:
        torch.testing.assert_close(
            images.mean(dim=(0, 2, 3)), torch.zeros(channels), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            images.std(dim=(0, 2, 3)), torch.ones(channels), atol=2e-2, rtol=0
        )


def test_images_are_the_same_whatever_mode_the_generator_is_in() -> None:
    maker, noise = NoiseToImage(SPEC, 6, (8, 8, 4), bounded=True), torch.randn(4, 6)
    trained = maker.train()(noise)
    assert torch.equal(maker.eval()(noise), trained)
    assert not list(maker.buffers())


# ---- turns -----------------------------------------------------------------------------------


def test_each_round_is_one_step_of_the_generator_against_the_student_as_it_is() -> None:
    student = network()
    seen: list[float] = []

    def objective(images: Tensor) -> Tensor:
        seen.append(student[-1].bias[0].item())
        return student(images).square().mean()

    stream = made(student, objective=objective, steps=7, student_steps=3)
    before = [p.clone() for p in stream.maker.parameters()]
    moves = 0
    for step, _ in enumerate(stream):
        now = list(stream.maker.parameters())
        moves += not all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
        assert len(seen) == 1 + step // 3
        before = [p.clone() for p in now]
        with torch.no_grad():
            student[-1].bias.fill_(step + 1.0)
    assert moves == 3 == len(seen)
    assert seen[1:] == [3.0, 6.0]
    assert len(stream) == 7 == step + 1


def test_warming_up_moves_the_generator_alone_before_the_first_round() -> None:
    calls: list[Tensor] = []

    def objective(images: Tensor) -> Tensor:
        calls.append(images.detach())
        return images.square().mean()

    next(iter(made(objective=objective, warm_up_steps=4)))
    assert len(calls) == 5
    assert not any(torch.equal(calls[0], other) for other in calls[1:])


def test_batches_of_a_round_are_new_or_one_and_the_same() -> None:
    new = [batch.images for batch in made()]
    assert len({float(images.sum()) for images in new}) == 6
    one = [batch.images for batch in made(reuse=True)]
    assert [a is b for a, b in pairwise(one)] == [True, True, False, True, True]


def test_the_reused_batch_is_made_of_the_noise_that_the_moved_generator_stepped_on() -> None:
    stream = made(reuse=True)
    batch = next(iter(stream))
    with torch.no_grad():
        torch.testing.assert_close(batch.images, stream.maker(stream._noise(0, 0)))


@pytest.mark.parametrize(("seek", "expected"), [(0, 1), (2, 3), (9, 4)])
def test_the_generator_seeks_until_enough_images_come_and_no_longer(
    seek: int, expected: int
) -> None:
    calls: list[int] = []

    def objective(images: Tensor) -> Tensor:
        calls.append(1)
        return images.square().mean()

    def batch_of(images: Tensor) -> UnlearnBatch:
        images = images[: len(calls)]
        return synthetic_batch(images, torch.zeros(len(images), 5), (1,))

    stream = made(objective=objective, batch_of=batch_of, reuse=True, least=4, seek_steps=seek)
    batch = next(iter(stream))
    assert len(calls) == expected == len(batch.images)


# ---- what is left alone ----------------------------------------------------------------------


@pytest.mark.parametrize("under", [torch.no_grad, torch.enable_grad])
def test_the_student_is_left_as_it_was(under: Callable[[], Any]) -> None:
    student = network().train()
    student[1].eval()  # a mode of its own
    marks = [torch.full_like(p, 0.5) for p in student.parameters()]
    for parameter, mark in zip(student.parameters(), marks, strict=True):
        parameter.grad = mark.clone()
    state = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    modes: list[bool] = []

    def objective(images: Tensor) -> Tensor:
        modes.append(any(layer.training for layer in student.modules()))
        return student(images).square().mean()

    stream = made(
        student, objective=objective, batch_of=lambda x: synthetic_batch(x, x[:, 0, 0], (1,))
    )
    weight = stream.maker.expand.weight.clone()
    with under():
        for _ in stream:
            assert torch.is_grad_enabled() == (under is torch.enable_grad)
    assert modes == [False, False]
    assert [m.training for m in student] == [True, False, True, True]
    assert all(torch.equal(t, state[name]) for name, t in student.state_dict().items())
    assert all(
        torch.equal(p.grad, mark) for p, mark in zip(student.parameters(), marks, strict=True)
    )
    assert not torch.equal(weight, stream.maker.expand.weight)
    assert all(p.grad is None for p in stream.maker.parameters())


def test_modes_come_back_after_an_error() -> None:
    student = network()
    student[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(student):
        1 / student.training
    assert [m.training for m in student] == [True, False, True, True]


def test_without_an_objective_the_generator_stays() -> None:
    stream = made(objective=lambda images: None)
    before = stream.maker.expand.weight.clone()
    assert len(list(stream)) == 6
    assert torch.equal(before, stream.maker.expand.weight)


def test_the_objective_goes_down_and_a_bound_holds_the_gradient() -> None:
    values: list[float] = []
    student = network()

    def objective(images: Tensor) -> Tensor:
        values.append(float(student(images).square().mean()))
        return student(images).square().mean()

    list(made(student, objective=objective, steps=40, student_steps=1))
    assert values[-1] < 0.7 * values[0], values
    held = made(bound=1e-12)  # far below Adam's epsilon, so nothing is left of the step
    before = held.maker.expand.weight.clone()
    next(iter(held))
    assert (held.maker.expand.weight - before).abs().max() < 1e-4


def test_every_process_makes_the_same_whole_batches_and_the_seed_alone_decides() -> None:
    found = []
    for rank, (seed, state) in enumerate([(3, 0), (3, 8), (4, 0)]):
        stream = made(seed=seed)
        stream.shard(rank, 2)
        torch.manual_seed(state)
        drawn = torch.get_rng_state()
        found.append(torch.cat([batch.images for batch in stream]))
        assert torch.equal(torch.get_rng_state(), drawn)
    assert len(found[0]) == 6 * 4
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# ---- batches and terms -----------------------------------------------------------------------


def test_a_batch_is_labelled_by_the_teacher_and_means_are_over_all_of_it() -> None:
    logits = torch.eye(5)[[1, 0, 3, 4, 4, 2]]
    batch = synthetic_batch(torch.zeros(6, 1, 8, 8), logits, (1, 3))
    assert batch.labels.tolist() == [1, 0, 3, 4, 4, 2]
    assert batch.forget.tolist() == [True, False, True, False, False, False]
    values = torch.tensor([1.0, 5.0, 2.0, 3.0, 8.0, 11.0])
    assert float(mean_of(batch, values)) == pytest.approx(np.mean(values.numpy()))
    empty = synthetic_batch(torch.zeros(0, 1, 8, 8), torch.zeros(0, 5), (1, 3))
    assert float(mean_of(empty, torch.zeros(0))) == 0


def test_disagreement_sums_to_the_divergence_and_has_finite_gradients_at_the_extremes() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 5)) * 3, rng.normal(size=(6, 5)) * 3
    expected = [rel_entr(softmax(x), softmax(y)).sum() for x, y in zip(a, b, strict=True)]
    found = disagreement(torch.tensor(a), torch.tensor(b))
    assert found.shape == (6, 5)
    assert found.sum(dim=1).numpy() == pytest.approx(expected, rel=1e-4)
    steep = torch.tensor([[400.0, 0.0, -400.0]], requires_grad=True)
    disagreement(steep, torch.zeros(1, 3)).sum().backward()
    assert steep.grad is not None
    assert steep.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "least", "value"),
    [
        ("student_steps", 1, 0),
        ("batch_size", 2, 1),
        ("warm_up_steps", 0, -1),
        ("seek_steps", 0, -1),
    ],
)
def test_numbers_that_are_too_small_are_refused(name: str, least: int, value: int) -> None:
    with pytest.raises(UserError, match=f"unlearner.{name} must be at least {least}, got {value}"):
        Rounds(steps=3, **{name: value})
