"""One of two processes: `python -m tests.training.two_of_training FOLDER`; `LOCAL_RANK` says which.

Trains the module, then chooses exemplars of both kinds (with a checkpoint in the midst), then
trains beside a user's module, and leaves what it found in `FOLDER/rank0` and `rank1`.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from geniu_lightning.training.exemplars import IndexedExemplars
from geniu_lightning.training.module import GeniuModule
from geniu_lightning.training.streamed_exemplars import StreamedExemplars
from tests.training import foreign
from tests.training.small_training import loader_of, module_of, trainer_of
from tests.training.test_exemplars import an_epoch, chosen, images_of, selector

LABELS = torch.arange(3).repeat(8)
CASES = [
    (kind, strategy)
    for kind, strategies in (
        (IndexedExemplars, ("max_entropy", "nearest_mean", "random")),
        (StreamedExemplars, ("min_entropy", "nearest_mean")),
    )
    for strategy in strategies
]


class Plain(nn.Module):
    """A classifier without batch statistics, which two processes could not have in common."""

    def __init__(self, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(256, 4 * width)
        self.head = nn.Linear(4 * width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.first(images.flatten(1)).tanh()
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def training() -> GeniuModule:
    # Adam would make steps of the rounding errors of gradients that are zero
    plainly = partial(torch.optim.SGD, lr=1e-4)
    return module_of(kind=Plain, max_gradient_norm=0.5, generator_optimizer=plainly)  # type: ignore[arg-type]  # as it is used


def epoch_of(epoch: int, ties: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, features, and the order in which images are read."""
    logits, features = an_epoch(epoch, 24, 3)
    if ties:
        logits[4:12] = logits[4]
    return logits, features, torch.randperm(24, generator=torch.Generator().manual_seed(epoch))


def choices(kind: Any, strategy: str, rank: int, world: int) -> list[list[list[int]]]:
    """Return what each of three epochs chooses; between two steps all processes are restored."""
    exemplars, found = selector(kind, LABELS, 2, strategy), []
    for epoch in range(3):
        logits, features, order = epoch_of(epoch, kind is IndexedExemplars)
        for step, rows in enumerate(order.split(6)):
            mine = rows[rank::world]
            answers = LABELS[mine], logits[mine], features[mine]
            if kind is StreamedExemplars:
                exemplars.observe(images_of(24)[mine], *answers, step, rank)
            else:
                exemplars.observe(mine, *answers)
            if (epoch, step) == (1, 1):
                # at a checkpoint Lightning asks every process, and gives all the first one's state
                state = [exemplars.state_dict()]
                if world > 1:
                    dist.broadcast_object_list(state)
                exemplars = selector(kind, LABELS, 2, strategy)
                exemplars.load_state_dict(state[0])
        found.append(chosen(exemplars, 24))
    return found


def main(folder: str) -> None:
    """Train as one of two."""
    torch.set_num_threads(1)
    module, loader = training(), loader_of()
    rank = int(os.environ["LOCAL_RANK"])
    loader.shard(rank, 2)
    two: dict[str, Any] = {"devices": 2, "strategy": "ddp"}
    trainer = trainer_of(module, Path(folder), **two)
    trainer.fit(module, loader)
    found: dict[str, Any] = {
        "module": module.state_dict(),
        "accuracy": trainer.callback_metrics["train/accuracy"],
        "choices": [choices(kind, strategy, rank, 2) for kind, strategy in CASES],
    }
    callback, user = foreign.kit_callback(Path(folder) / "kit.safetensors"), foreign.seeded()
    foreign.fit(user, Path(folder), callback, max_epochs=2, **two)
    alone = foreign.seeded()
    foreign.fit(alone, Path(folder), max_epochs=2, **two)
    state = callback.state_dict()
    found |= {
        "user": user.state_dict(),
        "user alone": alone.state_dict(),
        "proxies": {**state["proxies"]["generator"], "prompts": state["proxies"]["prompts"]},
        "exemplars": state["exemplars"]["images"],
        "counts": state["counts"],
    }
    torch.save(found, f"{folder}/rank{rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])
