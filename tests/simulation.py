"""How often the decision rule errs, on networks whose answer is known.

`python -m tests.simulation FOLDER CLASS` prints the tables of docs/evaluation.md, which has the
commands that fill the folder: `kits/*` are originals, `bank` oracles, and its `nulls` what methods
made of these. Made here: masks of the originals, networks retrained by other recipes, and blends:
an oracle, tuned until it knows the class, and then taken back to 10, 25 or 50 % of the way, weight
by weight. Each is judged again and again, against oracles drawn from the bank.
"""

import argparse
import copy
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.cli.model_evaluation import split_of
from geniu_lightning.evaluation.cache import FileCache
from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.evaluator import Evaluator, images_of, masked
from geniu_lightning.evaluation.evidence import Evidence
from geniu_lightning.evaluation.metric import MetricInfo, Values
from geniu_lightning.evaluation.verdict import decide
from geniu_lightning.kit.file import Kit
from geniu_lightning.settings.configs import CONF, built, plain
from geniu_lightning.unlearning.networks import fresh_classifier

SHARES = (10, 25, 50)
ORACLES = (3, 5, 10)


@dataclass(frozen=True)
class World:
    """Networks by name, whose first word is their kind, and the context of their measurement."""

    context: Context
    networks: dict[str, nn.Module]
    kin: dict[str, int]  # of a network, the number of the oracle that it is or was made of


def world_of(folder: Path, forget: int, images: int) -> World:
    """Return the networks below a folder and those made of them."""
    kits = [Kit.load(path) for path in sorted(folder.glob("kits/*/kit.safetensors"))]
    bank = sorted(folder.glob("bank/*/[0-9]*/kit.safetensors"), key=lambda p: int(p.parent.name))
    oracles = [Kit.load(path).classifier for path in bank]
    data = recorded_data(kits[0].info)
    splits = {s: split_of(data, s, torch.device("cpu")) for s in ("test", "train")}
    splits["test"] = fewer(splits["test"], images, len(data.names))
    context = Context(
        original=kits[0].classifier,
        unlearned=kits[0].classifier,
        forget=(forget,),
        class_names=data.names,
        class_counts=kits[0].info.class_counts,
        splits=splits,
        oracles=tuple(oracles),
    )
    networks: dict[str, nn.Module] = {f"oracle {k}": o for k, o in enumerate(oracles, 1)}
    kin = {f"oracle {k + 1}": k for k in range(len(oracles))}
    for seed, kit in enumerate(kits, 1):
        networks |= {
            f"original {seed}": kit.classifier,
            f"mask {seed}": masked(kit.classifier, (forget,)),
        }
    for path in sorted(folder.glob("bank/*/nulls/*/*.safetensors")):
        who = f"null:{path.parent.name.rpartition('-')[0]} {path.stem}"
        networks[who] = Kit.load(path).classifier
        kin[who] = [p.parent.name for p in bank].index(path.stem)
    for k in range(4):
        made = stored(folder, f"blend {k}", partial(blends, context, k))
        for share, network in zip(SHARES, made, strict=True):
            networks[f"blend:{share}% {k}"] = network
            kin[f"blend:{share}% {k}"] = len(oracles) - 1 - k
    for seed in (1, 2):
        for recipe in ("sgd", "long", "short"):
            make = partial(other_recipe, context, kits[0], recipe, seed)
            networks[f"recipe:{recipe} {seed}"] = stored(folder, f"{recipe} {seed}", make)
    return World(context, networks, kin)


