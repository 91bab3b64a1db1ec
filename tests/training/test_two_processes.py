"""Training by two processes: the same weights as by one, though terms come and go between steps.

``python -m tests.training.test_two_processes FOLDER`` is one of the two; ``LOCAL_RANK`` says which.
"""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.training.module import GeniuModule
from tests.training.small_training import fit, loader_of, module_of
from tests.training.two_processes import run_by_two

ROOT = Path(__file__).parents[2]


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


def main(folder: str) -> None:
    """Train as one of two, and leave the weights."""
    torch.set_num_threads(1)
    module, loader = training(), loader_of()
    rank = int(os.environ["LOCAL_RANK"])
    loader.shard(rank, 2)
    trainer = Trainer(
        max_epochs=module.cadence.max_epochs,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader)
    torch.save(module.state_dict(), f"{folder}/rank{rank}")


@pytest.mark.slow
def test_two_processes_find_the_weights_that_one_finds(tmp_path: Path) -> None:
    run_by_two("tests.training.test_two_processes", str(tmp_path), timeout=120)
    first, second = (torch.load(tmp_path / f"rank{r}", weights_only=True) for r in (0, 1))
    alone, start = training(), training().state_dict()
    fit(alone, tmp_path)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    moved = {name.split(".")[0] for name, t in first.items() if not torch.equal(t, start[name])}
    assert moved == {"classifier", "proxy_generator", "prompts"}


if __name__ == "__main__":
    main(*sys.argv[1:])
