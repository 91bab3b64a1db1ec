"""Description of an archive of compressed images, without importing torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from geniu_lightning.errors import SettingError
from geniu_lightning.settings.checked import Positive, PositiveInt, checked


@checked
@dataclass(frozen=True, kw_only=True)
class ArchiveSettings:
    """How the images of each class are compressed, by the same rule for every class.

    Args:
        format: `avif`, `webp`, `jpeg`: a picture with all images of a class as tiles; `lossless`:
            the same as PNG; `dct`: rounded coefficients of a cosine transform of each image.
        quality: Of `avif`, `webp` and `jpeg`.
        step: Of `dct`: what coefficients are rounded to multiples of, pixels in [0, 1].
        bytes_per_image: In place of `quality` and `step`: each class gets the best that takes at
            most so many bytes an image. Classes then differ in their blur, which a network trained
            on them takes for a mark of the class.
        images_per_class: Images drawn of each class, at most; `None` takes all.
    """

    format: Literal["avif", "webp", "jpeg", "lossless", "dct"] = "avif"
    quality: Annotated[int, Field(ge=1, le=100)] = 35
    step: Annotated[float, Field(ge=0.005, le=100)] = 0.4
    bytes_per_image: Positive | None = None
    images_per_class: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.format == "lossless" and self.bytes_per_image is not None:
            raise SettingError("must be null with format=lossless", key="bytes_per_image")

    def of_counts(self, class_counts: tuple[int, ...]) -> "ArchiveInfo":
        """Return the description of an archive of so many training images of each class."""
        most = self.images_per_class
        return ArchiveInfo(self, tuple(n if most is None else min(n, most) for n in class_counts))


@checked
@dataclass(frozen=True)
class ArchiveInfo:
    """Description of a kit's archive.

    Args:
        settings: As training wrote it.
        counts: Number of images of each class in the archive; 0 of classes without a part.
    """

    settings: ArchiveSettings
    counts: tuple[Annotated[int, Field(ge=0, le=2**30)], ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that have a part, by index."""
        return tuple(k for k, count in enumerate(self.counts) if count)

    def without(self, classes: tuple[int, ...]) -> "ArchiveInfo":
        """Return the description after the parts of some classes are left out."""
        counts = (0 if k in classes else count for k, count in enumerate(self.counts))
        return ArchiveInfo(self.settings, tuple(counts))