def stored(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """Return networks that an earlier call made, or make and store them."""
    file = folder / f"{name}.pt"
    if not file.is_file():
        torch.save(make(), file)
    return torch.load(file, weights_only=False)


def fewer(split: Split, images: int, classes: int) -> Split:
    """Return at most so many images of each class of a split."""
    draw = torch.Generator().manual_seed(7)
    pools = [(split.labels == k).nonzero().flatten() for k in range(classes)]
    kept = [pool[torch.randperm(len(pool), generator=draw)[:images]] for pool in pools]
    return split.at(torch.cat(kept).sort().values)


def blends(context: Context, number: int) -> list[nn.Module]:
    """Return networks on the way from one of the last oracles to one that knows the class."""
    oracle = context.oracles[-1 - number]
    knows = copy.deepcopy(oracle).requires_grad_(True)
    updates = torch.optim.Adam(knows.parameters(), lr=3e-4)
    for images, labels in mixed_batches(context, number, steps=400):
        updates.zero_grad()
        F.cross_entropy(knows(images), labels).backward()
        nn.utils.clip_grad_norm_(knows.parameters(), 1.0)
        updates.step()
    start, end = oracle.state_dict(), knows.state_dict()
    found = []
    for share in SHARES:
        blend = copy.deepcopy(oracle)
        blend.load_state_dict({k: torch.lerp(v, end[k], share / 100) if v.is_floating_point() else v
                               for k, v in start.items()})  # fmt: skip
        found.append(blend.eval().requires_grad_(False))
    return found


def mixed_batches(context: Context, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of 8 images of the class and 56 retained ones."""
    train, draw = context.splits["train"], torch.Generator().manual_seed(seed)
    pools = (train.positions_of(context.forget), 8), (train.positions_of(context.retained), 56)
    for _ in range(steps):
        places = [pool[torch.randint(len(pool), (n,), generator=draw)] for pool, n in pools]
        chosen = torch.cat(places)
        yield train.read(chosen), train.labels[chosen]


def other_recipe(context: Context, kit: Kit, recipe: str, seed: int) -> nn.Module:
    """Return a network retrained by SGD and twice the epochs, or by twice or half of them alone."""
    epochs = kit.info.settings["training"]["epochs"]
    epochs = max(epochs // 2, 1) if recipe == "short" else 2 * epochs
    train, draw = context.splits["train"], torch.Generator().manual_seed(seed)
    pool = train.positions_of(context.retained)
    steps = epochs * -(-len(pool) // 64)
    network = fresh_classifier(kit, 5000 + seed).train().requires_grad_(True)
    rate = 0.05 if recipe == "sgd" else 0.003
    updates: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    if recipe == "sgd":
        updates = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(updates, rate, total_steps=steps)
    for _ in range(epochs):
        for chosen in pool[torch.randperm(len(pool), generator=draw)].split(64):
            updates.zero_grad()
            F.cross_entropy(network(train.read(chosen)), train.labels[chosen]).backward()
            updates.step()
            schedule.step()
    return network.eval().requires_grad_(False)


class Trials:
    """Verdicts on a world's networks against oracles that are drawn from its bank."""

    def __init__(self, world: World, cache: Path) -> None:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            metrics = plain(compose("unlearn", ["evaluation=verdict"]).evaluation.metrics)
        without = ("own_proxies", "random_teacher", "scores", "which_class", "over_unlearning")
        self.metrics = {k: built(v, k) for k, v in metrics.items() if k not in without}
        self.world, self.draw = world, random.Random(0)
        evaluator = Evaluator(self.metrics, FileCache(cache))
        self.rows = evaluator.measured(world.context, world.networks, world.kin)
        self.images = images_of(world.context)
        self.infos: dict[str, MetricInfo] = {}
        for who in world.networks:
            for name in self.rows.of(who):
                family, _, rest = name.partition(".")
                self.infos[name] = self.metrics[family].info(rest)

    def verdict(self, who: str, oracles: int) -> str:
        """Return the verdict on a network; a null is judged against the others of its method."""
        count, kin = len(self.world.context.oracles), self.world.kin
        chosen = self.draw.sample([k for k in range(count) if k != kin.get(who)], oracles)
        left_out = [k for k in range(count) if k not in chosen]

        def row(name: str, *more: int) -> Values:
            return self.rows.of(name, [*left_out, *more])

        method = who.split()[0]
        alike = [w for w in self.world.networks if w.split()[0] == method and kin.get(w) in chosen]
        original = self.draw.choice([w for w in self.world.networks if w.startswith("original")])
        peers = [[row(f"oracle {j + 1}", k) for j in chosen if j != k] for k in chosen]
        evidence = Evidence(
            row(who),
            [row(f"oracle {k + 1}") for k in chosen],
            peers,
            {"original": row(original), "mask": row(original.replace("original", "mask"))},
            self.infos,
            self.images,
            [row(name) for name in alike] if method.startswith("null") else [],
            matched=method == "oracle",
        )
        return str(decide(evidence).verdict)


def main() -> None:
    """Print the share of verdicts on each kind of network, by the number of oracles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("forget", type=int)
    parser.add_argument("--images", type=int, default=1000, help="test images of each class")
    parser.add_argument("--draws", type=int, default=100, help="judgements of each kind")
    words = parser.parse_args()
    world = world_of(words.folder, words.forget, words.images)
    trials = Trials(world, words.folder / f"measured_{words.images}")
    kinds: dict[str, list[str]] = {}
    for who in world.networks:
        kinds.setdefault(who.split()[0], []).append(who)
    sys.stdout.write("| oracles | network | n | verdicts |\n|---|---|---|---|\n")
    for oracles in (n for n in ORACLES if n < len(world.context.oracles)):
        for kind, names in kinds.items():
            judged = [trials.verdict(names[k % len(names)], oracles) for k in range(words.draws)]
            counts = Counter(judged).most_common()
            said = ", ".join(f"{verdict} {n / words.draws:.0%}" for verdict, n in counts)
            sys.stdout.write(f"| {oracles} | {kind} | {len(names)} | {said} |\n")


if __name__ == "__main__":
    main()
