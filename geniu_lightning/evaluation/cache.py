"""Cache of measured values and of outputs of models that many evaluations share."""

import hashlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.metric import Absent, Metric, Values
from geniu_lightning.files import replacing
from geniu_lightning.kit.networks import state_digest

ROOM = __name__.rpartition(".")[0] + "."


class FileCache:
    """Values of models, a JSON file for each key; the first `put` makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Values | None:
        """Return the values of a key; `None` if the file is missing or broken."""
        try:
            raw = json.loads((self.folder / f"{key}.json").read_text())
            return {k: Absent(v["absent"]) if isinstance(v, dict) else v for k, v in raw.items()}
        except (OSError, ValueError, AttributeError, KeyError):
            return None

    def put(self, key: str, values: Values) -> None:
        """Write the values, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plain = {k: {"absent": v.reason} if isinstance(v, Absent) else v for k, v in values.items()}
        with replacing(self.folder / f"{key}.json") as partial:
            partial.write_text(json.dumps(plain, allow_nan=False))


class FileOutputs:
    """Outputs of some networks on the splits of one data set, one file each; of no others."""

    def __init__(self, folder: Path, networks: tuple[nn.Module, ...]) -> None:
        self.folder = folder
        self.names = {id(network): state_digest(network)[:24] for network in networks}
        self.networks = networks  # the references keep the ids unique

    def get(self, network: nn.Module, split: str) -> Outputs | None:
        """Return stored outputs; `None` if the file is missing or broken."""
        if id(network) not in self.names:
            return None
        try:
            tensors = load_file(self._file(network, split))
            return Outputs(tensors["logits"], tensors["features"], tensors["labels"])
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
        """Write outputs of one of the networks, whole or not at all."""
        if id(network) in self.names:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(network, split)) as partial:
                save_file({k: v.contiguous() for k, v in vars(outputs).items()}, partial)

    def _file(self, network: nn.Module, split: str) -> Path:
        return self.folder / f"{self.names[id(network)]}-{split}.safetensors"


def key_of(context: Context, family: str, metric: Metric) -> str:
    """Return a hash of all that a metric's values follow from."""
    parts: dict[str, Any] = {
        "family": family,
        "code": code_of(type(metric)),
        "settings": vars(metric),
        "model": context.digest(context.unlearned) if metric.subject == "model" else None,
        "forget": context.forget,
        "counts": context.class_counts,
        "seed": context.seed,
        "splits": {name: digest_of(split.labels) for name, split in context.splits.items()},
    }
    if "original" in metric.needs:
        parts["original"] = context.digest(context.original)
    if "oracles" in metric.needs:
        parts["oracles"] = [context.digest(oracle) for oracle in context.oracles]
    if "proxies" in metric.needs and context.proxies is not None:
        parts["proxies"] = [digest_of(context.proxies.images), digest_of(context.proxies.labels)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def code_of(made: type, room: str = ROOM) -> str:
    """Return a hash of a class's file and of the files of a room that it imports from."""
    waiting, files = [inspect.getmodule(made)], {}
    while waiting:
        module = waiting.pop()
        if isinstance(module, ModuleType) and module.__name__ not in files and module.__file__:
            files[module.__name__] = Path(module.__file__).read_bytes()
            used = {getattr(value, "__module__", None) for value in vars(module).values()}
            waiting += [sys.modules.get(k) for k in used if k and k.startswith(room)]
    return hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()


def digest_of(tensor: Tensor) -> str:
    """Return SHA-256 over shape and bytes of a tensor."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tuple(tensor.shape)}".encode() + raw).hexdigest()
