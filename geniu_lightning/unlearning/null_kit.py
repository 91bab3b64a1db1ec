"""The kit of a null run: a method is to forget a class on a model that never saw it."""

import dataclasses
from collections.abc import Sequence

import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import generator


def null_kit(oracle: Kit, forget: Sequence[int], seed: int) -> Kit:
    """Return an oracle's kit as one of a model that has yet to forget some classes.

    Their prompts are drawn from N(0, I), as all prompts begin, for the oracle has none of them. A
    method that reads training images is handed the real ones of these classes, too: what it then
    knows of them came with the procedure, not with the model. Archive and
    distributions have no part of them.

    Args:
        oracle: Kit of the retained classes; shares its networks, which no method changes.
        forget: Classes that it is to forget, by index.
        seed: Of the draw.

    Source:
        U(∅, A(D∖F), T(D∖F)) of Sekhari et al., arXiv 2103.03279.
    """
    earlier = tuple(k for k in oracle.info.forgotten if k not in forget)
    info = dataclasses.replace(oracle.info, forgotten=earlier)
    held = (oracle.archive, oracle.distribution)
    if oracle.prompts is None:
        return Kit(oracle.classifier, info, None, None, *held)
    learned = dict(zip(oracle.info.remaining, oracle.prompts, strict=True))
    shape, random = oracle.prompts.shape[1:], generator("null_prompts", seed)
    rows = [
        learned[k] if k in learned else torch.randn(shape, generator=random).to(oracle.prompts)
        for k in info.remaining
    ]
    return Kit(oracle.classifier, info, oracle.generator, torch.stack(rows), *held)
