"""Networks by class path and arguments, the classifier's interface, and hashes of weights."""

import hashlib
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from geniu_lightning.errors import KitError


def refuse_no_classifier(network: nn.Module, name: str) -> None:
    """Refuse a network without `features` or a linear `head` with a bias."""
    head = getattr(network, "head", None)
    linear = isinstance(head, nn.Linear) and head.bias is not None
    if not linear or not callable(getattr(network, "features", None)):
        raise KitError(
            f"{name} must have a method features(images) and a torch.nn.Linear with a"
            " bias named head, with forward(images) = head(features(images))"
        )


def state_digest(network: nn.Module) -> str:
    """Return the `tensor_digest` of all parameters and buffers."""
    return tensor_digest(network.state_dict())


def tensor_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return SHA-256 over names, types, shapes and bytes of tensors, sorted, and a text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    digest.update(text.encode())
    return digest.hexdigest()


def head_of(classifier: nn.Module) -> nn.Linear:
    """Return the last layer: rows are classes."""
    return cast(nn.Linear, classifier.head)  # the classifier's interface


def features_of(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return penultimate features of normalised images `(N, C, H, W)`, shape `(N, D)`."""
    return cast(Tensor, classifier.features(images))  # type: ignore[operator]  # the interface


def parts_of(network: nn.Module) -> list[nn.Module]:
    """Return a classifier's layers before its head, in their order, `blocks` one by one."""
    parts: list[nn.Module] = []
    for name, child in network.named_children():
        if child is not head_of(network):
            blocks = name == "blocks" and isinstance(child, nn.Sequential)
            parts += child.children() if blocks else [child]
    return parts
