"""Naming of the forgotten class by an attacker who has the weights alone."""

import statistics
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.head import rows_of
from geniu_lightning.evaluation.context import (
    CHUNK,
    LARGEST_LOGIT,
    Context,
    gradient_sign,
    log_softmax,
)
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.settings.checked import Positive, PositiveInt, checked


@checked
@dataclass(frozen=True)
class WhichClass(Metric):
    """Can an attacker who has the weights and no image name the forgotten class?

    Each attack gives every class a score, and names the lowest.

    - `weights`: Σ_d w_d + b of its head row, the logit of a feature of ones.
    - `inversion`: mean log-probability of the class on images that were moved from Gaussian noise
      by signed gradient steps that raise it (model inversion).

    `rank` is the share of retained classes with a lower score than a forgotten one, equal ones
    counting ½: 0 is named first, ½ is chance. `named` is 1 if no retained class is lower, 1/n in a
    tie of n. Both are means over forgotten classes. An oracle's class is named, too.

    Source:
        Label Leakage Attacks in Machine Unlearning, arXiv 2604.07386. Departures: no auxiliary
        models, and a ranking in place of thresholds, so that no attack has to be fitted.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "named": MetricInfo("oracle"),
        "rank": MetricInfo("oracle"),
    }

    images: PositiveInt = 4  # inverted images of each class
    steps: PositiveInt = 10
    rate: Positive = 0.1  # of a step, in normalised pixels

    def images_processed(self, context: Context) -> int:
        """Return the images of all steps."""
        return 3 * self.steps * self.images * len(context.class_names)

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        names = [f"{attack}.{name}" for attack in ("weights", "inversion") for name in self.infos]
        if not context.forget or not context.retained:
            return dict.fromkeys(names, Absent("no class is forgotten, or none is retained"))
        if not context.splits:
            return dict.fromkeys(names, Absent("the run has no images, whose shape is needed"))
        weight, bias = rows_of(context.unlearned)
        scores = {"weights": weight.sum(dim=1) + bias, "inversion": self._inverted(context)}
        values: Values = {}
        for attack, each in scores.items():
            if each.isnan().any():
                broken = Absent("weights or logits are not numbers (NaN)")
                values |= {f"{attack}.{name}": broken for name in self.infos}
                continue
            ranked = [rank(each, k, context.retained) for k in context.forget]
            for place, name in enumerate(self.infos):
                values[f"{attack}.{name}"] = statistics.fmean(pair[place] for pair in ranked)
        return values

    def _inverted(self, context: Context) -> Tensor:
        """Return the mean log-probability of each class on its inverted images, `(K,)`."""
        shape = next(iter(context.splits.values())).read(torch.tensor([0])).shape[1:]
        noise = torch.randn(self.images, *shape, generator=context.generator("which class"))
        classes = len(context.class_names)
        starts = noise.repeat(classes, *[1] * len(shape)).to(context.device)
        labels = torch.arange(classes, device=context.device).repeat_interleave(self.images)
        found = [
            inverted(context.unlearned, images, wanted, self.steps, self.rate)
            for images, wanted in zip(starts.split(CHUNK), labels.split(CHUNK), strict=True)
        ]
        return torch.cat(found).reshape(classes, -1).mean(dim=1)


def inverted(network: nn.Module, images: Tensor, labels: Tensor, steps: int, rate: float) -> Tensor:
    """Return log p_y of images moved by signed gradient steps that raise it, float64, `(N,)`."""

    def loss(moved: Tensor) -> Tensor:
        return F.cross_entropy(network(moved), labels, reduction="sum")

    for _ in range(steps):
        images = images - rate * gradient_sign(images, loss)
    with torch.no_grad():
        logits = network(images).cpu().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return log_softmax(logits).gather(1, labels[:, None].cpu()).squeeze(1)


def rank(scores: Tensor, label: int, others: tuple[int, ...]) -> tuple[float, float]:
    """Return whether a class has the lowest score, 1/n in a tie, and the share of lower others."""
    theirs = scores[list(others)]
    lower, equal = (theirs < scores[label]).sum().item(), (theirs == scores[label]).sum().item()
    return 0.0 if lower else 1 / (1 + equal), (lower + equal / 2) / len(others)
