"""Worlds in which every answer is known.

The rigged one has ten classes (evaluation.md 3.5): class 0 is forgotten, class 1 is the largest
retained one, class 2 the oracle's nearest to class 0. An image is its label and whether it is a
training image, so a model is a table of features and a head over them. In a `world`, the outputs
of each model are given image by image.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Outputs, Proxies, Split
from geniu_lightning.evaluation.metric import Absent, Metric

NO_IMAGE = Absent("the split has no image of such a class")
NO_ORACLE = Absent("there is no oracle to compare with")

CLASSES = 10
T = math.log(81)  # a logit of T against nine of 0 has probability 0.9
SUNK = -1e4
COUNTS = {"test": [100] * 10, "train": [100, 500, *[50] * 8]}


class Rigged(nn.Module):
    """Answers by a table.

    Args:
        features: Of each split (test, train) and class, shape ``(2, 10, D)``.
        weight: Of the head, ``(10, D)``.
        bias: Of the head, ``(10,)``.
    """

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", features)
        self.head = nn.Linear(weight.shape[1], len(weight))
        self.head.weight.data, self.head.bias.data = weight.clone(), bias.clone()
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        labels = images[:, 0, 0, 0].long().clamp(0, CLASSES - 1)  # also of noise
        train = images[:, 0, 0, 1].long().clamp(0, 1)
        return self.table[train, labels] + 0 * images.sum(dim=(1, 2, 3))[:, None]  # a gradient

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def rigged() -> dict[str, Rigged]:
    """Return the models of the table by their names there."""
    one = torch.eye(CLASSES + 1)[:CLASSES]  # the last feature marks what was memorised
    both = one.repeat(2, 1, 1)
    head = T * torch.eye(CLASSES, CLASSES + 1)
    none = torch.zeros(CLASSES)
    sunk = none.clone()
    sunk[0] = SUNK
    # an oracle takes class 0 for class 2, and its row of class 0 points away from all others
    moved = both.clone()
    moved[:, 0] = one[2]
    away = head.clone()
    away[0] = -torch.cat([torch.zeros(1), torch.ones(CLASSES - 1), torch.zeros(1)])
    memorised = moved.clone()
    memorised[1, 0] = one[0]
    memorised[1, 0, -1] = 1.0
    remembering = away.clone()
    remembering[0, -1] = T - SUNK
    return {
        "original": Rigged(both, head, none),
        "oracle": Rigged(moved, away, sunk),
        "mask": Rigged(both, head, sunk),
        "uniform": Rigged(torch.zeros_like(both), torch.zeros_like(head), none),
        "memoriser": Rigged(memorised, remembering, sunk),
        "collapsed": Rigged(one[1].repeat(2, CLASSES, 1), head, none),
    }


def saturated(answer: int) -> Rigged:
    """Return a model with a logit of 200 for one class and -200 for all others, on every image."""
    bias = torch.full((CLASSES,), -200.0)
    bias[answer] = 200.0
    return Rigged(torch.zeros(2, CLASSES, 1), torch.zeros(CLASSES, 1), bias)


def split(name: str, counts: list[int] | None = None) -> Split:
    """Return the images of a split, classes mixed."""
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts or COUNTS[name]))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.zeros(len(labels), 1, 1, 2)
    images[:, 0, 0, 0] = labels
    images[:, 0, 0, 1] = name == "train"
    return Split(labels, lambda positions: images[positions])


def context_of(
    unlearned: nn.Module,
    *oracles: nn.Module,
    original: nn.Module | None = None,
    splits: tuple[str, ...] = ("test", "train"),
    **more: object,
) -> Context:
    """Return the context of one model against some oracles; without any, the rigged one."""
    models = rigged()
    return Context(
        original=original or models["original"],
        unlearned=unlearned,
        forget=(0,),
        class_names=tuple(map(str, range(CLASSES))),
        class_counts=tuple(COUNTS["train"]),
        splits={name: split(name) for name in splits},
        oracles=oracles or (models["oracle"],),
        **more,
    )


def measured(metric: Metric, context: Context) -> dict[str, Any]:
    """Return the values of a metric that sees only what it declared."""
    return metric(context.restricted_to(metric.needs))


def proxies_like(labels: Tensor, shown: Tensor | None = None) -> Proxies:
    """Return proxies that look to rigged models like the classes shown, else like their own."""
    images = torch.zeros(len(labels), 1, 1, 2)
    images[:, 0, 0, 0] = labels if shown is None else shown
    return Proxies(images, labels)


def outputs(logits: Tensor, labels: Tensor | list[int]) -> Outputs:
    """Return outputs with these logits and empty features."""
    return Outputs(logits.float(), torch.zeros(len(logits), 1), torch.as_tensor(labels))


def random_outputs(seed: int, rows: int, classes: int = 6) -> Outputs:
    """Return random logits of images of every class."""
    stream = torch.Generator().manual_seed(seed)
    return outputs(torch.randn(rows, classes, generator=stream), torch.arange(rows) % classes)


def _unread(positions: Tensor) -> Tensor:
    raise AssertionError("no image is read")


def world(
    unlearned: dict[str, Outputs],
    *oracles: dict[str, Outputs],
    original: dict[str, Outputs] | None = None,
    forget: tuple[int, ...] = (0,),
    counts: tuple[int, ...] | None = None,
) -> Context:
    """Return the context of models whose outputs are given by split."""
    models = (unlearned, original or unlearned, *oracles)
    networks = [nn.Identity() for _ in models]
    pairs = zip(networks, models, strict=True)
    known = {(id(net), split): (net, out) for net, model in pairs for split, out in model.items()}
    classes = next(iter(unlearned.values())).logits.shape[1]
    return Context(
        original=networks[1],
        unlearned=networks[0],
        forget=forget,
        class_names=tuple(map(str, range(classes))),
        class_counts=counts or (1,) * classes,
        splits={split: Split(out.labels, _unread) for split, out in unlearned.items()},
        oracles=tuple(networks[2:]),
        _outputs=known,
    )
