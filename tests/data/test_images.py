import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geniu_lightning.data.images import ImageSpec, augment
from geniu_lightning.errors import UserError

FEW = settings(max_examples=15, deadline=None)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(image: np.ndarray, mirrored: bool, down: int, right: int, pad: int) -> np.ndarray:
    """One image (C, H, W): black around it, a window of its size cut out; by slices alone."""
    if mirrored:
        image = image[:, :, ::-1]
    _, height, width = image.shape
    around = np.zeros((image.shape[0], height + 2 * pad, width + 2 * pad), image.dtype)
    around[:, pad : pad + height, pad : pad + width] = image
    return around[:, down : down + height, right : right + width]


def found(before: np.ndarray, after: np.ndarray, pad: int) -> list[tuple[bool, int, int]]:
    """Every way to move ``before`` that gives ``after``."""
    shifts = range(2 * pad + 1)
    return [
        way
        for way in itertools.product((False, True), shifts, shifts)
        if np.array_equal(moved(before, *way, pad), after)
    ]


def test_spec_takes_one_value_for_all_channels_or_one_for_each() -> None:
    assert ImageSpec.of(28, 3, 0.5, 0.25) == ImageSpec(28, 3, (0.5,) * 3, (0.25,) * 3)
    assert ImageSpec.of(28, 3, [0.1, 0.2, 0.3], 1) == ImageSpec(28, 3, (0.1, 0.2, 0.3), (1.0,) * 3)


@pytest.mark.parametrize("size", [0, -3])
def test_a_side_below_one_pixel_is_refused(size: int) -> None:
    with pytest.raises(UserError) as error:
        ImageSpec.of(size, 1, 0.5, 0.5)
    assert str(error.value) == f"data.image_size must be at least 1, got {size}"
    assert ImageSpec.of(1, 1, 0.5, 0.5).size == 1


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_channels_other_than_grey_and_colour_are_refused(channels: int) -> None:
    with pytest.raises(UserError) as error:
        ImageSpec.of(28, channels, 0.5, 0.5)
    assert str(error.value) == f"data.channels must be 1 or 3, got {channels}"


@pytest.mark.parametrize(
    ("mean", "std"), [([0.1, 0.2], 0.5), (0.5, [0.5]), (0.5, 0.0), (0.5, [0.5, 0.5, -1.0])]
)
def test_a_mean_or_deviation_that_does_not_fit_is_refused(
    mean: float | list[float], std: float | list[float]
) -> None:
    with pytest.raises(UserError) as error:
        ImageSpec.of(28, 3, mean, std)
    assert str(error.value) == (
        f"data.mean and data.std must be one value or 3, data.std above 0; got {mean} and {std}"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_equals_numpy_channel_by_channel(channels: int) -> None:
    mean, std = [0.1, 0.5, 0.9][:channels], [0.2, 0.3, 2.0][:channels]
    images = torch.rand(4, channels, 5, 6, generator=stream())
    before = images.clone()
    result = ImageSpec.of(5, channels, mean, std).normalise(images)
    wanted = np.stack([(images.numpy()[:, c] - mean[c]) / std[c] for c in range(channels)], axis=1)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(images, before)


def test_normalise_brings_zero_to_one_to_minus_one_to_one_by_default_values() -> None:
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert ImageSpec.of(1, 1, 0.5, 0.5).normalise(ends).flatten().tolist() == [-1.0, 1.0]


@FEW
@given(
    count=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(3, 6),
    width=st.integers(3, 6),
    pad=st.integers(0, 2),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.int64]),
    seed=st.integers(0, 1000),
)
def test_each_image_is_moved_as_a_numpy_transcription_moves_it(
    count: int,
    channels: int,
    height: int,
    width: int,
    pad: int,
    flip: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    images = torch.randint(1, 256, (count, channels, height, width), generator=stream(seed))
    images = images.to(dtype)
    before = images.clone()
    result = augment(images, pad, flip, stream(seed + 1))
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert torch.equal(images, before)
    for one, other in zip(images.numpy(), result.numpy(), strict=True):
        ways = found(one, other, pad)
        assert ways
        assert flip or any(not mirrored for mirrored, _, _ in ways)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_without_shift_and_flip_the_images_stay(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 3, 4, 5), generator=stream()).to(dtype)
    assert torch.equal(augment(images, 0, False, stream()), images)


def test_a_flip_mirrors_left_and_right_about_half_of_the_images() -> None:
    image = torch.arange(12).view(1, 1, 3, 4)
    result = augment(image.expand(400, 1, 3, 4), 0, True, stream())
    mirrored = [torch.equal(one, image[0].flip(-1)) for one in result]
    assert all(
        done or torch.equal(one, image[0]) for one, done in zip(result, mirrored, strict=True)
    )
    assert 150 < sum(mirrored) < 250


def test_every_shift_and_both_sides_come_up_equally_often() -> None:
    image = torch.arange(1, 13).view(1, 1, 3, 4)
    result = augment(image.expand(1800, 1, 3, 4), 1, True, stream()).numpy()
    ways = [found(image[0].numpy(), one, 1) for one in result]
    assert all(len(way) == 1 for way in ways)
    counts = Counter(way[0] for way in ways)
    assert len(counts) == 18
    assert (
        sum((count - 100) ** 2 / 100 for count in counts.values()) < 40.8
    )  # chi-square, 17 degrees, p = 0.001


def test_a_shift_moves_all_channels_of_an_image_alike() -> None:
    image = torch.randint(1, 256, (1, 1, 5, 5), generator=stream()).expand(20, 3, 5, 5)
    result = augment(image, 2, True, stream())
    assert torch.equal(result[:, 0], result[:, 1])
    assert torch.equal(result[:, 0], result[:, 2])


def test_augmentation_is_a_function_of_its_generator() -> None:
    images = torch.rand(16, 1, 6, 6, generator=stream())
    first = augment(images, 2, True, stream(3))
    torch.rand(5)
    assert torch.equal(augment(images, 2, True, stream(3)), first)
    assert not torch.equal(augment(images, 2, True, stream(4)), first)
    running = stream(3)
    assert torch.equal(augment(images, 2, True, running), first)
    assert not torch.equal(augment(images, 2, True, running), first)
