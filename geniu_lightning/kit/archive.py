"""Compressed images of one class as bytes, which depend on no other class.

Pictures: all images of a class as tiles of one picture, or of several where it would be larger
than `SIDE`. DCT: an orthonormal cosine transform over channels, rows and columns of each image,
with one step size for all coefficients.
"""

import bisect
import functools
import io
import lzma
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, features
from scipy.fft import dctn, idctn
from torch import Tensor

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import KitError, SettingError, UserError, first_line
from geniu_lightning.kit.archive_info import ArchiveSettings
from geniu_lightning.seeds import generator

SIDE = 4096  # pixels of a picture's side, at most: few enough to decode a stranger's in 48 MiB
# macroblocks of WebP (RFC 6386) and, with colour at half resolution, units of JPEG (ITU T.81);
# AV1 divides its superblocks down to 4 pixels
BLOCK = 16
MOST_VALUES = 2**30  # pixels and channels of an archive, all classes together
PICTURES = {"avif": "AVIF", "webp": "WEBP", "jpeg": "JPEG", "lossless": "PNG"}
QUALITIES = range(1, 101)
STEPS = [2 ** (-k / 8) for k in range(-24, 61)]  # 8 to 0.0055, each 8 % finer
LZMA: Any = [  # fixed, so that no file chooses how much memory its decoding takes
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}
]


class Sheet(NamedTuple):
    """Layout of one picture."""

    images: int
    rows: int
    columns: int


def drawn(count: int, label: int, limit: int | None) -> Tensor:
    """Return the positions of a class's images that are archived, ascending.

    The draw depends on the class alone.
    """
    order = torch.randperm(count, generator=generator("archive", label))
    return order[:limit].sort().values if limit is not None else torch.arange(count)


def refuse_format(settings: ArchiveSettings) -> None:
    """Refuse a format that the installed Pillow was built without."""
    if settings.format in ("avif", "webp") and not features.check(settings.format):
        raise UserError(f"the installed Pillow has no {settings.format}: choose another format")


def refuse_too_many(count: int, spec: ImageSpec) -> None:
    """Refuse more images, of all classes together, than an archive may have."""
    if (values := count * spec.channels * spec.size**2) > MOST_VALUES:
        raise KitError(
            f"{count:,} images are too many for an archive: {values:,} values, at most"
            f" {MOST_VALUES:,}"
        )


def encoded(images: Tensor, settings: ArchiveSettings) -> Tensor:
    """Return the part of a class, uint8, 1-D, of its images in [0, 1] `(N, C, H, W)`.

    Raises:
        SettingError: If no quality takes as few bytes as the settings allow.
    """
    pixels = images.mul(255).round().to(torch.uint8).cpu()
    if settings.bytes_per_image is None:
        fineness = settings.step if settings.format == "dct" else settings.quality
        part = _encode(pixels, settings.format, fineness)
    else:
        part = _best_within(pixels, settings.format, settings.bytes_per_image)
    return torch.frombuffer(bytearray(part), dtype=torch.uint8)


def decoded(part: Tensor, count: int, settings: ArchiveSettings, spec: ImageSpec) -> Tensor:
    """Return the images of a part in [0, 1], float32, `(count, C, H, W)`.

    Raises:
        KitError: If the part is damaged, or holds anything but `count` images of this form.
    """
    content = part.numpy().tobytes()
    decode = _decode_dct if settings.format == "dct" else _decode_pictures
    return decode(content, count, settings, spec).float().div_(255.0)


def _best_within(pixels: Tensor, form: str, bytes_per_image: float) -> bytes:
    """Return the part with the most bytes of those within the limit, found by bisection."""
    candidates: Sequence[float] = STEPS if form == "dct" else QUALITIES
    encode = functools.cache(functools.partial(_encode, pixels, form))
    limit = len(pixels) * bytes_per_image
    within = bisect.bisect_right(candidates, limit, key=lambda fineness: len(encode(fineness)))
    if not within:
        least = len(encode(candidates[0])) / len(pixels)
        raise SettingError(
            f"must be at least {least:.1f} with format={form} for a class of {len(pixels)} images,"
            f" got {bytes_per_image}",
            key="bytes_per_image",
        )
    return encode(candidates[within - 1])


def _encode(pixels: Tensor, form: str, fineness: float) -> bytes:
    """Return a part; the fineness is the step of `dct`, and else the quality."""
    if form == "dct":
        return _encode_dct(pixels, fineness)
    options: dict[str, dict[str, Any]] = {
        "avif": {"quality": fineness, "max_threads": 1},  # the same bytes on any machine
        "webp": {"quality": fineness},
        "jpeg": {"quality": fineness, "optimize": True},
        "lossless": {"optimize": True},
    }
    part, start = b"", 0
    for sheet in _sheets(len(pixels), pixels.shape[-1], form):
        file = io.BytesIO()
        picture = _picture(pixels[start : start + sheet.images], sheet, form)
        picture.save(file, PICTURES[form], **options[form])
        part += struct.pack("<I", len(file.getvalue())) + file.getvalue()
        start += sheet.images
    return part


