"""Networks in which what a procedure leaves and what a class leaves are easily confounded.

`python -m tests.distilled KIT BANK FORGET OUT` writes weights for `geniu evaluate`: `weights=` and
`nulls=`; docs/evaluation.md has the verdicts. `recipe` is retrained on retained images by SGD and
twice the epochs. The others are taught on samples of a Gaussian a retained class, in the space of
the first 64 principal components, by the original without the forgotten class or, as their nulls,
by oracles: `probabilities` by the teacher's probabilities, `labels` by its likeliest class.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.cli.model_evaluation import split_of
from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.evaluator import masked
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.networks import fresh_classifier
from tests.simulation import other_recipe

STEPS, BATCH, PARTS = 4000, 64, 64


class Gaussians:
    """A Gaussian a class of images, in the space of their principal components."""

    def __init__(self, split: Split, classes: tuple[int, ...]) -> None:
        images = {k: split.read(split.positions_of((k,))) for k in classes}
        every = torch.cat([*images.values()]).flatten(1)
        self.shape, self.center = images[classes[0]].shape[1:], every.mean(dim=0)
        self.least, self.most = every.aminmax()
        self.basis = torch.linalg.svd(every - self.center, full_matrices=False).Vh[:PARTS]
        codes = [(x.flatten(1) - self.center) @ self.basis.T for x in images.values()]
        self.means = torch.stack([code.mean(dim=0) for code in codes])
        spread = torch.stack([code.T.cov() for code in codes]) + 1e-4 * torch.eye(PARTS)
        self.factors = torch.linalg.cholesky(spread)

    def draw(self, count: int, stream: torch.Generator) -> Tensor:
        """Return samples, classes in turn."""
        places = torch.arange(count) % len(self.means)
        noise = torch.randn(count, PARTS, 1, generator=stream)
        codes = self.means[places] + (self.factors[places] @ noise).squeeze(2)
        images = codes @ self.basis + self.center
        return images.clamp(self.least, self.most).view(count, *self.shape)


def distilled(kit: Kit, teacher: nn.Module, source: Gaussians, soft: bool, seed: int) -> nn.Module:
    """Return a fresh network, taught by another on samples."""
    stream = torch.Generator().manual_seed(seed)
    network = fresh_classifier(kit, 7000 + seed).train().requires_grad_(True)
    updates = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(updates, 0.1, total_steps=STEPS)
    for _ in range(STEPS):
        images = source.draw(BATCH, stream)
        with torch.no_grad():
            answers = teacher(images)
        target = answers.softmax(dim=1) if soft else answers.argmax(dim=1)
        updates.zero_grad()
        F.cross_entropy(network(images), target).backward()
        updates.step()
        schedule.step()
    return network.eval()


def main() -> None:
    """Write the networks, each unless it is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("bank", type=Path, help="a folder of oracles.folder")
    parser.add_argument("forget", type=int)
    parser.add_argument("out", type=Path)
    words = parser.parse_args()
    kit = Kit.load(words.kit)
    bank = sorted(words.bank.glob("[0-9]*/kit.safetensors"), key=lambda p: int(p.parent.name))[:10]
    data = recorded_data(kit.info)
    context = Context(
        original=kit.classifier,
        unlearned=kit.classifier,
        forget=(words.forget,),
        class_names=data.names,
        class_counts=kit.info.class_counts,
        splits={"train": split_of(data, "train", torch.device("cpu"))},
    )
    source = Gaussians(context.splits["train"], context.retained)
    teachers = {f"null {k}": masked(Kit.load(p).classifier, context.forget)
                for k, p in enumerate(bank, 1)}  # fmt: skip
    teachers["original"] = masked(kit.classifier, context.forget)
    words.out.mkdir(parents=True, exist_ok=True)
    for number, (who, teacher) in enumerate(reversed(teachers.items())):
        for by in ("probabilities", "labels"):
            file = words.out / f"{by} {who}.safetensors"
            if not file.exists():
                made = distilled(kit, teacher, source, by == "probabilities", number)
                save_file(made.state_dict(), file)
    if not (words.out / "recipe.safetensors").exists():
        made = other_recipe(context, kit, "sgd", 1)
        save_file(made.state_dict(), words.out / "recipe.safetensors")


if __name__ == "__main__":
    main()
