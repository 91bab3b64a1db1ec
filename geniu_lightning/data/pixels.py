"""Pictures of any kind as 8-bit pixels of one form."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling

from geniu_lightning.data.images import Side
from geniu_lightning.settings.checked import Fraction, checked

Resize = Literal["squash", "crop", "pad"]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@checked
@dataclass(frozen=True)
class Form:
    """Form that pictures are brought to.

    Args:
        size: Side of the square, in pixels.
        channels: 1 (grey) or 3 (colour).
        resize: What becomes of a picture that is no square: `squash` changes its proportions,
            `crop` cuts off the longer side, `pad` adds background to the shorter one.
        background: Grey behind transparent pixels and of `pad`, 0 (black) to 1 (white).
    """

    size: Side
    channels: Literal[1, 3]
    resize: Resize = "squash"
    background: Fraction = 1.0

    def pixels(self, picture: Image.Image) -> Pixels:
        """Return a picture's pixels, shape `(channels, size, size)`.

        Raises:
            ValueError: If its pixel values have no known range.
        """
        grey = round(255 * self.background)
        picture = _eight_bits(picture)
        if picture.has_transparency_data:
            behind = Image.new("RGBA", picture.size, (grey, grey, grey, 255))
            behind.alpha_composite(picture.convert("RGBA"))
            picture = behind
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        square = (self.size, self.size)
        if picture.size != square:
            fill = (grey,) * self.channels if self.channels > 1 else grey
            match self.resize:
                case "squash":
                    picture = picture.resize(square, Resampling.BILINEAR)
                case "crop":
                    picture = ImageOps.fit(picture, square, Resampling.BILINEAR)
                case "pad":
                    picture = ImageOps.pad(picture, square, Resampling.BILINEAR, color=fill)
        array = np.asarray(picture, dtype=np.uint8).reshape(*square, self.channels)
        return np.ascontiguousarray(array.transpose(2, 0, 1))


def opened(content: Any) -> Any:  # a picture, or what a source has in its place
    """Return the picture in a file or its bytes, upright; other content as it is."""
    if isinstance(content, bytes):
        content = io.BytesIO(content)
    if isinstance(content, Path | io.BytesIO):
        content = ImageOps.exif_transpose(Image.open(content))
    return content


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 8-bit values; Pillow's own conversion would cut off larger ones."""
    if picture.mode == "F":
        values = np.asarray(picture)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # so NaN is refused, too
            raise ValueError(f"float pixels must lie in [0, 1], these lie in {low} to {high}")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    # Pillow up to 11 opens a PNG of 16 bits as 32-bit integers
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) // 257).astype(np.uint8))
    if picture.mode == "I":
        raise ValueError("pixels of 32-bit integers have no known range: write 8 or 16 bits")
    return picture
