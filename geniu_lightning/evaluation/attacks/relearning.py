"""Relearning attacks: accuracy on a forgotten class after a few steps of fine-tuning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from geniu_lightning.evaluation.attacks.fine_tuning import (
    Batch,
    Relearning,
    accuracy_at,
    area,
    joined,
    missing,
    mixed,
    reset_rows,
    retained,
    scored_images,
    shown,
)
from geniu_lightning.evaluation.attacks.probing import NO_FORGOTTEN_PROXIES, NO_PROXIES
from geniu_lightning.evaluation.context import Context, Part, drawn
from geniu_lightning.evaluation.metric import MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import lacking
from geniu_lightning.evaluation.references import EPSILON_AREA
from geniu_lightning.settings.checked import NonNegativeInt, PositiveInt, checked


@checked
@dataclass(frozen=True)
class KShot(Relearning):
    """Fine-tunes on k images of each forgotten class and on retained ones.

    For each k: `curve` is A_f after each of the steps, `area` the area under it, `retain_curve`
    A_r.

    Source:
        Relearn time: Golatkar et al., arXiv 1911.04933; as curves, with several k, ours.
    """

    shots: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (1, 10, 50)  # the values of k

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if nothing := missing(context):
            return {f"k{k}.area": nothing for k in self.shots}
        return self.values(
            {f"k{k}.": self.curves(context, mixed(context, self, k)) for k in self.shots}
        )

    def _batches(self, context: Context) -> list[int]:
        return [self.retained + k * len(context.forget) for k in self.shots]


@checked
@dataclass(frozen=True)
class RetainOnly(Relearning):
    """Fine-tunes on retained images alone, until A_f no longer moves; oracles stay at 0.

    `peak` is the largest A_f on the way, `change` the last step of the curve: near 0 it has
    converged.

    Source:
        Benign relearning, arXiv 2406.13356; from retained images alone, arXiv 2505.22310.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        **Relearning.infos,
        **dict.fromkeys(("peak", "change"), MetricInfo("oracle")),
    }

    steps: Annotated[Sequence[NonNegativeInt], Field(min_length=2)] = (0, 10, 40, 120)

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        nothing = lacking(context, "train", context.retained)
        if nothing or (nothing := lacking(context, "test", context.forget)):
            return {"area": nothing}
        curves = self.curves(context, lambda draw: retained(context, self.retained, draw))
        forget = curves[0]
        return {
            **self.values({"": curves}),
            "peak": max(forget),
            "change": forget[-1] - forget[-2],
        }

    def _batches(self, context: Context) -> list[int]:
        return [self.retained]


@checked
@dataclass(frozen=True)
class Adaptive(Relearning):
    """Resets the forgotten head rows by k (`shots`) images first, then fine-tunes as `KShot`.

    So no gradient has to pass a saturated row. An oracle's features separate unseen classes, too,
    but its new row also takes retained images: the values are A_f minus the loss of A_r, before the
    first step (`net`) and as the area over the steps (`net_area`). A mask has the original's.

    Source:
        Ours; nearest to the classification of features in arXiv 2604.08271 and to the prototypical
        relearning of arXiv 2506.01318.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        **Relearning.infos,
        **dict.fromkeys(
            ("start", "start_retain", "net", "net_area"),
            MetricInfo("oracle", epsilon=EPSILON_AREA),
        ),
    }

    shots: PositiveInt = 10

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if nothing := missing(context):
            return {"net": nothing}

        def reset(network: nn.Module, draw: int) -> None:
            reset_rows(network, *shown(context, self.shots, draw))

        curves = self.curves(context, mixed(context, self, self.shots), prepare=reset)
        forget, retain = curves
        _, others = scored_images(context, self.scored)
        before = accuracy_at(context.unlearned, context.splits["test"], others)
        net = [back - (before - left) for back, left in zip(forget, retain, strict=True)]
        found = self.values({"": curves})
        del found["area"]
        return found | {
            "start": forget[0],
            "start_retain": retain[0],
            "net": net[0],
            "net_area": area(self.steps, net),
        }

    def _batches(self, context: Context) -> list[int]:
        return [self.retained + self.shots * len(context.forget)]


@checked
@dataclass(frozen=True)
class OwnProxies(Relearning):
    """Fine-tunes on the stored proxies, no real image: what model and proxies know together (ours).

    Oracles are attacked with the same proxies, so that a faster return is knowledge of the model.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"proxies"})

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if context.proxies is None:
            return {"area": NO_PROXIES}
        split = context.proxies.split
        mine, others = (split.positions_of(k) for k in (context.forget, context.retained))
        if not len(mine):
            return {"area": NO_FORGOTTEN_PROXIES}
        if nothing := lacking(context, "test", context.forget):
            return {"area": nothing}

        def batches(draw: int) -> Iterator[Batch]:
            stream = context.generator("own proxies", draw)
            while True:
                chosen = drawn(others, self.retained, stream)
                labels = split.labels[chosen].to(context.device)
                weights = torch.full((len(chosen),), 1 / len(chosen), device=context.device)
                rest = Batch(split.read(chosen), labels, weights)
                yield joined(
                    split.read(mine), split.labels[mine].to(context.device), rest, self.share
                )

        return self.values({"": self.curves(context, batches)})

    def _batches(self, context: Context) -> list[int]:
        if context.proxies is None:
            return []
        return [self.retained + len(context.proxies.split.positions_of(context.forget))]
