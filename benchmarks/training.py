"""Cost of a training step, compared with the same step in another form."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.fitting.compile import CompileAndMemoryFormat
from geniu_lightning.fitting.messages import quiet
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.vae import VAE
from geniu_lightning.training.exemplars import IndexedExemplars
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.settings import TrainingSettings

BATCH = 64
Precision = Literal["32-true", "bf16-mixed"]
REAL_STEPS, REAL_EPOCHS = 178, 8  # MNIST at ratio 0.1, batch 64
CLASSES, EVERY, AT_LEAST = 10, 4, 1000  # conf/training/default.yaml


class StepTimes(Callback):
    """Start of each step of the second epoch, in seconds."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch > 0:
            self.begun.append(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch > 0:
            self.begun.append(time.perf_counter())


def seconds_of_steps(
    with_proxies: bool, width: int, precision: Precision, steps: int
) -> list[float]:
    """Return the seconds of each step in the epoch that has prompts and generator.

    The memory layout is the one that ``trainer.channels_last=auto`` gives.
    """
    count = 64 * steps
    images = torch.rand(count, 1, 28, 28)
    labels = torch.arange(count) % CLASSES
    loader = IndexLoader(lambda i, _: (images[i] * 2 - 1, labels[i]), torch.arange(count), 64, 0)
    real_steps = REAL_STEPS * (REAL_EPOCHS - 1)
    generator_steps = max(AT_LEAST, real_steps // EVERY)
    settings = TrainingSettings(
        epochs=2,
        optimizer=partial(torch.optim.AdamW, lr=0.003),
        every_n_steps=EVERY,
        min_generator_steps=round(generator_steps * steps / real_steps),
    )
    exemplars = IndexedExemplars(
        labels,
        torch.arange(count),
        images.__getitem__,
        num_classes=CLASSES,
        per_class=settings.proxies_per_class,
    )
    module = GeniuModule(
        classifier=AllCNN(1, CLASSES, width),
        generator=VAE() if with_proxies else None,
        exemplars=exemplars if with_proxies else None,
        spec=ImageSpec.of(28, 1, 0.5, 0.5),
        settings=settings,
        steps_per_epoch=steps,
    )
    times = StepTimes()
    Trainer(
        accelerator="cpu",
        max_epochs=2,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[times, CompileAndMemoryFormat(channels_last=precision == "bf16-mixed")],
    ).fit(module, loader)
    return [after - before for before, after in itertools.pairwise(times.begun)]


def in_turns(
    first: Callable[[], list[float]],
    second: Callable[[], list[float]],
    turns: int,
    names: tuple[str, str],
    middle: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Measure both in turns, print both, and return the median of second over first.

    Args:
        first: Returns seconds of steps.
        second: Likewise.
        turns: How often each is measured, after once to warm up caches and imports.
        names: What to call them.
        middle: Average over the steps of one turn.
    """
    first(), second()
    pairs = [(middle(first()), middle(second())) for _ in range(turns)]
    ratios = [b / a for a, b in pairs]
    medians = [1000 * statistics.median(side) for side in zip(*pairs, strict=True)]
    median = statistics.median(ratios)
    fastest = [min(side) for side in zip(*pairs, strict=True)]  # least of others' work in it
    print(
        f"  {names[0]} {medians[0]:.2f} ms, {names[1]} {medians[1]:.2f} ms: ratio {median:.3f}"
        f" ({turns} turns: {min(ratios):.3f} to {max(ratios):.3f});"
        f" the fastest of each: {fastest[1] / fastest[0]:.3f}",
        flush=True,
    )
    return median


def bare_seconds_of_steps(
    width: int, steps: int, cast: bool = False, last: bool = False
) -> list[float]:
    """Return the seconds of each step of a loop without any framework.

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
    begun = []
    for index in order:
        begun.append(time.perf_counter())
        batch = (images[index] * 2 - 1).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = F.cross_entropy(network(batch), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    begun.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(begun)][1:]


def loop() -> None:
    """Our training of a classifier alone against a bare PyTorch loop (goal: 1.05 at width 96)."""
    quiet()
    for width, steps, turns in ((16, 40, 25), (96, 10, 7)):
        print(f"  AllCNN width {width}, batch {BATCH}, 28×28, the median step")
        in_turns(
            partial(bare_seconds_of_steps, width, steps),
            partial(seconds_of_steps, False, width, "32-true", steps),
            turns,
            ("bare", "ours"),
        )


def generator() -> None:
    """Training with prompts and generator against the classifier alone (goal: 1.10 at width 96)."""
    quiet()
    pairs: tuple[tuple[int, Precision, int], ...] = (
        (96, "32-true", 12),
        (96, "bf16-mixed", 24),
        (32, "32-true", 24),
        (32, "bf16-mixed", 24),
    )
    for width, precision, steps in pairs:
        print(f"  AllCNN width {width}, {precision}, epochs that have both")
        median = in_turns(
            partial(seconds_of_steps, False, width, precision, steps),
            partial(seconds_of_steps, True, width, precision, steps),
            5,
            ("alone", "with"),
            statistics.fmean,  # for the generator learns in every fourth step alone
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

    def epoch(batches: Callable[[], Iterator[object]]) -> list[float]:
        start = time.perf_counter()
        count = sum(1 for _ in batches())
        return [(time.perf_counter() - start) / count]

    in_turns(
        partial(epoch, ours.__iter__), partial(epoch, workers.__iter__), 5, ("ours", "workers")
    )


def precision() -> None:
    """bfloat16 and channels-last against plain 32 bits, width 96 (goal: 2.5 with AVX512-BF16)."""
    plain = partial(bare_seconds_of_steps, 96, 10)
    for name, cast, last in (
        ("channels-last", False, True),
        ("bfloat16", True, False),
        ("both", True, True),
    ):
        in_turns(partial(bare_seconds_of_steps, 96, 10, cast, last), plain, 5, (name, "plain"))
    quiet()
    in_turns(
        partial(seconds_of_steps, False, 96, "bf16-mixed", 10),
        partial(seconds_of_steps, False, 96, "32-true", 10),
        5,
        ("our training with both", "our training in 32 bits"),
    )
