"""Loss terms of more than one method, as functions of logits.

Each returns one value a sample, shape ``(N,)``, in nats where not said otherwise, and works in
32 bits whatever the network ran in.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, exact however small it is.

    ``log_softmax`` rounds to 0 what lies below 6e-8; here it is softplus of the negative margin,
    which stays exact down to about e^-87, as a reciprocal needs.

    Args:
        logits: Shape ``(N, K)``.
        labels: int64, shape ``(N,)``.

    Example:
        >>> float(cross_entropy(torch.tensor([[30.0, 0.0]]), torch.tensor([0]))) > 0
        True
    """
    return F.softplus(-margin(logits, labels))


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit minus the log-sum-exp of all others."""
    logits = logits.float()
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return own - others


def bounded_reciprocal(logits: Tensor, labels: Tensor, max_margin: float) -> Tensor:
    """Return 1 / cross-entropy, continued by its tangent where the margin exceeds ``max_margin``.

    The reciprocal's slope grows as e^margin, so one confident proxy would drown all others, and
    the first step would be a blow. The tangent keeps the slope at its value at ``max_margin``: no
    proxy is pushed harder than that, and, unlike with an added epsilon, none is let go because it
    is confident.

    Args:
        logits: Shape ``(N, K)``.
        labels: int64, shape ``(N,)``.
        max_margin: Where the tangent begins, in nats, in (0, 40]; the largest slope is about
            e^max_margin.

    Returns:
        Values in 1/nats, shape ``(N,)``; positive, smaller the more surely the label is missed.

    Source:
        GENIU, arXiv 2406.07885, Eq. 7, for the reciprocal; the continuation is ours.
    """
    gap = margin(logits, labels)
    inside = gap.clamp(max=max_margin)
    slope = (1 / (1 + math.exp(max_margin))) / math.log1p(math.exp(-max_margin)) ** 2
    return F.softplus(-inside).reciprocal() + slope * (gap - inside)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Return KL(target ‖ softmax(logits)); a target probability of exactly 0 counts as 0.

    Args:
        target: Probabilities, shape ``(N, K)``.
        logits: Shape ``(N, K)``.
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    return cast(Tensor, torch.special.xlogy(target, target) - target * log_probabilities).sum(dim=1)


def masked_target(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the softmax over the retained classes alone; forgotten ones get probability 0.

    Args:
        logits: Of the original classifier, shape ``(N, K)``.
        forget: Forgotten classes.
    """
    masked = logits.float().clone()
    masked[:, list(forget)] = -torch.inf
    return masked.softmax(dim=1)


def random_retained_labels(count: int, classes: int, forget: Sequence[int]) -> Tensor:
    """Draw classes evenly from those that are kept, int64, on the CPU, shape ``(count,)``.

    Args:
        count: How many.
        classes: Classes in all.
        forget: Forgotten classes, never drawn.
    """
    kept = torch.tensor([k for k in range(classes) if k not in forget])
    return kept[torch.randint(len(kept), (count,))]
