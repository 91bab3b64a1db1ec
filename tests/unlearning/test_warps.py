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


def test_the_same_stream_gives_the_same_copies_and_another_gives_others() -> None:
    every = Warps(10, 0.1, 0.1, 0.1, 0.05, 0.5, 0.5, 0.2)
    first, again, other = (every(images(), stream(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.equal(images(), first)
    assert torch.equal(Warps()(images(), stream()), images())


def test_rotation_scale_shear_and_shift_are_what_scipy_says() -> None:
    """By a matrix made of its factors, in units of a pixel from the middle."""
    settings = {"rotate": 30.0, "scale": 0.3, "shear": 0.4, "shift": 0.2}
    every = [settings, *({name: value} for name, value in settings.items())]
    for given in every:
        ranges = dict.fromkeys(settings, 0.0) | given
        copies = Warps(**given)(images(20), stream(3))
        even = 2 * torch.rand(6, 20, generator=stream(3)).double().numpy() - 1
        rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        for image, copy, draw in zip(images(20), copies, even.T, strict=True):
            angle = np.radians(ranges["rotate"] * draw[0])
            turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            factors = np.diag(np.exp(ranges["scale"] * draw[1:3]))
            lean = [[1, ranges["shear"] * draw[3]], [0, 1]]
            places = np.stack([columns.ravel(), rows.ravel()])
            read = np.array(turn) @ factors @ lean @ places
            read += ranges["shift"] * SIZE * draw[4:6, None] + (SIZE - 1) / 2
            wanted = map_coordinates(image[0].numpy(), read[::-1], order=1, mode="reflect")
            np.testing.assert_allclose(copy.numpy().ravel(), wanted, atol=1e-3)


def test_elastic_bends_smoothly_and_leaves_no_image_as_it_was() -> None:
    ramp = torch.linspace(-1, 1, SIZE).expand(1, 1, SIZE, SIZE).repeat(200, 1, 1, 1)
    bent = Warps(elastic=0.05)(ramp, stream()) - ramp  # twice the shift, in sides
    inner = bent[:, 0, 4:-4, 4:-4]
    assert inner.std() == pytest.approx(2 * 0.05, rel=0.35)  # less between the knots
    assert inner.diff(dim=1).abs().mean() < 0.25 * inner.abs().mean()
    assert (inner.abs().amax(dim=(1, 2)) > 0.01).all()


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

    def exact(images: Tensor) -> Tensor:
        return (images[:, 0, 3, 3] == images[:, 0, 3, 3].round()).long()

    whole = torch.ones(2, 1, 8, 8)
    whole[..., ::2] = 0.0
    # labels that no warp leaves
    assert readable_strength(Warps(shift=0.4), whole, exact, 1.0, stream(1)) == 0.0


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
