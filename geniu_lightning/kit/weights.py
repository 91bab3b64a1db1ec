"""Weights of a classifier from a file of any common format."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from geniu_lightning.errors import KitError, first_line
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import NetworkSpec


def classifier_from(path: Path, spec: NetworkSpec, allow_custom: bool = False) -> nn.Module:
    """Return a classifier with the weights in a file, in evaluation mode without gradients.

    The file is a kit, or unlearned weights; or a state dict of the network, written by safetensors
    or torch, alone or under `state_dict` with a prefix before every name, as Lightning does.
    """
    if not path.is_file():
        raise KitError(f"there are no weights at {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError):
        state = _pickled(path)
    else:
        with safe_open(path, framework="pt") as file:
            ours = "geniu" in (file.metadata() or {})
        if ours:
            loaded = Kit.load(path, allow_custom)
            if loaded.info.classifier != spec:
                raise KitError(f"{path} holds another network: {loaded.info.classifier}")
            return loaded.classifier
    classifier = spec.build_classifier(allow_custom)
    try:
        classifier.load_state_dict(_without_prefix(state, set(classifier.state_dict())))
    except RuntimeError as error:
        raise KitError(f"{path} does not fit {spec.target}: {first_line(error)}") from error
    return classifier.eval().requires_grad_(False)


def _pickled(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):  # as torch has written its files since 1.6
        raise KitError(f"{path} is truncated, or neither a safetensors file nor one of torch.save")
    try:
        with zipfile.ZipFile(path) as file:
            packed = any(one.compress_type != zipfile.ZIP_STORED for one in file.infolist())
        # weights_only: unpickling anything but tensors and plain values would run code
        state: Any = None if packed else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of its readers
        raise KitError(
            f"{path} cannot be read as a state dict of plain tensors ({first_line(error)}): save"
            " model.state_dict() alone"
        ) from error
    if packed:  # as no file of torch is, and it may unpack without end
        raise KitError(f"{path} is compressed, as torch.save leaves no file")
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise KitError(f"{path} holds no state dict")
    return state


def _without_prefix(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the entries of a state dict that are a network's after a prefix is removed."""
    if names <= state.keys():
        return state
    one = min(names)
    for key in state:
        prefix = key.removesuffix(one)
        if prefix != key and all(f"{prefix}{name}" in state for name in names):
            # other entries with the prefix stay: load_state_dict refuses them as another network
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state
