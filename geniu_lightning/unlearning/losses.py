"""Losses of more than one method, as pure functions of logits.

Of logits and targets `(N, K)` and labels `(N,)`, int64, each returns one value a sample, shape
`(N,)`, in nats unless said otherwise, and computes in 32 bits whatever the network ran in.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

ForgetTerm = Literal["reciprocal", "negative", "uniform", "random_label"]
# the gradient holds (e^margin)^2, which overflows 32 bits at 44: 40 is as good as no bound
MaxMargin = Annotated[float, Field(gt=0, le=40)]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, exact however small it is.

    `log_softmax` rounds to 0 what lies below 6e-8; softplus of the negative margin stays exact
    down to about e^-87, as a reciprocal needs.
    """
    return F.softplus(-margin(logits, labels))


def forget_term(
    name: ForgetTerm,
    logits: Tensor,
    labels: Tensor,
    forget: Sequence[int],
    max_margin: float,
    cap: float | None = None,
) -> Tensor:
    """Return a loss that falls as the classifier forgets the label.

    `reciprocal` is 1/CE (in 1/nats, see `bounded_reciprocal`), `negative` is −min(CE, cap log K),
    `uniform` is KL(uniform over the retained classes ‖ p), and `random_label` is CE to a label
    drawn uniformly from the retained classes.
    """
    match name:
        case "reciprocal":
            return bounded_reciprocal(logits, labels, max_margin)
        case "negative":
            return -capped_cross_entropy(logits, labels, cap)
        case "uniform":
            return divergence(uniform_target(logits, forget), logits)
        case "random_label":
            return cross_entropy(logits, random_retained_labels(logits, forget))


def capped_cross_entropy(logits: Tensor, labels: Tensor, cap: float | None) -> Tensor:
    """Return min(CE, cap log K), log K the cross-entropy of chance; `None` is no cap."""
    bound = math.inf if cap is None else cap * math.log(logits.shape[1])
    return cross_entropy(logits, labels).clamp(max=bound)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit minus the log-sum-exp of all others."""
    logits = logits.float()
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    return own - others


def bounded_reciprocal(logits: Tensor, labels: Tensor, max_margin: float) -> Tensor:
    """Return 1 / cross-entropy, continued by its tangent where the margin exceeds `max_margin`.

    The slope of the reciprocal grows as e^margin, so one confident proxy would outweigh all
    others, and the first step would be far too long. The tangent keeps the slope at its value at
    `max_margin` (nats), about e^max_margin. Unlike an added epsilon it does not weaken the gradient
    of confident proxies. Values are positive, in 1/nats.

    Source:
        GENIU, arXiv 2406.07885, Eq. 7, for the reciprocal; the continuation is ours.
    """
    gap = margin(logits, labels)
    inside = gap.clamp(max=max_margin)
    slope = (1 / (1 + math.exp(max_margin))) / math.log1p(math.exp(-max_margin)) ** 2
    # not `gap - inside`, whose gradients cancel only up to the rounding of `slope`
    return F.softplus(-inside).reciprocal() + slope * F.relu(gap - max_margin)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Return KL(target ‖ softmax(logits)); a target probability of exactly 0 counts as 0."""
    log_probabilities = logits.float().log_softmax(dim=1)
    return cast(Tensor, torch.special.xlogy(target, target) - target * log_probabilities).sum(dim=1)


def divergence_by_class(teacher: Tensor, student: Tensor) -> Tensor:
    """Return p_T (log p_T − log p_S) of each class, shape `(N, K)`; the sum is KL(p_T ‖ p_S).

    Unlike that of `divergence` its gradient towards the teacher is finite, even where a
    probability is rounded to 0. Both arguments are logits, shape `(N, K)`.
    """
    expected = teacher.float().log_softmax(dim=1)
    return expected.exp() * (expected - student.float().log_softmax(dim=1))


def masked_target(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the softmax over the retained classes, shape `(N, K)`; forget classes get 0."""
    masked = logits.float().clone()
    masked[:, list(forget)] = -torch.inf
    return masked.softmax(dim=1)


def uniform_target(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the uniform distribution over the retained classes, of the shape of `logits`."""
    return masked_target(torch.zeros_like(logits), forget)


def log_forget_probability(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return the logarithm of the probability of all forget classes together."""
    return logits.float().log_softmax(dim=1)[:, list(forget)].logsumexp(dim=1)


def random_retained_labels(logits: Tensor, forget: Sequence[int]) -> Tensor:
    """Return labels drawn uniformly from the retained classes, int64, shape `(N,)`."""
    retained = torch.tensor([k for k in range(logits.shape[1]) if k not in forget])
    # drawn on the CPU, so that every device has the same
    return retained[torch.randint(len(retained), (len(logits),))].to(logits.device)
