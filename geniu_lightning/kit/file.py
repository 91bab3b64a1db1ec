"""One safetensors file that holds a kit, or the weights that unlearning made of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geniu_lightning.data.augmentation import training_batches
from geniu_lightning.data.classes import labelled
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.errors import KitError
from geniu_lightning.files import replacing
from geniu_lightning.kit.archive import decoded, refuse_too_many
from geniu_lightning.kit.distribution import DECODER, Distribution, mixtures_in
from geniu_lightning.kit.header import kit_metadata
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.kit.networks import tensor_digest
from geniu_lightning.kit.parts import Parts
from geniu_lightning.seeds import generator

SHOWN = 10  # samples of a class in a picture


@dataclass(frozen=True)
class Proxies:
    """Proxies of training images, or the prompts that they are decoded from."""

    images: Tensor  # in [0, 1] where decoded, float32, (N, C, H, W)
    labels: Tensor  # int64, (N,)


@dataclass
class Kit:
    """Classifier, generator and prompts.

    Args:
        generator: `None` after training without one, and for unlearned weights.
        prompts: Learned noise of the classes that remain, shape `(classes, per class, C, H, W)`;
            `None` likewise.
        archive: Compressed images of some classes, a part each, uint8, 1-D, on the CPU; empty
            without an archive.
        distribution: `None` without one.
    """

    classifier: nn.Module
    info: KitInfo
    generator: nn.Module | None = None
    prompts: Tensor | None = None
    archive: Mapping[int, Tensor] = field(default_factory=dict)
    distribution: Distribution | None = None
    prompts_read: bool = field(default=False, init=False)  # since it was loaded
    archived_read: set[int] = field(default_factory=set, init=False)  # classes, likewise
    samples_drawn: bool = field(default=False, init=False)  # of distributions, since it was loaded

    def __post_init__(self) -> None:
        parts = [self.info.generator, self.generator, self.prompts]
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("generator, its description and prompts come together or not at all")
        described = self.info.archive
        if {*self.archive} != {*(described.classes if described else ())}:
            raise ValueError("an archive has a part of each class that its description counts")
        held = None if self.distribution is None else (*self.distribution.mixtures,)
        if held != (self.info.distribution and self.info.distribution.classes):
            raise ValueError("a distribution has the classes that its description names")
        for network in (self.classifier, self.generator):
            if network is not None:
                network.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"classifier.{k}": v for k, v in self.classifier.state_dict().items()}
        if self.generator is not None and self.prompts is not None:
            tensors |= {f"generator.{k}": v for k, v in self.generator.state_dict().items()}
            tensors["prompts"] = self.prompts
        tensors |= {f"archive.{k}": part for k, part in self.archive.items()}
        if self.distribution is not None:
            tensors |= self.distribution.tensors
        # a clone drops strides and shared storage: only these numbers may be in the file
        tensors = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in tensors.items()
        }
        text = self.info.to_json()
        digest = tensor_digest(tensors, text)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"geniu": text, "sha256": digest})

    @classmethod
    def load(cls, path: Path, allow_custom: bool = False) -> "Kit":
        """Read and verify a kit or unlearned weights.

        `allow_custom` builds networks from outside this package, too, which runs their code.

        Raises:
            KitError: If the file is missing, no kit, truncated, altered, of another format
                version, or of a network that is not allowed.
        """
        metadata = kit_metadata(path)
        info, tensors = KitInfo.from_json(metadata["geniu"]), load_file(path)
        if metadata.get("sha256") != tensor_digest(tensors, metadata["geniu"]):
            raise KitError(f"{path} was altered after it was written: its checksum does not match")
        read = Parts(info, tensors, path, allow_custom)
        classifier = read.network("classifier.", info.classifier)
        classes = info.archive.classes if info.archive else ()
        archive = {k: tensors[f"archive.{k}"] for k in classes}
        generator, distribution = None, None
        if info.generator is not None:
            generator = read.network("generator.", info.generator)
        if info.distribution is not None:
            decoder = read.network(DECODER, info.distribution.decoder)
            mixtures = mixtures_in(tensors, info.distribution.classes)
            distribution = Distribution(decoder, mixtures)
        return cls(classifier, info, generator, tensors.get("prompts"), archive, distribution)

    def proxies(
        self, classes: Sequence[int] | None = None, per_class: int | None = None
    ) -> Proxies:
        """Return the decoded prompts of some classes, or of all that remain.

        Of each class all, or the first `per_class`.
        """
        prompts = self.prompts_of(classes, per_class)
        return Proxies(self.decode(prompts.images), prompts.labels)

    def prompts_of(
        self, classes: Sequence[int] | None = None, per_class: int | None = None
    ) -> Proxies:
        """Return what `proxies` decodes: noise on the normalised scale."""
        if self.prompts is None:
            raise KitError(
                "this file holds no generator and no prompts: train with kit=prompts to make one"
            )
        available = self.prompts.shape[1]
        count = available if per_class is None else per_class
        if not 1 <= count <= available:
            raise KitError(f"the kit has {available} prompts a class, {count} were asked for")
        self.prompts_read = True
        remaining = self.info.remaining
        wanted = list(remaining if classes is None else classes)
        if not set(wanted) <= set(remaining):
            raise KitError(
                f"the kit has prompts of the classes {', '.join(map(str, remaining))}, not of"
                f" {', '.join(str(k) for k in wanted if k not in remaining)}"
            )
        prompts = self.prompts[[remaining.index(k) for k in wanted], :count].flatten(0, 1)
        labels = torch.tensor(wanted, device=prompts.device).repeat_interleave(count)
        return Proxies(prompts, labels)

    def archived(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the archived images of some classes in [0, 1], float32, on the CPU; and labels.

        Parts of other classes are not decoded.
        """
        info = self.info.archive
        if info is None:
            raise KitError(
                "this kit holds no archive: train with kit=archive, or kit=[prompts,archive], to"
                " make one"
            )
        if lacking := [k for k in classes if k not in self.archive]:
            names = labelled(lacking, self.info.class_names)
            raise KitError(f"the archive has no images of {names}")
        counts = torch.tensor([info.counts[k] for k in classes])
        refuse_too_many(int(counts.sum()), self.info.spec)
        images = []
        for k, count in zip(classes, counts.tolist(), strict=True):
            try:
                images.append(decoded(self.archive[k], count, info.settings, self.info.spec))
            except KitError as error:
                name = labelled([k], self.info.class_names)
                raise KitError(f"the archive of class {name} cannot be decoded: {error}") from error
        self.archived_read |= {*classes}
        return torch.cat(images), torch.tensor(classes).repeat_interleave(counts)

    def archive_loader(self, classes: Sequence[int], batch_size: int, seed: int) -> IndexLoader:
        """Return archived images of some classes in batches, drawn and augmented as in training."""
        images, labels = self.archived(classes)
        images = images.to(next(self.classifier.parameters()).device)

        def read(indices: Tensor, draw: int) -> Tensor:
            return images[indices.to(images.device)]

        return self._training_batches(read, labels, batch_size, seed)

    def sample_loader(
        self,
        classes: Sequence[int],
        counts: Sequence[int],
        batch_size: int,
        seed: int,
        temperature: float = 1.0,
    ) -> IndexLoader:
        """Return samples of distributions in batches, augmented as in training, new in each step.

        An epoch has `counts` samples of `classes`.
        """
        held = self._distribution_of(classes)
        labels = torch.tensor(classes).repeat_interleave(torch.tensor(counts))

        def read(indices: Tensor, draw: int) -> Tensor:
            return held.draw(labels[indices], generator("samples", draw), temperature)

        return self._training_batches(read, labels, batch_size, seed)

    def samples(
        self, classes: Sequence[int], count: int, stream: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return so many samples of the distribution of each class, in [0, 1], and their labels."""
        held = self._distribution_of(classes)
        labels = torch.tensor(classes).repeat_interleave(count)
        return held.draw(labels, stream), labels

    def sample_grid(self) -> Tensor:
        """Return ten samples of each class that has a distribution, `(classes, 10, C, H, W)`."""
        classes = self.info.distribution.classes if self.info.distribution else ()
        images, _ = self.samples(classes, SHOWN, generator("picture", self.info.seed))
        return images.view(-1, SHOWN, *images.shape[1:])

    def _distribution_of(self, classes: Sequence[int]) -> Distribution:
        """Return what draws some classes; refuse classes without a distribution."""
        if self.distribution is None:
            raise KitError(
                "this kit holds no distribution: train with kit=distribution, or"
                " kit=[prompts,distribution], to make one"
            )
        if lacking := [k for k in classes if k not in self.distribution.mixtures]:
            names = labelled(lacking, self.info.class_names)
            raise KitError(f"the kit has no distribution of {names}")
        self.samples_drawn = True
        return self.distribution

    def _training_batches(
        self, read: Callable[[Tensor, int], Tensor], labels: Tensor, batch_size: int, seed: int
    ) -> IndexLoader:
        record = self.info.settings.get("data", {})
        pad, flip = record.get("pad", 0), record.get("flip", False)
        if pad > self.info.spec.size:
            raise KitError(f"the kit's images were shifted by at most their side, not {pad} pixels")
        return training_batches(read, labels, self.info.spec, (pad, flip), batch_size, seed)

    @torch.no_grad()
    def decode(self, prompts: Tensor) -> Tensor:
        """Return images in [0, 1] of prompts `(N, C, H, W)`: each latent code's mean, decoded."""
        if self.generator is None:
            raise KitError("this file holds no generator: train with kit=prompts to make one")
        images: Tensor = self.generator(prompts, sample=False).images
        return images.float()

    def to(self, device: torch.device) -> "Kit":
        """Move networks and prompts to a device, in place."""
        self.classifier.to(device)
        if self.generator is not None and self.prompts is not None:
            self.generator.to(device)
            self.prompts = self.prompts.to(device)
        if self.distribution is not None:
            self.distribution.decoder.to(device)
        return self
