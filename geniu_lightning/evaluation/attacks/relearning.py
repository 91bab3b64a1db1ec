"""Relearning attacks: accuracy on a forgotten class after a few steps of fine-tuning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from geniu_lightning.evaluation.attacks.fine_tuning import (
    NO_TRAIN,
    Batch,
    Relearning,
    accuracy_at,
    area,
    few_shot,
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
from geniu_lightning.settings.checked import PositiveInt, checked


@checked
@dataclass(frozen=True)
class KShot(Relearning):
    """Fine-tunes on k images of each forgotten class and as many retained ones a step.

    For each k: `curve` is A_f after each of the steps, `area` the area under it, `retain_curve`
    A_r. For `k10` also with a tenth of the rate and with ten times it (`slow`, `fast`; one draw).

    Source:
        Relearn time: Golatkar et al., arXiv 1911.04933; as curves, with several k, ours.
    """

    shots: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (1, 5, 10, 50)  # the values of k

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if lacking(context, "train", context.forget):
            return {"area": NO_TRAIN}
        found: Values = {}
        for k in self.shots:
            for name, factor in (("", 1.0), ("slow.", 0.1), ("fast.", 10.0)):
                if factor == 1 or k == 10:
                    curves = self.curves(
                        context,
                        few_shot(context, k),
                        rate=self.rate * factor,
                        draws=self.draws if factor == 1 else 1,
                    )
                    found |= self.values(f"k{k}.{name}", curves)
        return found

    def _batches(self, context: Context) -> list[int]:
        curves = {k: self.draws + (2 if k == 10 else 0) for k in self.shots}
        return [2 * len(context.forget) * k for k, count in curves.items() for _ in range(count)]


@checked
@dataclass(frozen=True)
class RetainOnly(Relearning):
    """Fine-tunes on `batch` retained images a step; oracles stay at 0 throughout.

    Source:
        Benign relearning, arXiv 2406.13356; for classes ours.
    """

    batch: PositiveInt = 20

    def __call__(self, context: Context) -> Values:
        """Attack the model."""
        if lacking(context, "train", context.forget):
            return {"area": NO_TRAIN}
        curves = self.curves(context, lambda draw: retained(context, self.batch, draw))
        return self.values("", curves)

    def _batches(self, context: Context) -> list[int]:
        return [self.batch] * self.draws


@checked
@dataclass(frozen=True)
class Adaptive(Relearning):
    """Resets the forgotten head rows by k (`shots`) images first, then fine-tunes as `KShot`.

    So no gradient has to pass a saturated row. An oracle's features separate unseen classes, too,
    but its new row also takes retained images: the values are A_f minus the loss of A_r, before the
    first step (`net`) and as the area over the steps (`net_area`). A mask has the original's.

    Source:
        Ours; nearest to the classification of features in arXiv 2604.08271.
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
        if lacking(context, "train", context.forget):
            return {"net": NO_TRAIN}

        def reset(network: nn.Module, draw: int) -> None:
            reset_rows(network, *shown(context, self.shots, draw))

        forget, retain = self.curves(context, few_shot(context, self.shots), prepare=reset)
        _, others = scored_images(context, self.scored)
        before = accuracy_at(context.unlearned, context.splits["test"], others)
        net = [back - (before - left) for back, left in zip(forget, retain, strict=True)]
        return {
            "start": forget[0],
            "start_retain": retain[0],
            "net": net[0],
            "net_area": area(self.steps, net),
            "curve": list(forget),
            "retain_curve": list(retain),
        }

    def _batches(self, context: Context) -> list[int]:
        return [2 * self.shots * len(context.forget)] * self.draws


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

        def batches(draw: int) -> Iterator[Batch]:
            stream = context.generator("own proxies", draw)
            while True:
                chosen = torch.cat([mine, drawn(others, len(mine), stream)])
                yield split.read(chosen), split.labels[chosen].to(context.device)

        return self.values("", self.curves(context, batches))

    def _batches(self, context: Context) -> list[int]:
        if context.proxies is None:
            return []
        return [2 * len(context.proxies.split.positions_of(context.forget))] * self.draws
