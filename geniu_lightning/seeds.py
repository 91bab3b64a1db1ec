"""Random streams that are functions of names and counters, never of what ran before."""

import hashlib

import torch


def stream(kind: str, *keys: int) -> int:
    """Return the seed of the stream `kind` at the counters `keys`.

    Equal integers of two kinds give unrelated streams, so a training seed of 1 shares
    nothing with an evaluation seed of 1. As a stream needs no state, a resumed run draws
    what an uninterrupted one would have drawn. The seed lies in [0, 2^63).

    Example:
        >>> stream("order", 1, 0) == stream("noise", 1, 0)
        False
    """
    text = ":".join([kind, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(kind: str, *keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator at the start of `stream(kind, *keys)`."""
    return torch.Generator(device).manual_seed(stream(kind, *keys))
