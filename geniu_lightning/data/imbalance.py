"""Index sets from labels: imbalanced training sets, the validation part, even draws.

An imbalance takes labels (int64, shape `(N,)`) and class names, and returns the indices that the
training set keeps, ascending. Its `seed` decides which images of a class stay: originals and
oracles of any training seed see the same. Those of a smaller share are among those of a larger.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from geniu_lightning.data.classes import class_indices
from geniu_lightning.errors import SettingError
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import checked

Share = Annotated[float, Field(gt=0, le=1)]
Class = int | str


@checked
def none(labels: Tensor, names: Sequence[str]) -> Tensor:
    """Return all indices."""
    return torch.arange(len(labels))


@checked
def step(
    labels: Tensor,
    names: Sequence[str],
    *,
    majority: Class | Sequence[Class],
    ratio: Share,
    seed: int = 0,
) -> Tensor:
    """Return all images of the majority classes and the share `ratio` of every other class.

    Rounded to whole images, at least one.

    Source:
        The structure that GENIU assumes: one majority, equal minorities (arXiv 2406.07885).
    """
    large = class_indices(majority, names)
    sizes = enumerate(_sizes(labels, names))
    counts = [n if k in large else max(1, round(ratio * n)) for k, n in sizes]
    return _take(labels, counts, seed)


@checked
def exponential(
    labels: Tensor,
    names: Sequence[str],
    *,
    factor: Annotated[float, Field(ge=1)],
    order: Sequence[Class] | None = None,
    seed: int = 0,
) -> Tensor:
    """Return a long tail: the r-th of K classes keeps the share `factor^(-r/(K-1))`.

    `order` has all classes from largest to smallest; `None` takes them by index.

    Source:
        Cui et al., Class-Balanced Loss, CVPR 2019, arXiv 1901.05555 (long-tailed CIFAR).
    """
    classes = list(range(len(names)))
    ranks = classes if order is None else [class_indices(one, names)[0] for one in order]
    if sorted(ranks) != classes:
        raise SettingError(
            f"must name each of the {len(names)} classes once, got {order}", key="order"
        )
    last = max(1, len(names) - 1)
    share = {k: factor ** (-rank / last) for rank, k in enumerate(ranks)}
    sizes = _sizes(labels, names)
    return _take(labels, [max(1, round(share[k] * n)) for k, n in enumerate(sizes)], seed)


@checked
def custom(
    labels: Tensor, names: Sequence[str], *, counts: Sequence[int | float], seed: int = 0
) -> Tensor:
    """Return a given number of images, or a given share, of each class.

    `counts` has one entry a class: an integer is a number of images, a value with a decimal point
    in (0, 1] is a share.
    """
    if len(counts) != len(names):
        raise SettingError(
            f"must have one entry for each of the {len(names)} classes, got {len(counts)}",
            key="counts",
        )
    wanted = []
    for k, (count, size) in enumerate(zip(counts, _sizes(labels, names), strict=True)):
        key = f"counts[{k}]"
        if isinstance(count, float):
            if not 0.0 < count <= 1.0:
                raise SettingError(f"must lie in (0, 1] as a share, got {count}", key=key)
            count = max(1, round(count * size))
        if size and not 0 < count <= size:
            raise SettingError(
                f"asks for {count} images of class {names[k]!r}, which has {size}", key=key
            )
        wanted.append(int(count))
    return _take(labels, wanted, seed)


def split(labels: Tensor, indices: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a training set without its validation part, and that part, stratified by class.

    Args:
        labels: Classes of the whole set, int64, shape `(N,)`.
        indices: The training set, int64, ascending.
        share: Of each class, in [0, 1). A class of one image keeps it for training.
        seed: Key of the choice.
    """
    held = []
    for k in labels[indices].unique().tolist():
        members = indices[labels[indices] == k]
        chosen = torch.randperm(len(members), generator=generator("validation", seed, k))
        held.append(members[chosen[: min(round(share * len(members)), len(members) - 1)]])
    validation = torch.cat(held).sort().values
    return indices[~torch.isin(indices, validation)], validation


def evenly(indices: Tensor, labels: Tensor, limit: int | None, seed: int | None) -> Tensor:
    """Return `limit` indices drawn evenly over classes, ascending; `None` takes all.

    Where a small class runs out, others give more; all are taken where there are fewer. `labels`
    are those of the whole set.
    """
    if limit is None:
        return indices
    order = torch.randperm(len(indices), generator=generator("draw_evenly", seed or 0))
    rank, labels = torch.zeros_like(order), labels[indices]
    for k in labels.unique():
        mine = order[labels[order] == k]
        rank[mine] = torch.arange(len(mine))
    first = order[rank[order].sort(stable=True).indices[:limit]]
    return indices[first].sort().values


def _sizes(labels: Tensor, names: Sequence[str]) -> list[int]:
    return torch.bincount(labels, minlength=len(names)).tolist()


def _take(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Return `counts[k]` indices of each class k, ascending."""
    kept = []
    for k, count in enumerate(counts):
        members = (labels == k).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("imbalance", seed, k))
        kept.append(members[order[:count]])
    return torch.cat(kept).sort().values
