"""The kit of a null run: a method is to forget a class on a model that never saw it."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from geniu_lightning.kit.archive_info import ArchiveInfo
from geniu_lightning.kit.distribution import Distribution
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.mixture import standard_normal
from geniu_lightning.seeds import generator


def null_kit(oracle: Kit, forget: Sequence[int], seed: int, judged: Kit | None = None) -> Kit:
    """Return an oracle's kit as one of a model that has yet to forget some classes.

    Their prompts are drawn from N(0, I), as all prompts begin, and their distribution is N(0, I),
    from which training pulls all codes, for the oracle has none of them. A method that reads
    training images is handed the real ones of these classes, too, and so it is with the parts of
    an archive, which are those of `judged`: what it then knows of them came with the procedure,
    not with the model.

    Args:
        oracle: Kit of the retained classes; shares its networks, which no method changes.
        forget: Classes that it is to forget, by index.
        seed: Of the draw.
        judged: Kit that the judged run begins from.

    Source:
        U(∅, A(D∖F), T(D∖F)) of Sekhari et al., arXiv 2103.03279.
    """
    earlier = tuple(k for k in oracle.info.forgotten if k not in forget)
    info = dataclasses.replace(oracle.info, forgotten=earlier)
    distribution, archive = _with_normals(oracle, forget), dict(oracle.archive)
    if distribution is not None and info.distribution is not None:
        described = dataclasses.replace(info.distribution, classes=(*distribution.mixtures,))
        info = dataclasses.replace(info, distribution=described)
    if judged is not None and judged.info.archive is not None and info.archive is not None:
        archive |= {k: judged.archive[k] for k in forget if k in judged.archive}
        counts = zip(info.archive.counts, judged.info.archive.counts, strict=True)
        each = tuple(theirs if k in archive else own for k, (own, theirs) in enumerate(counts))
        info = dataclasses.replace(info, archive=ArchiveInfo(info.archive.settings, each))
    prompts = None if oracle.prompts is None else _with_noise(oracle, info.remaining, seed)
    return Kit(oracle.classifier, info, oracle.generator, prompts, archive, distribution)


def _with_normals(oracle: Kit, forget: Sequence[int]) -> Distribution | None:
    """Return the oracle's distributions, and N(0, I) for each of some classes."""
    if oracle.distribution is None:
        return None
    mixtures = dict(oracle.distribution.mixtures)
    normal = standard_normal(next(iter(mixtures.values())).means.shape[1])
    mixtures |= dict.fromkeys(forget, normal)
    return Distribution(oracle.distribution.decoder, dict(sorted(mixtures.items())))


def _with_noise(oracle: Kit, classes: Sequence[int], seed: int) -> Tensor:
    """Return the oracle's prompts, and noise for classes that it has none of."""
    assert oracle.prompts is not None  # as the caller found
    learned = dict(zip(oracle.info.remaining, oracle.prompts, strict=True))
    shape, random = oracle.prompts.shape[1:], generator("null_prompts", seed)
    return torch.stack(
        [
            learned[k] if k in learned else torch.randn(shape, generator=random).to(oracle.prompts)
            for k in classes
        ]
    )
