"""Methods evaluated by populations of runs, from folders as `geniu unlearn` leaves them."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from geniu_lightning.cli.population import compare
from geniu_lightning.errors import UserError
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
    run["evaluation"] = {"metrics": {}}
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


def settings_of(out: Path) -> dict[str, Any]:
    (entry,) = json.loads((out / "population.json").read_text())["settings"]
    found: dict[str, Any] = entry
    return found


def test_methods_are_told_from_retraining_or_not(
    runs: Path, tmp_path: Path, command: Command
) -> None:
    outcome = command("evaluate", f"population=[{runs}]", f"out={tmp_path}", "trainer.threads=1")
    assert outcome.status == 0, outcome.err
    entry = settings_of(tmp_path)
    assert entry["forget"] == [0]
    assert entry["oracle_seeds"] == list(range(ENOUGH))
    values = {method: found["values"] for method, found in entry["methods"].items()}
    assert values.keys() == {"same", "other", "few"}
    # sixteen shaken copies of one model on either side are one law, drawn from rarely
    assert values["same"]["u_lira"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    assert values["same"]["rmia"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    assert values["other"]["u_lira"]["auc"]["value"] > 0.99
    assert values["other"]["u_lira"]["auc"]["ideal"] == 0.5
    # one logit alone is sunk: among the others the laws are the same
    assert values["other"]["u_lira_retained"]["auc"]["value"] == pytest.approx(0.5, abs=0.2)
    same, other = (
        values[method]["klom_gaussian"]["test_forget"]["mean"]["value"]
        for method in ("same", "other")
    )
    assert other > 100 * same
    absent = values["few"]["u_lira"]["auc"]["absent"]
    assert absent == "at least 16 unlearned models are needed, there are 15"
    assert absent in outcome.out
    assert entry["methods"]["few"]["seeds"] == list(range(1, ENOUGH))


def test_results_are_kept_unless_forced_and_runs_without_weights_are_left_out(
    runs: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    write(tmp_path / "bare", kit, "same", 3)
    (tmp_path / "bare" / "unlearned.safetensors").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / "population.json").write_text("mine")
    folders = (tmp_path / "bare", runs / "same-1", runs / "retrain-1")
    arguments = (f"population=[{','.join(map(str, folders))}]", f"out={out}", "trainer.threads=1")
    outcome = command("evaluate", *arguments)
    assert (outcome.status, "holds results" in outcome.err) == (2, True)
    assert (out / "population.json").read_text() == "mine"
    outcome = command("evaluate", *arguments, "force=true")
    assert outcome.status == 0, outcome.err
    assert "1 of 3 runs are left out" in outcome.out
    found = settings_of(out)
    assert (found["oracle_seeds"], found["methods"]["same"]["seeds"]) == ([1], [1])


def test_what_cannot_be_compared_is_refused_in_a_sentence(
    runs: Path, trained: Path, tmp_path: Path
) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    (tmp_path / "empty").mkdir()
    for name in ("a", "b"):
        write(tmp_path / "twice" / name, kit, "same", 1)
    redrawn = kit.info.settings["imbalance"] | {"seed": 7}
    longer = kit.info.settings["training"] | {"epochs": 99}
    for name, changes in {
        "foreign": {"data_fingerprint": "0" * 64},
        "redrawn": {"settings": kit.info.settings | {"imbalance": redrawn}},
        "rescaled": {"spec": dataclasses.replace(kit.info.spec, mean=(0.25,))},
        "another": {"forgotten": (1,)},
        "longer": {"settings": kit.info.settings | {"training": longer}},
    }.items():
        write(tmp_path / name, kit, "same", 1, **changes)
    oracle, config = runs / "retrain-1", OmegaConf.create({"force": False})
    for folders, said in (
        ((tmp_path / "empty",), "no finished unlearning run"),
        ((tmp_path / "nowhere",), "there is no folder"),
        ((runs / "same-1",), "no run of unlearner=retrain"),
        ((tmp_path / "twice", oracle), "kits of the same training seed"),
        ((oracle,), "nothing but unlearner=retrain"),
        ((oracle, tmp_path / "foreign"), "cannot be compared with"),
        ((tmp_path / "foreign", oracle), "differ in the data set"),
        ((oracle, tmp_path / "redrawn"), "differ in the training images (imbalance)"),
        ((oracle, tmp_path / "rescaled"), "differ in its normalisation"),
        ((oracle, tmp_path / "another"), "differ in the forgotten classes"),
        ((oracle, tmp_path / "longer"), "differ in how the original was trained"),
    ):
        with pytest.raises(UserError) as error:
            compare(config, folders, tmp_path / "out")
        assert said in str(error.value), folders
    assert not (tmp_path / "out").exists()
