"""Warped copies: what each setting does to an image, by statistics and by another library."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.warps import WarpedBatches, Warps, readable_strength

SIZE = 20


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 6, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, SIZE, SIZE, generator=stream(9))


def smooth(count: int = 64) -> Tensor:
    """Return blobs at the middle, wide enough for interpolation to matter little."""
    axis = torch.linspace(-1, 1, SIZE)
    blob = (-(axis[:, None] ** 2 + axis[None, :] ** 2) / 0.1).exp()
    return blob.expand(count, 1, SIZE, SIZE).clone()


def test_without_settings_copies_are_the_images() -> None:
    assert torch.equal(Warps()(images(), stream()), images())


def test_the_same_stream_gives_the_same_copies_and_another_gives_others() -> None:
    every = Warps(10, 0.1, 0.1, 0.1, 0.05, 0.5, 0.5, 0.2)
    first, again, other = (every(images(), stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.equal(images(), first)


def centroids(copies: Tensor) -> Tensor:
    """Return where the mass of each image is, as shares of the side from its middle, (N, 2)."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    mass = copies[:, 0] / copies[:, 0].sum(dim=(1, 2), keepdim=True)
    return torch.stack([mass.sum(dim=1) @ axis, mass.sum(dim=2) @ axis], dim=1)


def test_shift_moves_by_up_to_its_share_of_the_side() -> None:
    found = centroids(Warps(shift=0.2)(smooth(400), stream()))
    assert found.abs().max() == pytest.approx(0.2, abs=0.01)
    assert found.std(dim=0).tolist() == pytest.approx([0.2 / math.sqrt(3)] * 2, rel=0.1)


