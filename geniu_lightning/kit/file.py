"""One safetensors file that holds a kit, or the weights that unlearning made of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import KitError, SettingError
from geniu_lightning.files import replacing
from geniu_lightning.kit.header import kit_metadata
from geniu_lightning.kit.networks import NetworkSpec, tensor_digest
from geniu_lightning.settings.checked import checked
from geniu_lightning.version import __version__

FORMAT = 1


@checked
@dataclass(frozen=True)
class KitInfo:
    """Description of a kit.

    Args:
        generator: `None` without one.
        class_names: In the order of their indices.
        class_counts: Training images of each class that the classifier saw, for priors.
        data_fingerprint: SHA-256 over the whole data set's pixels and labels; empty if they came
            from a user's own loader.
        seed: Training seed.
        settings: The resolved configuration of training, to find the data and to retrain.
        forgotten: Classes that were unlearned, by index; a kit holds no prompts of them.
        prior_taken: τ of `z − τ log π`: the share of the class prior that unlearning has removed
            from the logits.
        library: Version of this package that wrote the file.
        revision: Its git revision, where it ran from a checkout.
    """

    classifier: NetworkSpec
    generator: NetworkSpec | None
    class_names: tuple[str, ...]
    spec: ImageSpec
    class_counts: tuple[int, ...]
    data_fingerprint: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)  # any JSON value
    forgotten: tuple[int, ...] = ()
    prior_taken: float = 0.0
    library: str = __version__
    revision: str | None = None
    format: int = FORMAT

    @property
    def remaining(self) -> tuple[int, ...]:
        """Classes that were not unlearned, by index: the order of the prompts."""
        return tuple(k for k in range(len(self.class_names)) if k not in self.forgotten)

    @classmethod
    def from_json(cls, text: str) -> "KitInfo":
        """Read what `to_json` wrote."""
        try:
            raw = json.loads(text)
            for name in ("class_names", "class_counts", "forgotten"):
                raw[name] = tuple(raw[name])
            for name in ("classifier", "generator"):
                raw[name] = raw[name] and NetworkSpec(**raw[name])
            spec = raw["spec"]
            raw["spec"] = ImageSpec(**spec | {k: tuple(spec[k]) for k in ("mean", "std")})
            return cls(**raw)
        except (ValueError, TypeError, KeyError, SettingError) as error:
            raise KitError(f"the kit's description cannot be read: {error!r}") from error

    def to_json(self) -> str:
        """Return the description as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)


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
    """

    classifier: nn.Module
    info: KitInfo
    generator: nn.Module | None = None
    prompts: Tensor | None = None
    prompts_read: bool = field(default=False, init=False)  # since it was loaded

    def __post_init__(self) -> None:
        parts = [self.info.generator, self.generator, self.prompts]
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("generator, its description and prompts come together or not at all")
        for network in (self.classifier, self.generator):
            if network is not None:
                network.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors = {f"classifier.{k}": v for k, v in self.classifier.state_dict().items()}
        if self.generator is not None and self.prompts is not None:
            tensors |= {f"generator.{k}": v for k, v in self.generator.state_dict().items()}
            tensors["prompts"] = self.prompts
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
        """Read and verify a kit or unlearned weights; `allow_custom` as in `NetworkSpec.build`."""
        tensors, text = _read(path)
        info = KitInfo.from_json(text)
        _check(info, tensors, path)
        classifier = info.classifier.build_classifier(allow_custom)
        _fill(classifier, tensors, "classifier.", path)
        if info.generator is None:
            return cls(classifier, info)
        generator = info.generator.build(allow_custom)
        _fill(generator, tensors, "generator.", path)
        return cls(classifier, info, generator, tensors["prompts"])

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
                "this file holds no generator and no prompts: train with generator=vae to make one"
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

    @torch.no_grad()
    def decode(self, prompts: Tensor) -> Tensor:
        """Return images in [0, 1] of prompts `(N, C, H, W)`: each latent code's mean, decoded."""
        if self.generator is None:
            raise KitError("this file holds no generator: train with generator=vae to make one")
        images: Tensor = self.generator(prompts, sample=False).images
        return images.float()

    def to(self, device: torch.device) -> "Kit":
        """Move networks and prompts to a device, in place."""
        self.classifier.to(device)
        if self.generator is not None and self.prompts is not None:
            self.generator.to(device)
            self.prompts = self.prompts.to(device)
        return self


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    metadata, tensors = kit_metadata(path), load_file(path)
    text = metadata["geniu"]
    try:
        version = json.loads(text).get("format")
    except (ValueError, AttributeError):
        version = None
    if version != FORMAT:
        raise KitError(f"{path} has format version {version}; this version reads {FORMAT}")
    if metadata.get("sha256") != tensor_digest(tensors, text):
        raise KitError(f"{path} was altered after it was written: its checksum does not match")
    return tensors, text


def _check(info: KitInfo, tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a file whose parts contradict each other: a right checksum does not exclude it."""
    classes, spec = len(info.class_names), info.spec
    prefixes = ("classifier.", "generator.") if info.generator else ("classifier.",)
    foreign = [k for k in tensors if not k.startswith(prefixes) and k != "prompts"]
    prompts = tensors.get("prompts")
    shape = (len(info.remaining), spec.channels, spec.size, spec.size)
    wrong = {
        f"the tensor {foreign[:1]} belongs to no part": bool(foreign),
        "prompts and generator do not come together": (prompts is None) != (info.generator is None),
        "the prompts are not of the images' form": prompts is not None
        and (*prompts.shape[:1], *prompts.shape[2:]) != shape,
        "classes and their counts differ in number": len(info.class_counts) != classes,
        "a forgotten class does not exist": not all(0 <= k < classes for k in info.forgotten),
    }
    for reason, found in wrong.items():
        if found:
            raise KitError(f"{path} contradicts itself: {reason}")


def _fill(network: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise KitError(f"the weights in {path} do not fit the network it names: {error}") from error
