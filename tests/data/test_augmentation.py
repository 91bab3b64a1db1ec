import itertools
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geniu_lightning.data.augmentation import augment


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


def ways(before: np.ndarray, after: np.ndarray, pad: int) -> list[tuple[bool, int, int]]:
    """Every way to move `before` that gives `after`."""
    shifts = range(2 * pad + 1)
    return [
        way
        for way in itertools.product((False, True), shifts, shifts)
        if np.array_equal(moved(before, *way, pad), after)
    ]


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 5), st.sampled_from([1, 3]), st.integers(3, 6), st.integers(3, 6)
    ),
    pad=st.integers(0, 2),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.int64]),
    seed=st.integers(0, 1000),
)
def test_each_image_is_moved_as_a_numpy_transcription_moves_it(
    shape: tuple[int, ...], pad: int, flip: bool, dtype: torch.dtype, seed: int
) -> None:
    images = torch.randint(1, 256, shape, generator=stream(seed)).to(dtype)
    before = images.clone()
    result = augment(images, pad, flip, stream(seed + 1))
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)
    for one, other in zip(images.numpy(), result.numpy(), strict=True):
        found = ways(one, other, pad)
        assert found
        assert flip or any(not mirrored for mirrored, _, _ in found)


def test_every_shift_and_both_sides_come_up_equally_often() -> None:
    image = torch.arange(1, 13).view(1, 1, 3, 4)
    result = augment(image.expand(1800, 1, 3, 4), 1, True, stream()).numpy()
    found = [ways(image[0].numpy(), one, 1) for one in result]
    assert all(len(way) == 1 for way in found)
    counts = Counter(way[0] for way in found)
    assert len(counts) == 18
    # chi-square, 17 degrees of freedom, p = 0.001
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 40.8
