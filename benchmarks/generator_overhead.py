"""What prompts and generator cost beside the classifier: a ratio measured in one run.

    python benchmarks/generator_overhead.py --width 96 --precision bf16-mixed

Trains the same classifier with and without them, in turns, through the real module and Lightning,
at the rate of updates that the default settings have on MNIST at ratio 0.1 (177 steps an epoch, 8
epochs), and compares the mean time of a step in the epochs that have them. The first epoch has
none, so the whole training's ratio is a little smaller; both are printed.
"""

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from geniu_lightning.app.terminal import quiet
from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.exemplars import Exemplars
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.vae import VAE
from geniu_lightning.training import GeniuTraining

REAL_STEPS, REAL_EPOCHS = 177, 8  # MNIST at ratio 0.1, batch 64
CLASSES, PER_CLASS, EVERY, AT_LEAST = 10, 10, 4, 1000  # conf/training/default.yaml


class StepTimes(Callback):
    """Seconds of each step after the first epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch > 0:
            self.seconds.append(time.perf_counter() - self._start)


def step_seconds(with_proxies: bool, width: int, precision: str, steps: int) -> float:
    """Return the mean seconds of a step in the epoch that has prompts and generator."""
    count = 64 * steps
    images = torch.rand(count, 1, 28, 28)
    labels = torch.arange(count) % CLASSES
    loader = IndexLoader(lambda i, _: (images[i] * 2 - 1, labels[i]), torch.arange(count), 64, 0)
    real_ticks = REAL_STEPS * (REAL_EPOCHS - 1)
    generator_steps = max(AT_LEAST, real_ticks // EVERY)
    module = GeniuTraining(
        classifier=AllCNN(1, CLASSES, width),
        proxy_generator=VAE() if with_proxies else None,
        spec=ImageSpec.of(28, 1, 0.5, 0.5),
        exemplars=Exemplars(labels, torch.arange(count), CLASSES, PER_CLASS)
        if with_proxies
        else None,
        exemplar_images=lambda i: images[i],
        steps_per_epoch=steps,
        epochs=2,
        optimizer=partial(torch.optim.AdamW, lr=0.003),
        schedule="onecycle",
        generator_optimizer=partial(torch.optim.Adam, lr=0.001, fused=True),
        prompt_optimizer=partial(torch.optim.Adam, lr=0.1),
        every_n_steps=EVERY,
        min_generator_steps=round(generator_steps * steps / real_ticks),
        prompt_batch=20,
    )
    times = StepTimes()
    Trainer(
        accelerator="cpu",
        max_epochs=2,
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's names
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[times],
    ).fit(module, loader)
    return statistics.fmean(times.seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--steps", type=int, default=12, help="steps timed in each turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    quiet()
    step_seconds(True, options.width, options.precision, 4)  # warms up caches and imports
    ratios = []
    for turn in range(options.turns):
        alone, beside = (
            step_seconds(kind, options.width, options.precision, options.steps)
            for kind in (False, True)
        )
        ratios.append(beside / alone)
        print(
            f"turn {turn}: {1000 * alone:.0f} ms alone, {1000 * beside:.0f} ms with prompts and"
            f" generator, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    median = statistics.median(ratios)
    whole = (1 + (REAL_EPOCHS - 1) * median) / REAL_EPOCHS
    print(
        f"width {options.width}, {options.precision}, {torch.get_num_threads()} threads: step ratio"
        f" {median:.3f} (median of {options.turns}), whole training {whole:.3f}"
    )


if __name__ == "__main__":
    main()
