"""Accuracy by class, and its summaries over forgotten and retained classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from geniu_lightning.evaluation.context import Context, Outputs
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.settings.checked import checked

SplitName = Literal["test", "train", "validation"]
NO_IMAGE = Absent("the split has no image of such a class")
NO_ORACLE = Absent("there is no oracle to compare with")
NO_MINORITY = Absent(
    "no retained class has at most two thirds as many training images as the largest"
)


@checked
@dataclass(frozen=True)
class Accuracy(Metric):
    """Accuracy profile on each split, all values in [0, 1]; classes without an image are left out.

    - `per_class`: a_c, share of a class's images that are classified right; an image with n largest
      logits counts 1/n, where argmax would credit the smallest index.
    - `forget` (A_f), `retain` (A_r): means of a_c over forgotten and over retained classes.
    - `retain_micro`: share of all images of retained classes that are right.
    - `retain_by_frequency`: mean of a_c over retained classes, weighted by *training* images.
    - `retain_minority`, `retain_majority`: means over the retained classes by `few_and_many`.
    - `worst_retained`: smallest a_c among retained classes.
    - `generalisation.forget`, `.retain`: training minus test accuracy, where both are named.
    """

    infos: ClassVar[dict[str, MetricInfo]] = {
        "forget": MetricInfo("oracle", 0.0),
        **dict.fromkeys(
            ("retain", "retain_micro", "retain_by_frequency", "retain_minority", "retain_majority"),
            MetricInfo("higher", 1.0),
        ),
        "worst_retained": MetricInfo("higher", 1.0),
        "per_class": MetricInfo("oracle"),
        # gaps are no accuracies
        "generalisation.forget": MetricInfo("oracle", 0.0),
        "generalisation.retain": MetricInfo("oracle"),
    }

    splits: Sequence[SplitName] = ("test", "train")

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        values: Values = {}
        for split in self.splits:
            if split in context.splits:
                found = profile(context.outputs(context.unlearned, split), context)
            else:
                none = Absent(f"the run has no {split} images")
                found = {name: none for name in self.infos if "." not in name}
            values |= {f"{split}.{name}": value for name, value in found.items()}
        if {"train", "test"} <= set(self.splits):
            for name in ("forget", "retain"):
                seen, unseen = values[f"train.{name}"], values[f"test.{name}"]
                gap = seen if isinstance(seen, Absent) else unseen
                if isinstance(seen, float) and isinstance(unseen, float):
                    gap = seen - unseen
                values[f"generalisation.{name}"] = gap
        return values


def shares(scores: Tensor) -> Tensor:
    """Return the share of each answer that goes to each class: 1/n to each of n largest."""
    largest = scores == scores.max(dim=1, keepdim=True).values
    return largest.double() / largest.sum(dim=1, keepdim=True).clamp(min=1)


def credits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the credit of each image: 1 right, 0 wrong or NaN, 1/n in a tie of n, `(N,)`."""
    return shares(logits).gather(1, labels[:, None]).squeeze(1)


def per_class(outputs: Outputs, classes: int) -> Tensor:
    """Return the accuracy of each class, float64, shape `(K,)`; NaN for one without images."""
    right = torch.zeros(classes, dtype=torch.float64)
    right.index_add_(0, outputs.labels, credits(outputs.logits, outputs.labels))
    return right / torch.bincount(outputs.labels, minlength=classes)


def confusion(outputs: Outputs, classes: int) -> Tensor:
    """Return how often each true class (row) is answered as each class, int64, `(K, K)`."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(outputs.logits.argmax(dim=1), outputs.labels, classes)


def mean_over(each: Tensor, classes: tuple[int, ...]) -> float | Absent:
    """Return the mean of values `(K,)` over classes, without those that are NaN (no images)."""
    mine = each[list(classes)]
    mine = mine[~mine.isnan()]
    return mine.mean().item() if len(mine) else NO_IMAGE


def few_and_many(
    counts: tuple[int, ...], classes: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide classes into those with few and those with many training images.

    Few is at most two thirds of the largest count of `classes`; both are empty where no class has
    so few. A half would be one of the usual ratios of imbalance: of classes cut to a half, rounding
    puts each on one side or the other.
    """
    largest = max((counts[k] for k in classes), default=0)
    few = tuple(k for k in classes if 3 * counts[k] <= 2 * largest)
    many = tuple(k for k in classes if k not in few)
    return (few, many) if few and many else ((), ())


def profile(outputs: Outputs, context: Context) -> Values:
    """Return the values that `Accuracy` describes for one split."""
    each = per_class(outputs, len(context.class_names))
    retained = context.retained
    mine = outputs.of(retained)
    right = credits(mine.logits, mine.labels)
    few, many = few_and_many(context.class_counts, retained)
    measured = [k for k in retained if not each[k].isnan()]
    weights = torch.tensor([context.class_counts[k] for k in measured], dtype=torch.float64)
    by_frequency = (
        (weights @ each[measured] / weights.sum()).item()
        if weights.sum() > 0
        else Absent("no retained class has both training images and images in the split")
    )
    return {
        "forget": mean_over(each, context.forget),
        "retain": mean_over(each, retained),
        "retain_micro": right.mean().item() if len(right) else NO_IMAGE,
        "retain_by_frequency": by_frequency,
        "retain_minority": mean_over(each, few) if few else NO_MINORITY,
        "retain_majority": mean_over(each, many) if many else NO_MINORITY,
        "worst_retained": each[measured].min().item() if measured else NO_IMAGE,
        "per_class": [None if value != value else value for value in each.tolist()],
    }


def balanced_mean(values: Tensor, labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Return the mean over classes of the mean over the images of each class, shape `(...)`.

    Of values `(N, ...)`; classes without images are left out, NaN if none has any.
    """
    means = [values[labels == k].mean(dim=0) for k in classes if (labels == k).any()]
    return torch.stack(means).mean(dim=0) if means else values[:0].mean(dim=0)


def lacking(context: Context, split: str, classes: tuple[int, ...]) -> Absent | None:
    """Return why some classes cannot be measured on a split; `None` if they can."""
    if split not in context.splits:
        return Absent(f"the run has no {split} images")
    return None if len(context.splits[split].positions_of(classes)) else NO_IMAGE
