"""RMIA: membership inference relative to a population of unseen images."""

import math

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import auc, mean_of, tpr
from geniu_lightning.evaluation.metric import Values


def rmia(
    members: Tensor,
    member_references: Tensor,
    unseen: Tensor,
    unseen_references: Tensor,
    a: float = 0.3,
    gamma: float = 2.0,
) -> Values:
    """Return the success of RMIA, offline form (arXiv 2312.03262).

    r(x) = p(y|x) / ½((1 + a) mean_s p_s(y|x) + 1 - a), and the score of x is the share of x' in a
    population with r(x) / r(x') ≥ γ. Half of the unseen images are the population, the others the
    non-members; then these halves, images at even and at odd places, change roles.

    Args:
        members: log p(y|x) in nats of the evaluated model, training images, shape `(D,)`.
        member_references: Of the oracles on these, shape `(S, D)`.
        unseen: Of the evaluated model on test images of the same class, shape `(T,)`, T ≥ 2.
        unseen_references: Of the oracles on these, shape `(S, T)`.
        a: Slope of the approximate likelihood under a model that saw the image, in [0, 1].
        gamma: Likelihood ratio above which an image counts as likelier than another.
    """
    ours = members - _reference(member_references, a)
    theirs = unseen - _reference(unseen_references, a)
    rows: list[Values] = []
    for population, others in ((theirs[0::2], theirs[1::2]), (theirs[1::2], theirs[0::2])):
        ordered = population.sort().values
        shares = [
            torch.searchsorted(ordered, side - math.log(gamma), right=True) / len(ordered)
            for side in (ours, others)
        ]
        rows.append({"auc": auc(*shares), "tpr": tpr(*shares)})
    return {name: mean_of([row[name] for row in rows]) for name in ("auc", "tpr")}


def _reference(logs: Tensor, a: float) -> Tensor:
    """Return log ½((1 + a) mean_s p_s + 1 - a) of each image, shape `(X,)`."""
    return (((1 + a) * logs.double().exp().mean(dim=0) + 1 - a) / 2).log()
