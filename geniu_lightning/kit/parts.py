"""The parts of a kit's file: checked against its description before they take any memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from geniu_lightning.errors import KitError, first_line
from geniu_lightning.kit.distribution import DECODER, MIXTURE
from geniu_lightning.kit.info import KitInfo, NetworkSpec


@dataclass(frozen=True)
class Parts:
    """Description and tensors of a file that a stranger may have written.

    A right checksum does not exclude that they contradict each other, which is refused here.
    """

    info: KitInfo
    tensors: Mapping[str, Tensor]
    path: Path
    allow_custom: bool = False

    def __post_init__(self) -> None:
        info, spec = self.info, self.info.spec
        held = {"classifier.": True, "generator.": info.generator, DECODER: info.distribution}
        prefixes = tuple(prefix for prefix, there in held.items() if there)
        drawn = info.distribution.classes if info.distribution else ()
        names = ("weights", "means", "factors")
        mixtures = {f"{MIXTURE}{k}.{name}" for k in drawn for name in names}
        archive = {k: t for k, t in self.tensors.items() if k.startswith("archive.")}
        known = {*archive, *mixtures, "prompts"}
        foreign = [k for k in self.tensors if not k.startswith(prefixes) and k not in known]
        prompts = self.tensors.get("prompts")
        shape = (len(info.remaining), spec.channels, spec.size, spec.size)
        wrong = {
            f"the tensor {foreign[:1]} belongs to no part": bool(foreign),
            "prompts and generator do not come together": (prompts is None)
            != (info.generator is None),
            "the prompts are not of the images' form": prompts is not None
            and (prompts.dim() != 5 or (prompts.shape[0], *prompts.shape[2:]) != shape),
            "the prompts are not in 32 bits": prompts is not None
            and prompts.dtype != torch.float32,
            "the parts of its archive are not those that it describes": archive.keys()
            != {f"archive.{k}" for k in (info.archive.classes if info.archive else ())},
            "its distributions are not those that it describes": not mixtures
            <= self.tensors.keys(),
            "a part of its archive is no row of bytes": any(
                part.dim() != 1 or part.dtype != torch.uint8 for part in archive.values()
            ),
        }
        for reason, found in wrong.items():
            if found:
                raise KitError(f"{self.path} contradicts itself: {reason}")

    def network(self, prefix: str, spec: NetworkSpec) -> nn.Module:
        """Return a network with the tensors of a prefix; ours is compared before it is built."""
        state = {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}
        if spec.ours:
            self._compare(prefix, spec, state)
        build = spec.build_classifier if prefix == "classifier." else spec.build
        network = build(self.allow_custom)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise KitError(
                f"the weights in {self.path} do not fit the network it names: {error}"
            ) from error
        return network

    def _compare(self, prefix: str, spec: NetworkSpec, state: Mapping[str, Tensor]) -> None:
        """Refuse a network that fits neither the description nor the tensors."""
        form, path = self.info.spec, self.path
        image = torch.empty(1, form.channels, form.size, form.size, device="meta")
        wanted = (1, len(self.info.class_names)) if prefix == "classifier." else image.shape
        try:
            with torch.device("meta"):
                network = spec.build(allow_custom=False).eval()
            if prefix == "generator.":
                made = network(image, sample=False).images
            else:
                codes = torch.empty(1, self._code_width, device="meta")
                made = network(codes if prefix == DECODER else image)
            fits = made.shape == wanted
        except (KitError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            if "meta tensor" in str(error):  # some networks of timm read values while they're built
                return
            raise KitError(f"{spec.target} does not do for {path}: {first_line(error)}") from error
        if not fits:
            found = tuple(made.shape)
            raise KitError(f"{spec.target} in {path} makes {found} of {tuple(image.shape)}")
        needed = {name: (tuple(t.shape), t.dtype) for name, t in network.state_dict().items()}
        there = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
        for name in sorted(needed.keys() | there.keys()):
            if needed.get(name) != there.get(name):
                raise KitError(
                    f"the weights in {path} do not fit the network it names: {name} is"
                    f" {there.get(name, 'missing')}, {spec.target} has {needed.get(name, 'none')}"
                )

    @property
    def _code_width(self) -> int:
        """Width of the codes that the mixtures are over; 1 without any."""
        means = (t for k, t in self.tensors.items() if k.startswith(MIXTURE) and "means" in k)
        return next((t.shape[-1] for t in means if t.dim()), 1)
