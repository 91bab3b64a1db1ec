"""Small kits, and a way to write files that no honest training would."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.archive import encoded
from geniu_lightning.kit.archive_info import ArchiveInfo, ArchiveSettings
from geniu_lightning.kit.distribution import Distribution
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import DistributionInfo, KitInfo, NetworkSpec
from geniu_lightning.kit.mixture import Mixture
from geniu_lightning.kit.networks import tensor_digest
from geniu_lightning.models.allcnn import AllCNN

CLASSES, PER_CLASS, SIZE = 3, 2, 16


class Mine(AllCNN):
    """A network from outside the package."""


def make_kit(with_generator: bool = True) -> Kit:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        spec = NetworkSpec(
            "geniu_lightning.models.allcnn.AllCNN",
            {"channels": 1, "num_classes": CLASSES, "width": 2},
        )
        vae = NetworkSpec(
            "geniu_lightning.models.vae.VAE", {"channels": 1, "image_size": SIZE, "latent": 8}
        )
        info = KitInfo(
            classifier=spec,
            generator=vae if with_generator else None,
            class_names=("cat", "dog", "Ärger 犬"),
            spec=ImageSpec(SIZE, 1, (0.4,), (0.3,)),
            class_counts=(1200, 40, 5),
            data_fingerprint="0123456789abcdef" * 4,
            seed=7,
            settings={"data": {"name": "synthetic", "pad": 2}, "training": {"lr": 0.003}},
            forgotten=() if with_generator else (1,),
            revision="abc123",
        )
        network = spec.build_classifier()
        generator = vae.build() if with_generator else None
        # running statistics and counters like those of a trained network
        for module in (network, generator):
            if module is not None:
                module.train()
                module(torch.randn(4, 1, SIZE, SIZE))
        prompts = torch.randn(CLASSES, PER_CLASS, 1, SIZE, SIZE) if with_generator else None
    return Kit(network, info, generator, prompts)


def with_archive(kit: Kit, **settings: Any) -> Kit:
    """Return a kit with an archive of a few noisy images of each remaining class."""
    spec, counts = kit.info.spec, (6, 4, 5)
    form = (spec.channels, spec.size, spec.size)
    random = torch.Generator().manual_seed(3)
    info = ArchiveInfo(ArchiveSettings(**settings), counts).without(kit.info.forgotten)
    archive = {
        k: encoded(torch.rand(n, *form, generator=random), info.settings)
        for k, n in enumerate(info.counts)
        if n
    }
    described = replace(kit.info, archive=info)
    return Kit(kit.classifier, described, kit.generator, kit.prompts, archive)


def with_distribution(kit: Kit, parts: int = 2, latent: int = 8) -> Kit:
    """Return a kit with a small decoder and a mixture of each remaining class."""
    spec, random = kit.info.spec, torch.Generator().manual_seed(4)
    form = {"channels": spec.channels, "image_size": spec.size, "latent": latent, "width": 8}
    decoder = NetworkSpec("geniu_lightning.models.latent.Decoder", form)
    mixtures = {
        k: Mixture(
            torch.full((parts,), 1 / parts).half(),
            torch.randn(parts, latent, generator=random).half(),
            torch.eye(latent).repeat(parts, 1, 1).half(),
        )
        for k in kit.info.remaining
    }
    described = replace(kit.info, distribution=DistributionInfo(decoder, (*mixtures,)))
    held = Distribution(decoder.build(), mixtures)
    return Kit(kit.classifier, described, kit.generator, kit.prompts, kit.archive, held)


def forge(
    path: Path,
    original: Path,
    changed: dict[str, Any] | None = None,
    more: dict[str, Tensor | None] | None = None,
) -> None:
    """Write a file of changed content with a checksum that is right again: anyone can."""
    with safe_open(original, framework="pt") as file:
        info = json.loads(file.metadata()["geniu"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = json.dumps(info | (changed or {}), sort_keys=True)
    tensors = {k: v for k, v in (tensors | (more or {})).items() if v is not None}
    save_file(tensors, path, metadata={"geniu": text, "sha256": tensor_digest(tensors, text)})


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def content(path: Path) -> tuple[dict[str, str], dict[str, tuple[Any, ...]]]:
    """Return all that a file says; the order of its header is not settled by safetensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata(), {k: (v.dtype, v.shape, bits(v)) for k, v in tensors.items()}
