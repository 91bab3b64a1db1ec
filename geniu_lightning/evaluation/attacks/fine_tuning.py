"""What attacks do with a copy of a model: images are drawn, it is tuned on them, and scored."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.kit.networks import features_of, head_of

Batch = tuple[Tensor, Tensor]  # normalised images (N, C, H, W) and their labels (N,)


def fine_tune(
    network: nn.Module, batches: Iterator[Batch], steps: Sequence[int], rate: float
) -> Iterator[int]:
    """Take SGD steps on cross-entropy, pausing after each of the named ones.

    Args:
        network: Changed in place; stays in evaluation mode, so that statistics are kept.
        batches: One a step.
        steps: Where to pause, ascending; 0 is before the first step.
        rate: Learning rate.

    Yields:
        The step that was paused after.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    taken = 0
    for step in steps:
        while taken < step:
            images, labels = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            taken += 1
        yield step


def area(steps: Sequence[int], curve: Sequence[float]) -> float:
    """Return the area under a curve over log(1 + step), as a share of the largest possible."""
    places = [math.log1p(step) for step in steps]
    pieces = [
        (places[k + 1] - places[k]) * (curve[k] + curve[k + 1]) / 2 for k in range(len(places) - 1)
    ]
    return sum(pieces) / (places[-1] - places[0])


@torch.no_grad()
def reset_rows(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Set the head rows of some classes to the mean feature of their images, in place.

    Args:
        network: A classifier.
        images: Normalised, of these classes alone, shape ``(N, C, H, W)``.
        labels: Shape ``(N,)``.
    """
    head = head_of(network)
    features = features_of(network, images)
    gone = labels.unique().tolist()
    others = [k for k in range(head.out_features) if k not in gone]
    norm, bias = head.weight[others].norm(dim=1).mean(), head.bias[others].mean()
    for k in gone:
        mean = features[labels == k].mean(dim=0)
        head.weight[k] = norm * mean / mean.norm().clamp(min=1e-12)
        head.bias[k] = bias


def few_shot(context: Context, shots: int) -> Callable[[int], Iterator[Batch]]:
    """Return batches of a draw: k images of each forgotten class, and as many retained ones."""

    def batches(draw: int) -> Iterator[Batch]:
        images, labels = shown(context, shots, draw)
        for others, their_labels in retained(context, len(labels), draw):
            yield torch.cat([images, others]), torch.cat([labels, their_labels])

    return batches


def shown(context: Context, shots: int, draw: int) -> Batch:
    """Return k training images of each forgotten class."""
    train, stream = context.splits["train"], context.generator("shown", draw)
    chosen = torch.cat([some_of(train, [k], shots, stream) for k in context.forget])
    return train.read(chosen), train.labels[chosen].to(context.device)


def retained(context: Context, count: int, draw: int) -> Iterator[Batch]:
    """Return endless batches of retained training images, classes equally likely."""
    train, stream = context.splits["train"], context.generator("retained", draw)
    pools = [pool for k in context.retained if len(pool := train.positions_of((k,)))]
    while True:
        kinds = torch.randint(len(pools), (count,), generator=stream).tolist()
        chosen = torch.stack(
            [pools[k][torch.randint(len(pools[k]), (), generator=stream)] for k in kinds]
        )
        yield train.read(chosen), train.labels[chosen].to(context.device)


def forgotten(context: Context, count: int, draw: int) -> Iterator[Batch]:
    """Return endless batches of the forgotten classes' training images."""
    train, stream = context.splits["train"], context.generator("forgotten", draw)
    pool = train.positions_of(context.forget)
    while True:
        for chosen in pool[torch.randperm(len(pool), generator=stream)].split(count):
            yield train.read(chosen), train.labels[chosen].to(context.device)


def has_forgotten(context: Context) -> bool:
    """Whether there are training images of the forgotten classes."""
    return (
        "train" in context.splits and len(context.splits["train"].positions_of(context.forget)) > 0
    )


def some_of(split: Split, classes: Sequence[int], count: int, stream: torch.Generator) -> Tensor:
    """Return the positions of at most so many images of some classes, drawn."""
    pool = split.positions_of(tuple(classes))
    return pool[torch.randperm(len(pool), generator=stream)[:count]]


def spread(split: Split, classes: Sequence[int], count: int, stream: torch.Generator) -> Tensor:
    """Return the positions of about so many images, equally many of each class."""
    each = max(count // len(classes), 1)
    return torch.cat([some_of(split, [k], each, stream) for k in classes])


@torch.no_grad()
def accuracy_at(network: nn.Module, split: Split, positions: Tensor) -> float:
    """Return the share of some images that are answered right; a tie of n counts 1/n."""
    answers = torch.cat([network(split.read(part)).cpu() for part in positions.split(500)])
    largest = answers == answers.max(dim=1, keepdim=True).values
    own = largest.gather(1, split.labels[positions][:, None]).squeeze(1)
    # no number is no answer: a copy whose fine-tuning exploded knows nothing
    return float((own.double() / largest.sum(dim=1).clamp(min=1)).mean())
