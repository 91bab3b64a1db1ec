import pytest
import torch

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import SettingError


def test_one_value_stands_for_all_channels() -> None:
    assert ImageSpec.of(28, 3, 0.5, 0.25) == ImageSpec(28, 3, (0.5,) * 3, (0.25,) * 3)
    assert ImageSpec.of(28, 3, [0.1, 0.2, 0.3], 1) == ImageSpec(28, 3, (0.1, 0.2, 0.3), (1.0,) * 3)


def test_a_form_that_no_image_has_is_refused() -> None:
    with pytest.raises(SettingError, match="mean must be one value"):
        ImageSpec.of(28, 3, [0.1, 0.2], 0.5)
    with pytest.raises(SettingError, match=r"std.2 must be greater than 0"):
        ImageSpec.of(28, 3, 0.5, [0.5, 0.5, -1.0])


def test_normalisation_is_by_channel_and_has_an_inverse() -> None:
    spec = ImageSpec.of(4, 3, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0])
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    normalised = spec.normalise(images)
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 1.0), (0.3, 2.0))):
        torch.testing.assert_close(normalised[:, channel], (images[:, channel] - mean) / std)
    torch.testing.assert_close(spec.restore(normalised), images)
    assert spec.normalise(images.double()).dtype == torch.float64
