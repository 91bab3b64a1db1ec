"""Accuracy by class, and its summaries over forgotten and retained classes."""

import torch
from torch import Tensor

from geniu_lightning.evaluation.battery import Absent, Reading, Value
from geniu_lightning.evaluation.context import Context, Outputs

READINGS = {
    "forget": Reading("oracle", 0.0),
    "retain": Reading("higher", 1.0),
    "retain_micro": Reading("higher", 1.0),
    "worst_retained": Reading("higher", 1.0),
    "per_class": Reading("oracle"),
}


class Accuracy:
    """Accuracy profile on each split, all values in [0, 1].

    - ``per_class``: share of a class's images that are classified right; a tie between several
      largest logits counts as its share, for argmax would credit the smallest index.
    - ``forget`` (A_f), ``retain`` (A_r): means of it over forgotten and over retained classes.
    - ``retain_micro``: share of all images of retained classes that are right.
    - ``worst_retained``: smallest value among retained classes.

    Blind to everything behind the largest logit: a logit mask is perfect here.

    Args:
        splits: Which of ``test``, ``train`` and ``validation`` to measure on; one that the run does
            not have is absent with its reason.
    """

    def __init__(self, splits: tuple[str, ...] | list[str] = ("test", "train")) -> None:
        self.splits = tuple(splits)

    def reading(self, name: str) -> Reading:
        """Return how a value is to be read."""
        return READINGS[name.rpartition(".")[2]]

    def __call__(self, context: Context) -> dict[str, Value | Absent]:
        """Measure the unlearned model."""
        values: dict[str, Value | Absent] = {}
        for split in self.splits:
            if split in context.splits:
                found = profile(context.outputs("unlearned", split), context)
            else:
                missing = Absent(f"the run has no {split} images")
                found = dict.fromkeys(READINGS, missing)
            values |= {f"{split}.{name}": value for name, value in found.items()}
        return values


def credits(outputs: Outputs) -> Tensor:
    """Return what each image counts for: 1 right, 0 wrong, 1/n in a tie of n, shape ``(N,)``.

    Logits that are no numbers are wrong.
    """
    largest = outputs.logits == outputs.logits.max(dim=1, keepdim=True).values
    own = largest.gather(1, outputs.labels[:, None]).squeeze(1)
    return own.double() / largest.sum(dim=1).clamp(min=1)


def per_class(outputs: Outputs, classes: int) -> Tensor:
    """Return the accuracy of each class, float64, shape ``(K,)``; NaN for one without images."""
    right = torch.zeros(classes, dtype=torch.float64)
    right.index_add_(0, outputs.labels, credits(outputs))
    return right / torch.bincount(outputs.labels, minlength=classes)


def profile(outputs: Outputs, context: Context) -> dict[str, Value | Absent]:
    """Return the values that :class:`Accuracy` describes for one split."""
    each = per_class(outputs, len(context.class_names))
    kept = each[list(context.retained)]
    kept = kept[~kept.isnan()]
    retained = torch.isin(outputs.labels, torch.tensor(context.retained))
    gone = each[list(context.forget)]
    gone = gone[~gone.isnan()]
    none = Absent("the split has no image of such a class")
    return {
        "forget": gone.mean().item() if len(gone) else none,
        "retain": kept.mean().item() if len(kept) else none,
        "retain_micro": credits(outputs)[retained].mean().item() if retained.any() else none,
        "worst_retained": kept.min().item() if len(kept) else none,
        "per_class": [None if value != value else value for value in each.tolist()],
    }


def confusion(outputs: Outputs, classes: int) -> Tensor:
    """Return how often each true class (row) is answered as each class, int64, ``(K, K)``."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(outputs.logits.argmax(dim=1), outputs.labels, classes)
