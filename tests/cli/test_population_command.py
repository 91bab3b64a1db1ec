"""Methods judged by many of their runs, from folders as unlearn.py leaves them."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geniu_lightning.kit.file import Kit
from tests.commands import Command

Change = Callable[[nn.Module], None]
ENOUGH = 16


def shaken(seed: int) -> Change:
    """A change such as another training seed makes: a little of everything."""

    def change(network: nn.Module) -> None:
        draw = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(0.05 * parameter.std().nan_to_num(1.0) * noise)

    return change


def sunk(network: nn.Module) -> None:
    network.head.bias[0] = -100.0


def write(folder: Path, kit: Kit, method: str, seed: int, *changes: Change, **more: Any) -> None:
    """A finished run of a method that makes these changes to the kit's classifier."""
    network = copy.deepcopy(kit.classifier)
    with torch.no_grad():
        for change in changes:
            change(network)
    info = dataclasses.replace(kit.info, **{"generator": None, "forgotten": (0,)} | more)
    folder.mkdir(parents=True)
    Kit(network, info).save(folder / "unlearned.safetensors")
    trained = kit.info.settings | {"seed": seed}
    run = {"job": "unlearn", "forget": [0], "unlearner": {"name": method}, "trained": trained}
    document = {"run": run, "cost": {"seconds": 1.0}, "metrics": {}}
    (folder / "metrics.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen oracles, and three methods with as many runs each."""
    folder = tmp_path_factory.mktemp("many runs")
    kit = Kit.load(trained / "kit.safetensors")
    for seed in range(ENOUGH):
        for number, (method, changes) in enumerate(
            {"retrain": (sunk,), "same": (sunk,), "other": (), "few": (sunk,)}.items()
        ):
            if method == "few" and seed == 0:
                continue
            shake = shaken(1000 * number + seed)
            write(folder / f"{method}-{seed}", kit, method, seed, shake, *changes)
    return folder


def judged(out: Path) -> dict[str, Any]:
    (entry,) = json.loads((out / "group.json").read_text())["settings"]
    found: dict[str, Any] = entry
    return found


def test_methods_are_told_from_retraining_or_not(
    runs: Path, tmp_path: Path, command: Command
) -> None:
    outcome = command("evaluate", f"group=[{runs}]", f"out={tmp_path}", "trainer.threads=1")
    assert outcome.status == 0, outcome.err
    entry = judged(tmp_path)
    assert entry["forget"] == [0]
    assert entry["oracle_seeds"] == list(range(ENOUGH))
    values = {method: found["values"] for method, found in entry["methods"].items()}
    assert values.keys() == {"same", "other", "few"}
    # sixteen shaken copies of one model on either side are one law, drawn from rarely
    assert values["same"]["u_lira"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    assert values["other"]["u_lira"]["auc"]["value"] > 0.99
    assert values["other"]["u_lira"]["auc"]["ideal"] == 0.5
    # one logit alone is sunk: among the others the laws are the same
    assert values["other"]["u_lira_retained"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    assert values["same"]["rmia"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    klom = values["other"]["klom_gaussian"]
    assert klom["train_forget"]["mean"]["value"] != klom["test_forget"]["mean"]["value"]
    same, other = (
        values[method]["klom_gaussian"]["test_forget"]["mean"]["value"]
        for method in ("same", "other")
    )
    assert other > 100 * same
    assert "16 retrained" not in outcome.out
    absent = values["few"]["u_lira"]["auc"]["absent"]
    assert absent == "the group needs at least 16 unlearned models, there are 15"
    assert absent in outcome.out
    assert entry["methods"]["few"]["seeds"] == list(range(1, ENOUGH))


def test_order_and_nesting_of_folders_change_nothing(
    runs: Path, tmp_path: Path, command: Command
) -> None:
    some = [runs / f"{method}-{seed}" for seed in range(ENOUGH) for method in ("retrain", "same")]
    found = []
    for name, folders in (("a", some), ("b", some[::-1])):
        group = f"group=[{','.join(str(folder) for folder in folders)}]"
        outcome = command("evaluate", group, f"out={tmp_path / name}", "trainer.threads=1")
        assert outcome.status == 0, outcome.err
        found.append(judged(tmp_path / name))
    assert found[0] == found[1]


def test_results_are_not_overwritten(runs: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "group.json").write_text("mine")
    group = f"group=[{runs / 'few-1'},{runs / 'retrain-1'}]"
    outcome = command("evaluate", group, f"out={tmp_path}", "trainer.threads=1")
    assert (outcome.status, "holds results" in outcome.err) == (2, True)
    assert (tmp_path / "group.json").read_text() == "mine"
    outcome = command("evaluate", group, f"out={tmp_path}", "trainer.threads=1", "force=true")
    assert outcome.status == 0, outcome.err
    assert judged(tmp_path)["oracle_seeds"] == [1]


def test_what_cannot_be_compared_is_refused_in_a_sentence(
    runs: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    twice, foreign, empty = tmp_path / "twice", tmp_path / "foreign", tmp_path / "empty"
    empty.mkdir()
    for name in ("a", "b"):
        write(twice / name, kit, "same", 1)
    write(foreign / "a", kit, "same", 1, data_fingerprint="0" * 64)
    redrawn = kit.info.settings["imbalance"] | {"seed": 7}
    spec = dataclasses.replace(kit.info.spec, mean=(0.25,))
    write(tmp_path / "redrawn", kit, "same", 1, settings=kit.info.settings | {"imbalance": redrawn})
    write(tmp_path / "rescaled", kit, "same", 1, spec=spec)
    write(tmp_path / "another", kit, "same", 1, forgotten=(1,))
    longer = kit.info.settings | {"training": kit.info.settings["training"] | {"epochs": 99}}
    write(tmp_path / "longer", kit, "same", 1, settings=longer)
    oracle = runs / "retrain-1"
    for folders, said in (
        ((empty,), "no finished unlearning run"),
        ((tmp_path / "nowhere",), "there is no folder"),
        ((runs / "same-1",), "no run of unlearner=retrain"),
        ((twice, oracle), "kits of the same training seed"),
        ((oracle,), "nothing but unlearner=retrain"),
        ((oracle, foreign), "cannot be compared with"),
        ((foreign, oracle), "differ in the data set"),
        ((oracle, tmp_path / "redrawn"), "differ in the training images (imbalance)"),
        ((oracle, tmp_path / "rescaled"), "differ in its normalisation"),
        ((oracle, tmp_path / "another"), "differ in the forgotten classes"),
        ((oracle, tmp_path / "longer"), "differ in how the original was trained"),
    ):
        group = f"group=[{','.join(str(folder) for folder in folders)}]"
        outcome = command("evaluate", group, f"out={tmp_path / 'out'}", "trainer.threads=1")
        assert (outcome.status, said in outcome.err) == (2, True), (folders, outcome.err)
        assert not (tmp_path / "out" / "group.json").exists()


def test_runs_without_weights_are_left_out_and_counted(
    runs: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    write(tmp_path / "gone", kit, "same", 3)
    (tmp_path / "gone" / "unlearned.safetensors").unlink()
    group = f"group=[{tmp_path / 'gone'},{runs / 'same-1'},{runs / 'retrain-1'}]"
    outcome = command("evaluate", group, f"out={tmp_path / 'out'}", "trainer.threads=1")
    assert outcome.status == 0, outcome.err
    assert "1 of 3 runs are left out" in outcome.out
    assert judged(tmp_path / "out")["methods"]["same"]["seeds"] == [1]
