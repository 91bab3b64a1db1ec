"""Mutated kits: each one loads or is refused in one sentence, quickly and in little memory."""

import json
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import forgotten, kit_metadata
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.kit.networks import tensor_digest
from tests.kit.small_kits import make_kit, with_archive, with_distribution

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 2**31, 10**12, 10**400, 0.0, 0.5, -1.5, 1e300),
    *(float("nan"), float("inf"), "", "x", "0", "\x1b[31m", "a\nb", "[red]", "<b>", "../x", "/etc"),
    *("${oc.env:HOME}", "${kits:/}", "${upto:1000000000}", "é", "\u202e", "x" * 100_000),
    *([], [[]], ["1"], [0] * 100_000, {}, {"_target_": "os.system", "command": "false"}),
    *({"a": {"b": {"c": [{}]}}}, "geniu_lightning.models.vae.VAE", "os.system", "torch.nn.Linear"),
)


RECORDED = {
    "data": {
        "name": "digits",
        "root": None,
        "source": {"_target_": "geniu_lightning.data.sources.Digits", "_partial_": True},
        "pad": 2,
        "flip": False,
        "validation": 0.1,
    },
    "imbalance": {
        "_target_": "geniu_lightning.data.imbalance.step",
        "_partial_": True,
        "majority": [0],
        "ratio": 0.3,
        "seed": 0,
    },
    "training": {"epochs": 2, "batch_size": 64, "optimizer": {"_target_": "torch.optim.Adam"}},
    "precision": "32-true",
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in nested mappings and lists; the whole has the empty one."""
    found = [path]
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        found += places(tree[key], (*path, key))
    return found


def mutated(description: Any, draw: random.Random) -> Any:
    """Return a copy with one value changed, lost, added or nested."""
    tree = json.loads(json.dumps(description))
    path = draw.choice(places(tree))
    if not path:
        return draw.choice(ODD)
    node = tree
    for part in path[:-1]:
        node = node[part]
    match draw.choice(("change", "change", "lose", "add", "nest", "scale")):
        case "lose":
            del node[path[-1]]
        case "add" if isinstance(node, dict):
            names = ("more", "_target_", "root", "a\x1b[31m", "x" * 10_000, "test")
            node[draw.choice(names)] = draw.choice(ODD)
        case "nest":
            for _ in range(draw.choice((1, 30, 300))):
                node[path[-1]] = [node[path[-1]]]
        case "scale" if isinstance(node[path[-1]], int):
            node[path[-1]] = node[path[-1]] * draw.choice((2, 100, 10_000)) + draw.choice((0, 1))
        case _:
            node[path[-1]] = draw.choice(ODD)
    return tree


def altered(tensors: dict[str, Tensor], draw: random.Random) -> dict[str, Tensor]:
    """Return tensors of which one has another type, form, value or name, or is lost."""
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    types = (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
    match draw.choice(("type", "form", "empty", "value", "name", "lose")):
        case "type":
            tensors[name] = tensor.to(draw.choice(types))
        case "form":
            tensors[name] = tensor.reshape(-1)[: draw.randrange(1, 9)].clone()
        case "empty":
            tensors[name] = tensor.new_empty(0)
        case "value":
            odd = (float("nan"), float("inf"), 3) if tensor.is_floating_point() else (-1, 3)
            tensors[name] = torch.full_like(tensor, draw.choice(odd))
        case "name":
            other = ("x", f"{name}.x", "prompts", "classifier.x", "classifier.\x1b[31m")
            tensors[draw.choice(other)] = tensor
    return tensors


def fuzzed(description: Any, tensors: dict[str, Tensor], draw: random.Random) -> bytes:
    """Return a file with a right checksum, and in a third of the cases damaged after that."""
    parts = dict(tensors)
    if draw.random() < 0.7:
        description = mutated(description, draw)
    else:
        parts = altered(parts, draw)
    text = json.dumps(description)
    if draw.random() < 0.01:
        text = draw.choice(("[" * 200_000, '{"a":' * 100_000, text[:-9], "\0", text + "}"))
    raw = bytearray(save(parts, {"geniu": text, "sha256": tensor_digest(parts, text)}))
    if draw.random() < 0.3:
        for _ in range(draw.choice((1, 9))):
            raw[draw.choice((draw.randrange(len(raw)), draw.randrange(300)))] ^= draw.randrange(256)
        del raw[draw.choice((len(raw), draw.randrange(len(raw)))) :]
    return bytes(raw)


def refused(error: UserError) -> str:
    sentence = str(error)
    assert sentence.isprintable(), sentence[:300]
    assert len(sentence) < 2000, sentence[:300]
    return "refused"


def use(path: Path) -> str:
    """Do with a kit what unlearning does before its first step; return how it went."""
    try:
        info = KitInfo.from_json(kit_metadata(path)["geniu"])
        forgotten([0], info)
        kit = Kit.load(path)
        if kit.prompts is not None:
            assert kit.proxies().images.shape[1:] == (info.spec.channels, *[info.spec.size] * 2)
        if kit.archive:
            kit.archived([*kit.archive])
        if kit.distribution is not None:
            labels = torch.tensor([*kit.distribution.mixtures])
            drawn = kit.distribution.draw(labels, torch.Generator())
            assert drawn.shape[1:] == (info.spec.channels, *[info.spec.size] * 2)
    except UserError as error:
        return refused(error)
    try:
        recorded_data(kit.info)
    except UserError as error:
        refused(error)
        return "loaded, without data"
    return "loaded"


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_each_one_loads_or_is_refused(
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "cache"))
    original, path = tmp_path / "kit.safetensors", tmp_path / "fuzzed.safetensors"
    with_distribution(with_archive(make_kit(), format="jpeg")).save(original)
    with safe_open(original, framework="pt") as file:
        description = json.loads(file.metadata()["geniu"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description["settings"] |= RECORDED
    ends: Counter[str] = Counter()
    slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for k in range(count):
        path.write_bytes(fuzzed(description, tensors, random.Random(k)))
        start = time.process_time()
        try:
            ends[use(path)] += 1
        except Exception as error:
            pytest.fail(f"kit {k}: {error!r}")
        slowest = max(slowest, time.process_time() - start)
    assert ends["refused"] > count / 3
    assert ends["loaded"] + ends["loaded, without data"] > count / 20
    assert slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kilobytes
    record_property("ends", f"{dict(ends)}, slowest {slowest:.2f} s")
