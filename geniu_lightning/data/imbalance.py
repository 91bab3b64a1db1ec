"""Imbalance settings: from labels to the indices that a training set keeps.

Every function takes labels and class names first, and is exact and deterministic: which images
of a class stay is decided by ``seed`` (a key of its own, so that originals and oracles of any
training seed see the same images). The images of a smaller share are among those of a larger one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from geniu_lightning.data.classes import class_indices
from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator


def none(labels: Tensor, names: Sequence[str]) -> Tensor:
    """Keep every image. Returns all indices, int64, shape ``(N,)``."""
    return torch.arange(len(labels))


def step(
    labels: Tensor,
    names: Sequence[str],
    *,
    majority: Sequence[int | str],
    ratio: float,
    seed: int = 0,
) -> Tensor:
    """Keep majority classes whole and the share ``ratio`` of every other class.

    Args:
        labels: Class of each image, int64, shape ``(N,)``.
        names: Class names, in the order of their indices.
        majority: Classes, by index or name, that stay at full size.
        ratio: Share of its images that another class keeps, in (0, 1]; rounded to whole images,
            at least one.
        seed: Key of the choice.

    Returns:
        Kept indices in ascending order, int64.

    Raises:
        UserError: If ``ratio`` is outside (0, 1] or a class does not exist.

    Source:
        The structure that GENIU assumes: one majority, equal minorities (arXiv 2406.07885).
    """
    _check_share("imbalance.ratio", ratio)
    large = class_indices(majority, names)
    sizes = _sizes(labels, names)
    return _take(
        labels,
        [n if k in large else max(1, round(ratio * n)) for k, n in enumerate(sizes)],
        seed,
    )


def exponential(
    labels: Tensor,
    names: Sequence[str],
    *,
    factor: float,
    order: Sequence[int | str] | None = None,
    seed: int = 0,
) -> Tensor:
    """Keep a long tail: the r-th class of ``order`` keeps the share ``factor^(-r/(K-1))``.

    Args:
        labels: Class of each image, int64, shape ``(N,)``.
        names: Class names, in the order of their indices.
        factor: Size of the first class over size of the last, at least 1.
        order: All classes from largest to smallest; ``None`` takes them by index.
        seed: Key of the choice.

    Returns:
        Kept indices in ascending order, int64.

    Raises:
        UserError: If ``factor`` is below 1 or ``order`` is no permutation of the classes.

    Source:
        Cui et al., Class-Balanced Loss, CVPR 2019, arXiv 1901.05555 (long-tailed CIFAR).
    """
    if not factor >= 1.0:
        raise UserError(f"imbalance.factor must be at least 1, got {factor}")
    ranks = (
        [class_indices([one], names)[0] for one in order]
        if order is not None
        else list(range(len(names)))
    )
    if sorted(ranks) != list(range(len(names))):
        raise UserError(f"imbalance.order must name each of the {len(names)} classes once")
    last = max(1, len(names) - 1)
    share = {k: factor ** (-rank / last) for rank, k in enumerate(ranks)}
    sizes = _sizes(labels, names)
    return _take(labels, [max(1, round(share[k] * n)) for k, n in enumerate(sizes)], seed)


def custom(
    labels: Tensor, names: Sequence[str], *, counts: Sequence[float], seed: int = 0
) -> Tensor:
    """Keep a given number of images, or a given share, of each class.

    Args:
        labels: Class of each image, int64, shape ``(N,)``.
        names: Class names, in the order of their indices.
        counts: One entry a class: an integer is a number of images, a value with a decimal point
            in (0, 1] is a share.
        seed: Key of the choice.

    Returns:
        Kept indices in ascending order, int64.

    Raises:
        UserError: If the number of entries is not the number of classes, or one asks for more
            images than the class has, or for none.
    """
    if len(counts) != len(names):
        raise UserError(
            f"imbalance.counts must have one entry for each of the {len(names)} classes,"
            f" got {len(counts)}"
        )
    wanted = []
    for k, (count, size) in enumerate(zip(counts, _sizes(labels, names), strict=True)):
        if isinstance(count, float):
            _check_share(f"imbalance.counts[{k}]", count)
            count = max(1, round(count * size))
        if not 0 < count <= size:
            raise UserError(
                f"imbalance.counts[{k}] asks for {count} images of class {names[k]!r},"
                f" which has {size}"
            )
        wanted.append(int(count))
    return _take(labels, wanted, seed)


def split(labels: Tensor, indices: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cut a stratified validation part from a training set.

    Args:
        labels: Class of each image of the whole set, int64, shape ``(N,)``.
        indices: The training set, int64, ascending.
        share: Share of each class that validates, in [0, 1); 0 gives an empty part. A class of
            one image keeps it for training.
        seed: Key of the choice.

    Returns:
        Indices that train and indices that validate, disjoint, ascending.

    Raises:
        UserError: If ``share`` is outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise UserError(f"data.validation must lie in [0, 1), got {share}")
    held = []
    for k in labels[indices].unique().tolist():
        members = indices[labels[indices] == k]
        chosen = torch.randperm(len(members), generator=generator("validation", seed, k))
        held.append(members[chosen[: min(round(share * len(members)), len(members) - 1)]])
    validation = torch.cat(held).sort().values
    return indices[~torch.isin(indices, validation)], validation


def evenly(indices: Tensor, labels: Tensor, limit: int, draw: torch.Generator) -> Tensor:
    """Draw images evenly over classes; where a small class runs out, the others give more.

    Args:
        indices: What to draw from, int64, shape ``(N,)``.
        labels: Their classes, same shape.
        limit: Images to draw; all are taken where there are no more.
        draw: Random stream.

    Returns:
        Drawn indices, ascending.
    """
    order = torch.randperm(len(indices), generator=draw)
    rank = torch.zeros_like(order)
    for k in labels.unique():
        mine = order[labels[order] == k]
        rank[mine] = torch.arange(len(mine))
    first = order[rank[order].sort(stable=True).indices[:limit]]
    return indices[first].sort().values


def _check_share(name: str, share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise UserError(f"{name} must lie in (0, 1], got {share}")


def _sizes(labels: Tensor, names: Sequence[str]) -> list[int]:
    return torch.bincount(labels, minlength=len(names)).tolist()


def _take(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Return ``counts[k]`` indices of each class k, ascending."""
    kept = []
    for k, count in enumerate(counts):
        members = (labels == k).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("imbalance", seed, k))
        kept.append(members[order[:count]])
    return torch.cat(kept).sort().values
