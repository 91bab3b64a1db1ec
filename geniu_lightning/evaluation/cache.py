"""What was found of models before, so that it is not measured twice."""

import hashlib
import inspect
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.metric import Absent, Metric, Value, Values

ROOM = __name__.rpartition(".")[0] + "."


class Cache(Protocol):
    """Remembers what was found of models that many evaluations share."""

    def recall(self, key: str) -> Values | None:
        """Return what was found, or nothing."""

    def keep(self, key: str, values: Values) -> None:
        """Remember it."""


class FileCache:
    """A folder with a file for each family of each model.

    Args:
        folder: Made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, key: str) -> Values | None:
        """Return what was found; nothing where the file is missing or not whole."""
        try:
            raw = json.loads((self.folder / f"{key}.json").read_text())
            return {name: _value_of(value) for name, value in raw.items()}
        except (OSError, ValueError, AttributeError, KeyError):
            return None

    def keep(self, key: str, values: Values) -> None:
        """Write it whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plain = {
            name: {"absent": value.reason} if isinstance(value, Absent) else value
            for name, value in values.items()
        }
        partial = self.folder / f".{key}.{os.getpid()}"
        partial.write_text(json.dumps(plain, allow_nan=False))
        partial.replace(self.folder / f"{key}.json")


def _value_of(raw: Any) -> Value | Absent:  # any JSON value
    return Absent(raw["absent"]) if isinstance(raw, dict) else raw


class FileOutputs:
    """Outputs of some networks on the splits of one data set, a file each.

    Args:
        folder: Made when there is something to keep.
        networks: Whose outputs are kept; others are nobody else's concern.
    """

    def __init__(self, folder: Path, networks: tuple[nn.Module, ...]) -> None:
        self.folder = folder
        self.names = {id(network): fingerprint(network)[:24] for network in networks}
        self.networks = networks  # held, so that their ids stay theirs

    def get(self, network: nn.Module, split: str) -> Outputs | None:
        """Return what is kept; nothing where the file is missing or not whole."""
        if id(network) not in self.names:
            return None
        try:
            tensors = load_file(self._file(network, split))
            return Outputs(tensors["logits"], tensors["features"], tensors["labels"])
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
        """Keep outputs of one of the networks, whole or not at all."""
        if id(network) not in self.names:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(network, split)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        save_file({k: v.contiguous() for k, v in vars(outputs).items()}, partial)
        partial.replace(file)

    def _file(self, network: nn.Module, split: str) -> Path:
        return self.folder / f"{self.names[id(network)]}-{split}.safetensors"


def key_of(context: Context, family: str, metric: Metric) -> str:
    """Return what a result depends on, in a form that names a file."""
    needs: dict[str, Any] = {}
    if "original" in metric.needs:
        needs["original"] = fingerprint(context.original)
    if "oracles" in metric.needs:
        needs["oracles"] = [fingerprint(oracle) for oracle in context.oracles]
    if "proxies" in metric.needs and context.proxies is not None:
        needs["proxies"] = [digest_of(context.proxies.images), digest_of(context.proxies.labels)]
    parts = {
        "family": family,
        "code": code_of(type(metric)),
        "settings": vars(metric),
        "model": fingerprint(context.unlearned) if metric.about == "model" else None,
        "forget": context.forget,
        "counts": context.class_counts,
        "seed": context.seed,
        "splits": {name: digest_of(split.labels) for name, split in context.splits.items()},
        **needs,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_of(metric: type) -> str:
    """Return a hash of the files that a result follows from: its own, and what it uses of ours."""
    waiting, files = [inspect.getmodule(metric)], {}
    while waiting:
        module = waiting.pop()
        if isinstance(module, ModuleType) and module.__name__ not in files and module.__file__:
            files[module.__name__] = Path(module.__file__).read_bytes()
            used = {getattr(value, "__module__", None) for value in vars(module).values()}
            waiting += [sys.modules.get(k) for k in used if k and k.startswith(ROOM)]
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()


def fingerprint(network: nn.Module) -> str:
    """Return SHA-256 over all parameters, buffers and modes: equal where the networks are."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name}|{module.training}".encode())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tensor.dtype}|{tensor.requires_grad}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def digest_of(tensor: Tensor) -> str:
    """Return SHA-256 over shape and bytes."""
    return hashlib.sha256(f"{tuple(tensor.shape)}".encode() + _bytes_of(tensor)).hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
