"""U-LiRA: likelihood ratios that tell many unlearned models from many retrained ones."""

import math

import torch
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import auc, tpr
from geniu_lightning.evaluation.metric import Values

FEWEST_FOR_OWN_VARIANCE = 16  # with fewer models, images of a class share one variance
VARIANCE_FLOOR = 0.05**2  # margins of models that all answer alike do not vary


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return φ = log(p_y / (1 - p_y)) = z_y - log Σ_{c≠y} exp z_c, float64, shape `(X,)`."""
    columns = labels[:, None]
    mine = logits.double().gather(1, columns).squeeze(1)
    return mine - logits.double().scatter(1, columns, -math.inf).logsumexp(dim=1)


def u_lira(unlearned: Tensor, oracles: Tensor) -> Values:
    """Return the success of likelihood ratios at telling two kinds of models (arXiv 2403.01218).

    For each image a normal law of the margin is fitted to half of each kind of models, the score is
    log N(φ; unlearned) - log N(φ; oracles) on the other half, and the halves, models at even and at
    odd places, change roles. With fewer than 16 models to fit, all images have one variance
    together.

    Args:
        unlearned: Margins of images of one class, float64, shape `(N, X)`, N ≥ 4.
        oracles: Margins of the same images, shape `(M, X)`, M ≥ 4.

    Returns:
        `auc` and `tpr` (at a false positive rate of at most 0.01) over pairs of image and model,
        `accuracy`: balanced, of the ratio's sign, mean over images; ½ by chance.
    """
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for fitted, held in ((0, 1), (1, 0)):
        laws = [_normal(models[fitted::2]) for models in (unlearned, oracles)]
        for scores, models in ((ours, unlearned), (theirs, oracles)):
            first, second = (_log_density(models[held::2], *law) for law in laws)
            scores.append(first - second)
    members, others = torch.cat(ours), torch.cat(theirs)
    found = [(1 + sign * side.sign()).mean() / 2 for sign, side in ((1, members), (-1, others))]
    return {
        "auc": auc(members.flatten(), others.flatten()),
        "tpr": tpr(members.flatten(), others.flatten()),
        "accuracy": float(sum(found) / 2),
    }


def _normal(margins: Tensor) -> tuple[Tensor, Tensor]:
    variance = margins.var(dim=0)
    if len(margins) < FEWEST_FOR_OWN_VARIANCE:
        variance = variance.mean().expand_as(variance)
    return margins.mean(dim=0), variance.clamp(min=VARIANCE_FLOOR)


def _log_density(margins: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -((margins - mean) ** 2 / variance + variance.log()) / 2
