"""The archive of a kit: what comes back of the images, and which parts are refused."""

import io
import lzma
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import KitError, SettingError
from geniu_lightning.kit import archive
from geniu_lightning.kit.archive import decoded, drawn, encoded
from geniu_lightning.kit.archive_info import ArchiveSettings
from geniu_lightning.kit.file import Kit
from tests.kit.small_kits import forge, with_archive

FORMATS = ("avif", "webp", "jpeg", "lossless", "dct")


def smooth(count: int, channels: int, size: int) -> Tensor:
    """Return images of 8 bits in [0, 1], as smooth as pictures are."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size), mode="bilinear").mul(255).round() / 255


def spec_of(images: Tensor) -> ImageSpec:
    return ImageSpec.of(images.shape[-1], images.shape[1], 0.5, 0.5)


def settings_of(form: str, **more: Any) -> ArchiveSettings:
    return ArchiveSettings(**{"format": form, "quality": 90, "step": 0.05} | more)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 64)])
def test_images_come_back_in_their_order(form: str, channels: int, size: int) -> None:
    images, settings = smooth(7, channels, size), settings_of(form)
    found = decoded(encoded(images, settings), 7, settings, spec_of(images))
    assert (found.shape, found.dtype) == (images.shape, torch.float32)
    error = (found - images).square().mean(dim=(1, 2, 3)).sqrt()
    assert error.max() < {"lossless": 1e-6, "dct": 0.05 / 12**0.5}.get(form, 0.03)


@pytest.mark.parametrize("form", ["avif", "dct"])
def test_a_part_is_the_same_whatever_was_encoded_before(form: str) -> None:
    images, settings = smooth(5, 1, 28), settings_of(form)
    first = encoded(images, settings)
    encoded(torch.rand(9, 1, 28, 28), settings)
    assert torch.equal(encoded(images, settings), first)


def test_a_class_of_many_images_is_several_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SIDE", 64)  # four tiles
    images, settings = smooth(9, 1, 28), settings_of("lossless")
    part = encoded(images, settings)
    assert part.numpy().tobytes().count(b"IHDR") == 3
    assert torch.equal(decoded(part, 9, settings, spec_of(images)), images)


@pytest.mark.parametrize("form", ["avif", "webp", "jpeg", "dct"])
def test_the_finest_within_the_budget_is_taken(form: str) -> None:
    images = smooth(20, 1, 28)
    loose = settings_of(form, bytes_per_image=60.0)
    part = encoded(images, loose)
    assert 0.8 * 60 * 20 < len(part) <= 60 * 20
    with pytest.raises(SettingError, match=f"bytes_per_image must be at least .* format={form}"):
        encoded(images, settings_of(form, bytes_per_image=0.5))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(SettingError, match="bytes_per_image must be null with format=lossless"):
        settings_of("lossless", bytes_per_image=60.0)
    with pytest.raises(SettingError, match="step is too small"):
        encoded(torch.ones(1, 1, 512, 512), settings_of("dct", step=0.005))


def test_the_draw_depends_on_the_class_alone() -> None:
    assert drawn(9, 3, None).tolist() == list(range(9))
    found = drawn(9, 3, 4)
    assert len({*found.tolist()}) == 4
    assert torch.equal(found, found.sort().values)
    assert torch.equal(drawn(9, 3, 4), found)
    assert not torch.equal(drawn(9, 4, 4), found)
    assert len(drawn(2, 3, 4)) == 2


def part_of(*pictures: Image.Image, form: str = "PNG") -> Tensor:
    content = b""
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, form)
        content += struct.pack("<I", len(file.getvalue())) + file.getvalue()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def test_a_damaged_or_forged_picture_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, settings = smooth(4, 1, 28), settings_of("lossless")
    part, spec, size = encoded(images, settings), spec_of(images), (56, 56)
    colour = spec_of(smooth(1, 3, 28))

    def refused(part: Tensor, sentence: str, count: int = 4, spec: ImageSpec = spec) -> None:
        with pytest.raises(KitError, match=sentence):
            decoded(part, count, settings, spec)

    refused(part[:-1], "bytes of a picture are missing")
    refused(part[:2], "bytes of a picture are missing|damaged")
    refused(torch.cat([part, part]), "bytes are left over")
    flipped = part.clone()
    flipped[len(part) // 2] ^= 255
    refused(flipped, "is no lossless or is damaged")
    refused(part_of(Image.new("L", size), form="JPEG"), "is no lossless or is damaged")
    refused(part, "7 images are one picture of 84 x 84 pixels, not 1 of 56 x 56", count=7)
    refused(part_of(Image.new("P", size)), r"\(P\)")
    refused(part, "of colour images is grey", spec=colour)
    bomb = part_of(Image.new("L", (5000, 5000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("its pixels were decoded"))
    refused(bomb, "not 1 of 5000 x 5000")


def test_damaged_or_forged_coefficients_are_refused_in_a_sentence() -> None:
    images, settings = smooth(4, 1, 28), settings_of("dct")
    part = encoded(images, settings)

    def refused(content: bytes, sentence: str, count: int = 4) -> None:
        part = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with pytest.raises(KitError, match=sentence):
            decoded(part, count, settings, spec_of(images))

    whole = part.numpy().tobytes()
    bomb = lzma.compress(bytes(10**7), lzma.FORMAT_RAW, filters=archive.LZMA)
    for content in (whole[:-1], whole + b"\0", whole[:4] + bomb):
        refused(content, "there are not 6,272 bytes of coefficients")
    refused(whole, "as 5 images have", count=5)
    refused(whole[:4] + b"no lzma", "the coefficients are damaged")
    refused(b"\0", "the coefficients are damaged")
    for step in (math.nan, math.inf, -1.0, 0.0):
        refused(struct.pack("<f", step) + whole[4:], "the step is")


def test_a_kit_with_an_archive_is_read_as_it_was_written(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "kit.safetensors"
    for one in (with_archive(kit), with_archive(replaced(kit))):
        one.save(path)
        found = Kit.load(path)
        assert found.info == one.info
        assert found.info.contents == one.info.contents
        assert found.archive.keys() == {0, 1, 2}
        images, labels = found.archived([2, 0])
        assert (len(images), labels.tolist()) == (11, [2] * 5 + [0] * 6)
        assert torch.equal(images[:5], one.archived([2])[0])
        assert found.archived_read == {0, 2}


def replaced(kit: Kit) -> Kit:
    """Return the kit without prompts and generator."""
    return Kit(kit.classifier, replace(kit.info, generator=None))


def test_parts_that_contradict_the_description_are_refused(kit: Kit, tmp_path: Path) -> None:
    original, path = tmp_path / "kit.safetensors", tmp_path / "forged.safetensors"
    archived = with_archive(kit)
    archived.save(original)
    described = {"settings": {"format": "avif"}, "counts": [6, 4, 5]}

    def refused(sentence: str, counts: Any = (6, 4, 5), **more: Any) -> None:
        changed = {"archive": described | {"counts": [*counts]}} | more.pop("changed", {})
        forge(path, original, changed, more)
        with pytest.raises(KitError, match=sentence):
            Kit.load(path).archived([0])

    parts = "the parts of its archive are not those that it describes"
    refused(parts, **{"archive.1": None})
    refused(parts, **{"archive.7": torch.zeros(3, dtype=torch.uint8)})
    refused(parts, counts=(6, 0, 5))
    refused(parts, changed={"archive": None})
    refused("no row of bytes", **{"archive.1": torch.zeros(3)})
    refused("no row of bytes", **{"archive.1": torch.zeros(3, 1, dtype=torch.uint8)})
    refused("archive.counts must be one number a class", counts=(6, 4))
    refused("must be 0 of forgotten classes", changed={"forgotten": [1]})
    refused("greater than or equal to 0", counts=(6, -4, 5))
    refused("description cannot be read", changed={"archive": [1]})
    refused("description cannot be read", changed={"archive": {"counts": [6, 4, 5]}})
    refused("too many for an archive", counts=(2**30, 4, 5))
    forge(path, original, more={"archive.1": archived.archive[0]})
    with pytest.raises(KitError, match=r"the archive of class 1 \(dog\) cannot be decoded: 4 imag"):
        Kit.load(path).archived([1])
    with pytest.raises(KitError, match="this kit holds no archive: train with kit=archive"):
        kit.archived([1])
