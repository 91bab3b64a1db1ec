"""Pictures become the pixels that a person sees, or are refused."""

import numpy as np
import pytest
from PIL import Image

from geniu_lightning.data.pixels import Form


def test_transparent_pixels_show_the_background_and_not_their_hidden_colour() -> None:
    # left: opaque red, right: transparent, its hidden colour green
    rgba = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    for y in range(2):
        rgba.putpixel((1, y), (0, 255, 0, 0))
    grey = Image.new("LA", (2, 2), (255, 0))  # white and transparent
    grey.putpixel((0, 0), (0, 255))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 255, 9, 9, 9])
    palette.putpixel((0, 0), 0)
    palette.info["transparency"] = 1
    for background, level in ((1.0, 255), (0.0, 0), (0.2, 51)):
        colour = Form(2, 3, background=background)
        assert colour.pixels(rgba)[:, 0].T.tolist() == [[255, 0, 0], [level] * 3]
        assert colour.pixels(palette)[:, 0].T.tolist() == [[0, 0, 255], [level] * 3]
        assert Form(2, 1, background=background).pixels(grey)[0].tolist() == [
            [0, level],
            [level] * 2,
        ]


def test_values_are_scaled_by_their_type_or_refused() -> None:
    grey = Form(2, 1)
    floats = Image.fromarray(np.array([[0, 0.5], [1, 0.2]], dtype=np.float32))
    assert grey.pixels(floats)[0].tolist() == [[0, 128], [255, 51]]
    deep = Image.fromarray(np.array([[0, 257], [65535, 256]], dtype=np.uint16))
    assert grey.pixels(deep)[0].tolist() == [[0, 1], [255, 0]]
    assert grey.pixels(Image.new("1", (2, 2), 1))[0].tolist() == [[255, 255]] * 2
    for values, message in (
        (np.array([[0, 65535.0]] * 2, dtype=np.float32), r"must lie in \[0, 1\].* 0.0 to 65535.0"),
        (np.array([[0, np.nan]] * 2, dtype=np.float32), r"must lie in \[0, 1\]"),
        (np.array([[0, 3]] * 2, dtype=np.int32), "32-bit integers have no known range"),
    ):
        with pytest.raises(ValueError, match=message):
            grey.pixels(Image.fromarray(values))


def test_a_picture_that_is_no_square_is_squashed_cropped_or_padded() -> None:
    # columns 0 and 7 black, the others white; 8 wide, 4 high
    wide = np.full((4, 8), 255, dtype=np.uint8)
    wide[:, [0, 7]] = 0
    found = {
        resize: Form(4, 1, resize=resize, background=0.4).pixels(Image.fromarray(wide))[0]
        for resize in ("squash", "crop", "pad")
    }
    assert found["crop"].tolist() == [[255] * 4] * 4
    assert found["pad"][[0, 3]].tolist() == [[102] * 4] * 2
    assert (found["pad"][1:3, 1:3] > 200).all()
    assert (found["squash"][:, [0, 3]] < 200).all()
    assert (found["squash"][:, 1:3] > 200).all()
