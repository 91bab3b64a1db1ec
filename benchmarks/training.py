"""What a step of training costs, beside the same step written or set up otherwise."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from generator_overhead import REAL_EPOCHS, step_seconds
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from geniu_lightning.app.terminal import quiet
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.models.allcnn import AllCNN

BATCH, CLASSES = 64, 10


def in_turns(
    first: Callable[[], float], second: Callable[[], float], turns: int, names: tuple[str, str]
) -> float:
    """Measure both in turns, print both and return the median of second over first."""
    first(), second()  # warm up caches and imports
    pairs = [(first(), second()) for _ in range(turns)]
    ratios = [b / a for a, b in pairs]
    medians = [1000 * statistics.median(side) for side in zip(*pairs, strict=True)]
    median = statistics.median(ratios)
    print(
        f"  {names[0]} {medians[0]:.2f} ms, {names[1]} {medians[1]:.2f} ms: ratio {median:.3f}"
        f" ({turns} turns: {min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )
    return median


def bare_step_seconds(width: int, steps: int, cast: bool = False, last: bool = False) -> float:
    """Return the mean seconds of a step of a loop without any framework.

    Args:
        width: Of AllCNN.
        steps: How many are timed, after one that is not.
        cast: Whether bfloat16 is used where torch's autocast would.
        last: Whether images and network are in the channels-last layout.
    """
    layout = torch.channels_last if last else torch.contiguous_format
    images = torch.rand(BATCH * (steps + 1), 1, 28, 28)
    labels = torch.arange(len(images)) % CLASSES
    network = AllCNN(1, CLASSES, width).to(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    order = torch.randperm(len(images)).split(BATCH)
    start = 0.0
    for k, index in enumerate(order):
        if k == 1:
            start = time.perf_counter()
        batch = (images[index] * 2 - 1).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = F.cross_entropy(network(batch), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


def loop() -> None:
    """Our training of a classifier alone against a bare PyTorch loop (goal: 1.05 at width 96)."""
    quiet()
    for width, steps in ((16, 60), (96, 10)):
        print(f"  AllCNN width {width}, batch {BATCH}, 28×28")
        in_turns(
            partial(bare_step_seconds, width, steps),
            partial(step_seconds, False, width, "32-true", steps),
            5,
            ("bare", "ours"),
        )


def generator() -> None:
    """Training with prompts and generator against the classifier alone (goal: 1.10 at width 96)."""
    quiet()
    for width, steps in ((32, 30), (96, 10)):
        print(f"  AllCNN width {width}, 32 bits, epochs that have both")
        median = in_turns(
            partial(step_seconds, False, width, "32-true", steps),
            partial(step_seconds, True, width, "32-true", steps),
            3,
            ("alone", "with"),
        )
        print(f"  whole training: {(1 + (REAL_EPOCHS - 1) * median) / REAL_EPOCHS:.3f}")


def loader() -> None:
    """Batches from memory against a DataLoader with two workers, an epoch of 12,800 images."""
    images = torch.randint(0, 256, (12_800, 1, 28, 28), dtype=torch.uint8)
    labels = torch.arange(len(images)) % CLASSES

    def read(index: Tensor, _: int | None) -> tuple[Tensor, Tensor]:
        return images[index].float().div_(255).sub_(0.5).div_(0.5), labels[index]

    class Decoded(TensorDataset):
        def __getitem__(self, k: int) -> tuple[Tensor, ...]:
            image, label = super().__getitem__(k)
            return image.float().div_(255).sub_(0.5).div_(0.5), label

    workers = DataLoader(
        Decoded(images, labels), BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )
    ours = IndexLoader(read, torch.arange(len(images)), BATCH, 0)

    def epoch(batches: Callable[[], Iterator[object]]) -> float:
        start = time.perf_counter()
        count = sum(1 for _ in batches())
        return (time.perf_counter() - start) / count

    in_turns(
        partial(epoch, ours.__iter__), partial(epoch, workers.__iter__), 5, ("ours", "workers")
    )


def precision() -> None:
    """Plain 32 bits against bfloat16 and channels-last, width 96 (goal: 2.5 with AVX512-BF16)."""
    plain = partial(bare_step_seconds, 96, 8)
    for name, cast, last in (
        ("channels-last", False, True),
        ("bfloat16", True, False),
        ("both", True, True),
    ):
        in_turns(partial(bare_step_seconds, 96, 8, cast, last), plain, 3, (name, "plain"))
