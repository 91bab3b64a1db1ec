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
from geniu_lightning.errors import KitError, first_line
from geniu_lightning.files import replacing
from geniu_lightning.kit.archive import decoded, refuse_too_many
from geniu_lightning.kit.distribution import DECODER, MIXTURE, Distribution, mixtures_in
from geniu_lightning.kit.header import kit_metadata
from geniu_lightning.kit.info import KitInfo, NetworkSpec
from geniu_lightning.kit.networks import tensor_digest
from geniu_lightning.seeds import generator


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
    archived_read: int = field(default=0, init=False)  # images decoded when it was last read
    samples_drawn: bool = field(default=False, init=False)  # of distributions, since it was loaded

    def __post_init__(self) -> None:
        parts = [self.info.generator, self.generator, self.prompts]
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("generator, its description and prompts come together or not at all")
        if {*self.archive} != {*_archived(self.info)}:
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
        _check(info, tensors, path)
        decoder = None if info.distribution is None else info.distribution.decoder
        for part, spec in (
            ("classifier.", info.classifier),
            ("generator.", info.generator),
            (DECODER, decoder),
        ):
            if spec is not None and spec.ours:
                _compare(spec, info, tensors, part, path)
        classifier = info.classifier.build_classifier(allow_custom)
        _fill(classifier, tensors, "classifier.", path)
        archive = {k: tensors[f"archive.{k}"] for k in _archived(info)}
        generator, distribution = None, None
        if info.generator is not None:
            generator = info.generator.build(allow_custom)
            _fill(generator, tensors, "generator.", path)
        if info.distribution is not None:
            network = info.distribution.decoder.build(allow_custom)
            _fill(network, tensors, DECODER, path)
            mixtures = mixtures_in(tensors, info.distribution.classes)
            distribution = Distribution(network, mixtures)
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
        self.archived_read = int(counts.sum())
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
        if self.distribution is None:
            raise KitError(
                "this kit holds no distribution: train with kit=distribution, or"
                " kit=[prompts,distribution], to make one"
            )
        held = self.distribution
        if lacking := [k for k in classes if k not in held.mixtures]:
            names = labelled(lacking, self.info.class_names)
            raise KitError(f"the kit has no distribution of {names}")
        self.samples_drawn = True
        labels = torch.tensor(classes).repeat_interleave(torch.tensor(counts))

        def read(indices: Tensor, draw: int) -> Tensor:
            return held.draw(labels[indices], generator("samples", draw), temperature)

        return self._training_batches(read, labels, batch_size, seed)

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


def _compare(
    spec: NetworkSpec, info: KitInfo, tensors: dict[str, Tensor], prefix: str, path: Path
) -> None:
    """Refuse a network that fits neither description nor tensors, before it takes any memory."""
    image = torch.empty(1, info.spec.channels, info.spec.size, info.spec.size, device="meta")
    wanted_shape = (1, len(info.class_names)) if prefix == "classifier." else image.shape
    try:
        with torch.device("meta"):
            network = spec.build(allow_custom=False).eval()
        if prefix == "generator.":
            made = network(image, sample=False).images
        else:
            codes = torch.empty(1, _code_width(tensors), device="meta")
            made = network(codes if prefix == DECODER else image)
        fits = made.shape == wanted_shape
    except (KitError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        if "meta tensor" in str(error):  # some networks of timm read values while they are built
            return
        raise KitError(f"{spec.target} does not do for {path}: {first_line(error)}") from error
    if not fits:
        raise KitError(f"{spec.target} in {path} makes {tuple(made.shape)} of {tuple(image.shape)}")
    wanted = network.state_dict()
    form = {name: (tuple(t.shape), t.dtype) for name, t in wanted.items()}
    found = {
        name.removeprefix(prefix): (tuple(t.shape), t.dtype)
        for name, t in tensors.items()
        if name.startswith(prefix)
    }
    for name in sorted(form.keys() | found.keys()):
        if form.get(name) != found.get(name):
            raise KitError(
                f"the weights in {path} do not fit the network it names: {name} is"
                f" {found.get(name, 'missing')}, {spec.target} has {form.get(name, 'none')}"
            )


def _check(info: KitInfo, tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a file whose parts contradict each other: a right checksum does not exclude it."""
    spec = info.spec
    held = {"classifier.": True, "generator.": info.generator, DECODER: info.distribution}
    prefixes = tuple(prefix for prefix, there in held.items() if there)
    drawn = info.distribution.classes if info.distribution else ()
    mixtures = {f"{MIXTURE}{k}.{name}" for k in drawn for name in ("weights", "means", "factors")}
    archive = {k: t for k, t in tensors.items() if k.startswith("archive.")}
    known = {*archive, *mixtures, "prompts"}
    foreign = [k for k in tensors if not k.startswith(prefixes) and k not in known]
    prompts = tensors.get("prompts")
    shape = (len(info.remaining), spec.channels, spec.size, spec.size)
    wrong = {
        f"the tensor {foreign[:1]} belongs to no part": bool(foreign),
        "prompts and generator do not come together": (prompts is None) != (info.generator is None),
        "the prompts are not of the images' form": prompts is not None
        and (prompts.dim() != 5 or (prompts.shape[0], *prompts.shape[2:]) != shape),
        "the prompts are not in 32 bits": prompts is not None and prompts.dtype != torch.float32,
        "the parts of its archive are not those that it describes": archive.keys()
        != {f"archive.{k}" for k in _archived(info)},
        "its distributions are not those that it describes": not mixtures <= tensors.keys(),
        "a part of its archive is no row of bytes": any(
            part.dim() != 1 or part.dtype != torch.uint8 for part in archive.values()
        ),
    }
    for reason, found in wrong.items():
        if found:
            raise KitError(f"{path} contradicts itself: {reason}")


def _code_width(tensors: dict[str, Tensor]) -> int:
    """Return the width of the codes that a kit's mixtures are over; 1 without any."""
    means = (t for name, t in tensors.items() if name.startswith(MIXTURE) and "means" in name)
    return next((t.shape[-1] for t in means if t.dim()), 1)


def _archived(info: KitInfo) -> list[int]:
    """Return the classes that an archive has images of."""
    return [] if info.archive is None else [k for k, n in enumerate(info.archive.counts) if n]


def _fill(network: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise KitError(f"the weights in {path} do not fit the network it names: {error}") from error
