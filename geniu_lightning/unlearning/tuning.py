"""Base of methods that work on batches of training images, or on proxies in their place."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import generator, stream
from geniu_lightning.settings.checked import PositiveInt
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import (
    Batches,
    CombinedBatches,
    StepBatches,
    UnlearnBatch,
    labelled_batch,
)
from geniu_lightning.unlearning.networks import Teacher
from geniu_lightning.unlearning.sources import Access, LabelledBatches, Sources

Source = Literal["data", "proxies", "distribution", "archive"]
BatchSize = Annotated[int, Field(ge=2)]  # one image is no sample for batch norm


class Tuning(Unlearner):
    """Works on the forget set, on the retain set, or on both in each step.

    A method declares in `sides` on which. With `source="data"` they are training images, and
    `sides` is its access. Else what the kit holds of the same classes takes their place, and no
    image is read: with `proxies` decoded prompts, all of them in one batch; with `distribution`
    fresh samples in each step, all classes alike; with `archive` archived images. A method with
    other inputs overrides `make_batches`; one that `distils` finds the original in `self.teacher`.

    Departures from their sources that the methods share, by their yaml: steps for epochs, a bound
    of the gradient, and running statistics of batch norm frozen.

    Args:
        batch_size: Images of each set in a step; proxies come all at once. Where a set is read
            once, so many samples of each class of a distribution.
        proxies_per_class: Number of the kit's prompts of each class to use; `None` is all.
        **settings: Those of the base.
    """

    sides: Access  # of the class, or of an instance whose settings decide
    distils: ClassVar[bool] = False

    def __init__(
        self,
        *,
        source: Source = "data",
        batch_size: BatchSize = 64,
        proxies_per_class: PositiveInt | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.source = source
        self.access = self.sides if source == "data" else Access.NONE
        self.batch_size = batch_size
        self.proxies_per_class = proxies_per_class

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Copy the classifier, as teacher too where the method distils, and open the batches."""
        super().prepare(kit, sources)
        if self.distils:
            self.teacher = Teacher(kit.classifier)
        if self.steps:
            self.batches = self.make_batches(kit, sources, self.sides, self.steps)

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return `steps` batches of one set or of both: shuffled and augmented, or proxies."""
        if self.source == "proxies":
            batch = self.proxies(kit, sides)
            return StepBatches(lambda step: batch, steps)
        seed = stream("unlearn_order", self.seed)
        if self.source == "data":
            parts = [sources.open(side, self.batch_size, seed, self.stored) for side in sides]
        else:
            parts = [self._held(kit, side, seed) for side in sides]
        return CombinedBatches(parts, [range(len(parts))] * steps)

    def _held(self, kit: Kit, side: Access, seed: int) -> Batches:
        """Return shuffled and augmented batches of what the kit holds of one set."""
        classes, size = self._classes(kit, side), self.batch_size
        if self.source == "archive":
            return LabelledBatches(kit.archive_loader(classes, size, seed), self.forget)
        loader = kit.sample_loader(classes, [size] * len(classes), size, seed)
        return LabelledBatches(loader, self.forget)

    def single_pass(
        self, kit: Kit, sources: Sources, side: Access, limit: int | None = None
    ) -> Iterable[UnlearnBatch]:
        """Return every image or proxy of one set once, in order and without augmentation.

        `limit` is the largest number of images, drawn evenly over classes; not of what a kit holds.
        """
        if self.source == "proxies":
            return [self.proxies(kit, side)]
        if self.source == "data":
            return sources.open(side, self.batch_size, None, limit)
        if self.source == "archive":
            images, labels = kit.archived(self._classes(kit, side))
        else:
            random = generator("unlearn_samples", self.seed)
            images, labels = kit.samples(self._classes(kit, side), self.batch_size, random)
        device, normalise = next(kit.classifier.parameters()).device, kit.info.spec.normalise
        pairs = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        return [
            labelled_batch(normalise(some.to(device)), own.to(device), self.forget)
            for some, own in pairs
        ]

    def _classes(self, kit: Kit, sides: Access) -> list[int]:
        return [
            k
            for k in kit.info.remaining
            if (Access.FORGET if k in self.forget else Access.RETAIN) in sides
        ]

    def proxies(self, kit: Kit, sides: Access) -> UnlearnBatch:
        """Return one batch of all proxies of the forget classes, the retained ones, or both."""
        decoded = kit.proxies(self._classes(kit, sides), self.proxies_per_class)
        images = kit.info.spec.normalise(decoded.images)
        return labelled_batch(images, decoded.labels, self.forget)
