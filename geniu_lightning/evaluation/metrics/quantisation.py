"""Accuracy of the model once its weights are rounded to a few bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Split, drawn, outputs_of
from geniu_lightning.evaluation.metric import Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import lacking, mean_over, per_class
from geniu_lightning.settings.checked import PositiveInt, checked

ROUNDED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # their weights are (outputs, ...)


@checked
@dataclass(frozen=True)
class Quantisation(Metric):
    """A_f and A_r on test images after rounding: does a smaller copy know the class again?

    The weights of every convolution and linear layer of a copy are rounded to `bits`, symmetric and
    each output channel by its own scale; biases and batch norm stay. `b4.forget` is A_f at 4 bits.

    Source:
        Zhang et al., Catastrophic Failure of LLM Unlearning via Quantization, arXiv 2410.16454.
        Departures: classifiers, and rounding to the nearest alone.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "forget": MetricInfo("oracle"),
        "retain": MetricInfo("oracle"),
    }

    bits: Annotated[Sequence[Annotated[int, Field(ge=2, le=16)]], Field(min_length=1)] = (8, 4)
    scored: PositiveInt = 1000  # test images of each forgotten class, and of all retained

    def images_processed(self, context: Context) -> int:
        """Return the images that the rounded copies answer."""
        if "test" not in context.splits:
            return 0
        return len(self.bits) * len(scored_split(context, self.scored).labels)

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        names = [f"b{bits}.{name}" for bits in self.bits for name in self.infos]
        nothing = lacking(context, "test", context.forget)
        if nothing is not None:
            return dict.fromkeys(names, nothing)
        split, values = scored_split(context, self.scored), Values()
        for bits in self.bits:
            outputs = outputs_of(rounded(context.copy_of(context.unlearned), bits), split)
            each = per_class(outputs, len(context.class_names))
            values[f"b{bits}.forget"] = mean_over(each, context.forget)
            values[f"b{bits}.retain"] = mean_over(each, context.retained)
        return values


def scored_split(context: Context, count: int) -> Split:
    """Return `count` test images of each forgotten class, and of all retained classes together."""
    test, each = context.splits["test"], max(count // max(len(context.retained), 1), 1)
    rows = [
        drawn(
            test.positions_of((k,)),
            count if k in context.forget else each,
            context.generator("quantisation", k),
        )
        for k in range(len(context.class_names))
    ]
    return test.at(torch.cat(rows))


@torch.no_grad()
def rounded(network: nn.Module, bits: int) -> nn.Module:
    """Round the weights of convolutions and linear layers to `bits`, in place; return it."""
    for layer in network.modules():
        if isinstance(layer, ROUNDED):
            layer.weight.copy_(quantised(layer.weight, bits))
    return network


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Return weights `(outputs, ...)` at the nearest of 2ᵇ - 1 levels, 0 in the middle.

    Levels are multiples of max |w| / (2ᵇ⁻¹ - 1) of each output channel; one of zeros stays.
    """
    largest = weight.abs().flatten(1).max(dim=1).values
    scale = (largest / (2 ** (bits - 1) - 1)).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.where(scale > 0, (weight / scale).round() * scale, weight)