def angles(copies: Tensor) -> np.ndarray:
    """Return the direction of the long axis of each image, in degrees."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    across, down = torch.meshgrid(axis, axis, indexing="xy")
    mass = copies[:, 0] / copies[:, 0].sum(dim=(1, 2), keepdim=True)
    xx, yy, xy = ((mass * w).sum(dim=(1, 2)) for w in (across**2, down**2, across * down))
    return np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))


def bar(count: int) -> Tensor:
    axis = torch.linspace(-1, 1, SIZE)
    line = (-(axis[:, None] ** 2 / 0.02 + axis[None, :] ** 2 / 0.3)).exp()
    return line.expand(count, 1, SIZE, SIZE).clone()


def test_rotation_turns_by_up_to_its_degrees() -> None:
    found = angles(Warps(rotate=30)(bar(400), stream()))
    assert np.abs(found).max() == pytest.approx(30, abs=1.5)
    assert found.std() == pytest.approx(30 / math.sqrt(3), rel=0.1)


def test_scale_is_a_factor_for_each_axis_on_its_own() -> None:
    copies = Warps(scale=0.3)(smooth(400), stream())[:, 0]
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    mass = copies / copies.sum(dim=(1, 2), keepdim=True)
    spread = torch.stack([mass.sum(dim=1) @ axis**2, mass.sum(dim=2) @ axis**2]).sqrt().log()
    spread -= spread.mean()
    assert spread.abs().max() == pytest.approx(0.3, abs=0.05)
    assert abs(np.corrcoef(spread.numpy())[0, 1]) < 0.15


def test_shear_leans_the_upright_one_way() -> None:
    upright = bar(400).transpose(2, 3)
    found = angles(Warps(shear=0.3)(upright, stream()))
    lean = np.abs(90 - np.abs(found))
    assert lean.max() == pytest.approx(math.degrees(math.atan(0.3)), abs=3)
    flat = angles(Warps(shear=0.3)(bar(400), stream()))
    assert np.abs(flat).max() < lean.max() / 2


def test_elastic_bends_smoothly_and_leaves_no_image_as_it_was() -> None:
    ramp = torch.linspace(-1, 1, SIZE).expand(1, 1, SIZE, SIZE).repeat(200, 1, 1, 1)
    bent = Warps(elastic=0.05)(ramp, stream()) - ramp  # twice the shift, in sides
    inner = bent[:, 0, 4:-4, 4:-4]
    assert inner.std() == pytest.approx(2 * 0.05, rel=0.35)  # less between the knots
    assert inner.diff(dim=1).abs().mean() < 0.25 * inner.abs().mean()
    assert (inner.abs().amax(dim=(1, 2)) > 0.01).all()


def test_bending_is_what_scipy_says_of_the_same_grid() -> None:
    """A quarter turn by hand: what the sampling grid means, direction and edges included."""
    image = images(1)
    warps = Warps(shift=0.1)
    copy = warps(image, stream(3))[0, 0]
    even = 2 * torch.rand(6, 1, generator=stream(3)) - 1
    move = (0.1 * even[4:6, 0] * SIZE).tolist()
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    wanted = map_coordinates(
        image[0, 0].numpy(), [rows + move[1], columns + move[0]], order=1, mode="reflect"
    )
    assert np.allclose(copy.numpy(), wanted, atol=1e-4)


def test_a_mixture_lies_between_two_images_in_the_wanted_share() -> None:
    codes = torch.eye(500).view(500, 1, 20, 25)  # each image is a direction of its own
    copies = Warps(mix=0.6)(codes, stream()).flatten(1)
    parts = copies.sort(dim=1, descending=True).values
    assert torch.allclose(parts[:, :2].sum(dim=1), torch.ones(500))
    mixed = copies.diagonal() < 1 - 1e-6
    assert mixed.float().mean() == pytest.approx(0.6, abs=0.07)
    own = copies.diagonal()[mixed]
    assert own.mean() == pytest.approx(0.5, abs=0.06)
    assert own.var() == pytest.approx(1 / 12, rel=0.25)


def test_a_pasted_rectangle_comes_from_another_image() -> None:
    levels = torch.arange(300.0)[:, None, None, None].expand(300, 1, SIZE, SIZE)
    copies = Warps(paste=0.5)(levels, stream())[:, 0]
    foreign = copies != levels[:, 0]
    for copy, own in zip(copies, range(300), strict=True):
        assert len(set(copy.unique().tolist()) - {float(own)}) <= 1
    rectangle = foreign.any(dim=1).sum(dim=1) * foreign.any(dim=2).sum(dim=1)
    assert torch.equal(rectangle, foreign.sum(dim=(1, 2)))
    assert foreign.any(dim=(1, 2)).float().mean() == pytest.approx(0.5, abs=0.08)
    assert foreign.float().mean(dim=(1, 2)).max() > 0.6


def test_noise_has_a_deviation_of_its_own_for_each_image() -> None:
    blank = torch.zeros(300, 1, SIZE, SIZE)
    found = Warps(noise=0.4)(blank, stream()).std(dim=(1, 2, 3))
    assert found.max() == pytest.approx(0.4, abs=0.04)
    assert found.min() < 0.02
    assert found.mean() == pytest.approx(0.2, abs=0.03)


def test_a_range_that_is_no_number_or_too_large_is_refused() -> None:
    for name, value in [("rotate", -1.0), ("mix", 1.5), ("noise", math.nan)]:
        with pytest.raises(SettingError, match=f"{name} must be .*got {value}"):
            Warps(**{name: value})


def middle(images: Tensor) -> Tensor:
    """Return 1 where the brightest column is at most two pixels from the middle, else 0."""
    at = images.mean(dim=(1, 2)).argmax(dim=1)
    return ((at - images.shape[3] // 2).abs() <= 2).long()


def test_warps_are_as_strong_as_labels_agree() -> None:
    stripe = torch.zeros(3, 1, 33, 33)
    stripe[..., 16] = 1.0
    warps = Warps(shift=8 / 33, mix=1.0, paste=1.0, noise=5.0)  # the last three are not probed
    # shifted by up to 8 t pixels, a copy has its label with probability 2.5 / (8 t)
    for agreement, strength in [(0.25, 1.0), (0.48, 0.6), (1.0, 0.3)]:
        found = readable_strength(warps, stripe, middle, agreement, stream(1))
        assert found == pytest.approx(strength)


def test_labels_that_no_warp_leaves_have_strength_zero() -> None:
    def exact(images: Tensor) -> Tensor:
        return (images[:, 0, 3, 3] == images[:, 0, 3, 3].round()).long()

    whole = torch.ones(2, 1, 8, 8)
    whole[..., ::2] = 0.0
    warps = Warps(shift=0.4)
    assert readable_strength(warps, whole, exact, 1.0, stream(1)) == 0.0


def test_batches_are_fresh_repeatable_and_divided_evenly() -> None:
    every = Warps(rotate=10, mix=0.5, noise=0.1)
    whole = [b.images for b in WarpedBatches(images(), every, 7, 3, seed=4)]
    assert [len(b) for b in whole] == [7, 7, 7]
    assert not torch.allclose(whole[0], whole[1])
    parts = []
    for rank in range(2):
        own = WarpedBatches(images(), every, 7, 3, seed=4)
        own.shard(rank, 2)
        parts.append(list(own))
    for k in range(3):
        together = torch.empty_like(whole[k])
        together[0::2], together[1::2] = parts[0][k].images, parts[1][k].images
        assert torch.equal(together, whole[k])
        weights = torch.cat([parts[0][k].weights, parts[1][k].weights]) / 2
        assert torch.allclose(weights, torch.full((7,), 1 / 7))
    assert all((b.labels == -1).all() and not b.forget.any() for b in parts[0])