def _tile(size: int, form: str) -> int:
    """Return the side of a tile: that of an image, rounded up to whole blocks."""
    return size if form == "lossless" else -(-size // BLOCK) * BLOCK


def _sheets(count: int, size: int, form: str) -> Iterator[Sheet]:
    """Yield the layout of each picture of a class, nearly square."""
    most = (SIDE // _tile(size, form)) ** 2
    for start in range(0, count, most):
        images = min(most, count - start)
        columns = math.isqrt(images - 1) + 1
        yield Sheet(images, -(-images // columns), columns)


def _picture(pixels: Tensor, sheet: Sheet, form: str) -> Image.Image:
    """Return images `(N, C, H, W)` as tiles of one picture, their last row and column repeated."""
    pad = _tile(pixels.shape[-1], form) - pixels.shape[-1]
    tiles = F.pad(pixels.float(), (0, pad, 0, pad), mode="replicate").to(torch.uint8)
    blank = tiles.new_zeros(sheet.rows * sheet.columns - len(tiles), *tiles.shape[1:])
    grid = torch.cat([tiles, blank]).unflatten(0, (sheet.rows, sheet.columns))
    whole = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # rows, columns, channels
    return Image.fromarray(whole.squeeze(2).numpy())


def _decode_pictures(
    content: bytes, count: int, settings: ArchiveSettings, spec: ImageSpec
) -> Tensor:
    images, place = [], 0
    for sheet in _sheets(count, spec.size, settings.format):
        start = place + 4
        place = start + int.from_bytes(content[place:start], "little")
        if place > len(content):
            raise KitError("bytes of a picture are missing")
        images.append(_images_of(content[start:place], sheet, settings.format, spec))
    if place < len(content):
        raise KitError("bytes are left over behind the last picture")
    return torch.cat(images)


def _images_of(file: bytes, sheet: Sheet, form: str, spec: ImageSpec) -> Tensor:
    """Return the images of one picture; its size is compared before its pixels are decoded."""
    tile = _tile(spec.size, form)
    size = (sheet.columns * tile, sheet.rows * tile)
    try:
        with Image.open(io.BytesIO(file), formats=[PICTURES[form]]) as picture:
            found = (picture.size, getattr(picture, "n_frames", 1))
            if found != (size, 1) or picture.mode not in ("L", "RGB"):
                raise KitError(
                    f"{sheet.images} images are one picture of {size[0]} x {size[1]} pixels, not"
                    f" {found[1]} of {found[0][0]} x {found[0][1]} ({picture.mode})"
                )
            whole = torch.from_numpy(np.array(picture)).view(size[1], size[0], -1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise KitError(f"a picture is no {form} or is damaged: {first_line(error)}") from error
    if whole.shape[2] < spec.channels:
        raise KitError("a picture of colour images is grey")
    grid = whole[..., : spec.channels].view(sheet.rows, tile, sheet.columns, tile, spec.channels)
    images = grid.permute(0, 2, 4, 1, 3).flatten(0, 1)
    return images[: sheet.images, :, : spec.size, : spec.size]


def _encode_dct(pixels: Tensor, step: float) -> bytes:
    spectrum = dctn(pixels.numpy().astype(np.float32) / 255, axes=(1, 2, 3), norm="ortho")
    step = struct.unpack("<f", struct.pack("<f", step))[0]  # as decoding reads it
    values = np.rint(spectrum / np.float32(step)).astype(np.int32)
    if np.abs(values).max() >= 2**15:
        raise SettingError(f"is too small for images of this side, got {step}", key="step")
    # 0, -1, 1, -2, … as 0, 1, 2, 3, …; coefficient by coefficient, low bytes before high ones
    folded = ((values << 1) ^ (values >> 31)).astype("<u2").reshape(len(pixels), -1)
    ordered = np.ascontiguousarray(folded[:, _frequencies(pixels.shape[1:])].T)
    planes = ordered.view(np.uint8).reshape(-1, 2).T.tobytes()
    return struct.pack("<f", step) + lzma.compress(planes, lzma.FORMAT_RAW, filters=LZMA)


def _decode_dct(content: bytes, count: int, settings: ArchiveSettings, spec: ImageSpec) -> Tensor:
    form = (spec.channels, spec.size, spec.size)
    length = 2 * count * math.prod(form)
    try:
        (step,) = struct.unpack("<f", content[:4])
        reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA)
        planes = reader.decompress(content[4:], length + 1)
    except (struct.error, lzma.LZMAError, EOFError) as error:
        raise KitError(f"the coefficients are damaged: {first_line(error)}") from error
    if len(planes) != length or not reader.eof or reader.unused_data:
        raise KitError(f"there are not {length:,} bytes of coefficients, as {count} images have")
    if not 0 < step < math.inf:
        raise KitError(f"the step is {step}")
    ordered = np.frombuffer(planes, np.uint8).reshape(2, -1).T.copy().view("<u2")
    folded = np.empty((count, math.prod(form)), np.int32)
    folded[:, _frequencies(form)] = ordered.reshape(-1, count).T
    values = (folded >> 1) ^ -(folded & 1)
    spectrum = values.reshape(count, *form).astype(np.float32) * np.float32(step)
    images = idctn(spectrum, axes=(1, 2, 3), norm="ortho")
    return torch.from_numpy((255 * images).round().clip(0, 255).astype(np.uint8))


def _frequencies(form: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """Return the order of the coefficients of an image `(C, H, W)`, low frequencies first."""
    return np.argsort(np.indices(form).sum(axis=0).ravel(), kind="stable")
