"""Five easy classes, and small networks that were taught some of them."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context
from tests.evaluation.clouds import split_of


class TwoLayers(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU()
            )
            self.head = nn.Linear(16, 5)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


TRAIN, TEST = split_of(2, torch.arange(5).repeat(60)), split_of(3, torch.arange(5).repeat(40))


def taught(seed: int, classes: tuple[int, ...]) -> TwoLayers:
    network = TwoLayers(seed)
    chosen = TRAIN.positions_of(classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(network(TRAIN.read(chosen)), TRAIN.labels[chosen]).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def taught_models() -> dict[str, nn.Module]:
    """Return an original, two that suppress class 0 in it, and two oracles."""
    original = taught(0, (0, 1, 2, 3, 4))
    mask = copy.deepcopy(original)
    mask.head.weight[0], mask.head.bias[0] = 0.0, -1e4
    suppressed = copy.deepcopy(original)  # as tuning does: a bias that gradients can lift
    suppressed.head.bias[0] -= 12.0
    found = {"original": original, "mask": mask, "suppressed": suppressed}
    return found | {f"oracle{k}": taught(k, (1, 2, 3, 4)) for k in (11, 12)}


def about(models: dict[str, nn.Module], name: str, **more: object) -> Context:
    parts: dict[str, object] = {"forget": (0,), "splits": {"train": TRAIN, "test": TEST}}
    return Context(
        original=models["original"],
        unlearned=models[name],
        class_names=tuple("abcde"),
        class_counts=(60,) * 5,
        **parts | more,
    )
