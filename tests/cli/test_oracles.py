"""Commands with a bank of oracles: filled, compared with, completed."""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from safetensors.torch import save_file

from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.oracles import RECIPE
from geniu_lightning.unlearning.retrain import Retrain
from tests.commands import Command, same_tensors

QUICK = ("trainer.threads=1", "oracles.count=3")


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_the_recipe_is_all_that_retraining_reads_of_the_kit(trained: Path) -> None:
    class Read(dict[str, Any]):
        names: ClassVar[set[str]] = set()

        def __getitem__(self, name: str) -> Any:
            self.names.add(name)
            return super().__getitem__(name)

    kit = Kit.load(trained / "kit.safetensors")
    kit.info.settings["training"] = Read(kit.info.settings["training"])
    Retrain(forget=(0,)).follow_recipe(kit, lambda batch_size: [None] * 3)
    assert Read.names == set(RECIPE)


def test_oracles_are_retrained_models_of_seeds_of_their_own(
    trained: Path, bank: Path, command: Command
) -> None:
    (folder,) = bank.iterdir()
    *found, outputs = sorted(path.name for path in folder.iterdir())
    assert (found, outputs) == (["1000", "1001", "1002"], "outputs")
    stored = [path.stem.rpartition("-")[2] for path in (folder / "outputs").iterdir()]
    assert sorted(stored) == ["test"] * 3 + ["train"] * 3
    kits = [Kit.load(folder / name / "kit.safetensors") for name in found]
    assert len({tuple(kit.classifier.head.bias.tolist()) for kit in kits}) == 3
    original = Kit.load(trained / "kit.safetensors")
    for kit in kits:
        assert kit.info.forgotten == (0,)
        assert kit.info.class_counts == original.info.class_counts
        assert kit.prompts is not None
        assert kit.prompts.shape[:2] == (9, 2)
    assert not (folder / "1000" / "checkpoints").exists()
    outcome = command(
        *("unlearn", "sweep=oracles", f"kit={trained}", "forget=[0]"),
        *(f"oracles.folder={bank}", *QUICK),
    )
    assert outcome.status == 0
    assert metrics_of(folder / "1002")["cost"]["seconds"] > 0


def test_an_evaluation_asks_for_oracles_and_is_repeated_when_they_exist(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    own, out = tmp_path / "own bank", tmp_path / "run"
    arguments = (f"kit={trained}", "forget=[0]", "unlearner=logit_mask", f"out={out}", *QUICK)
    few = (*arguments, f"oracles.folder={own}", "~evaluation.metrics.retained_attack")
    outcome = command("unlearn", *few)
    assert outcome.status == 0, outcome.err
    assert "0 of 3 oracles exist" in outcome.out
    assert "sweep=oracles" in outcome.out
    alone = metrics_of(out)
    assert (alone["version"], alone["verdict"], alone["oracles"]) == (2, None, [])
    assert "no oracles" in alone["reason"]
    weights = (out / "unlearned.safetensors").stat().st_mtime_ns

    shutil.copytree(bank, own)
    outcome = command("unlearn", *few)
    assert outcome.status == 0, outcome.err
    found = metrics_of(out)
    assert found["oracles"] == [1000, 1001, 1002]
    assert found["verdict"] is not None
    assert found["controls"].keys() == {"original", "mask"}
    assert sum(found["oracle_verdicts"].values()) == 3
    assert found["cost"]["seconds"] == alone["cost"]["seconds"]
    assert found["cost"]["retrain_seconds"] > 0
    assert (out / "unlearned.safetensors").stat().st_mtime_ns == weights
    entry = found["metrics"]["accuracy"]["test"]["forget"]
    assert entry["oracle_std"] is not None
    assert entry["original"] is not None
    transplanted = found["metrics"]["head"]["transplant"]
    assert transplanted["value"] == transplanted["original"]  # the mask's body is the original's
    before = (out / "metrics.json").stat().st_mtime_ns
    assert command("unlearn", *few).status == 0  # done
    assert (out / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_same_weights_get_the_same_numbers_whoever_brings_them(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    """From a run, from its folder, as a plain state dict; from the cache and measured anew."""
    run = tmp_path / "run"
    common = (f"kit={trained}", *QUICK)
    with_bank = f"oracles.folder={bank}"
    # a plain state dict comes with no kit but the one that is named
    arguments = ("forget=[0]", "unlearner=geniu", f"out={run}", with_bank, "next_kit=false")
    assert command("unlearn", *common, *arguments).status == 0
    kit = Kit.load(run / "unlearned.safetensors")
    plain = tmp_path / "from elsewhere.safetensors"
    save_file(kit.classifier.state_dict(), plain)
    bare = tmp_path / "bank without cache"
    shutil.copytree(bank, bare, ignore=shutil.ignore_patterns("measured", "outputs"))
    for name, more in {
        "folder": (f"weights={run}", with_bank),
        "file": (f"weights={run / 'unlearned.safetensors'}", with_bank),
        "state": (f"weights={plain}", "forget=[0]", with_bank),
        "anew": (f"weights={plain}", "forget=[0]", f"oracles.folder={bare}"),
    }.items():
        out = tmp_path / name
        outcome = command("evaluate", *common, *more, "evaluation=fast", f"out={out}")
        assert outcome.status == 0, outcome.err
        found, expected = metrics_of(out), metrics_of(run)
        for part in ("metrics", "verdict", "reason", "deciding", "controls", "oracle_verdicts"):
            assert found[part] == expected[part], (name, part)
    assert metrics_of(tmp_path / "folder")["run"]["unlearner"]["name"] == "geniu"
    assert metrics_of(tmp_path / "state")["run"]["job"] == "evaluate"


@pytest.mark.slow
def test_build_trains_the_missing_oracles_and_nothing_else(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    own = tmp_path / "bank"
    shutil.copytree(bank, own)
    (problem,) = own.iterdir()
    shutil.rmtree(problem / "1001")
    outcome = command(
        *("unlearn", f"kit={trained}", "forget=[0]", "unlearner=none", f"out={tmp_path / 'run'}"),
        *(f"oracles.folder={own}", "evaluation.bank=build", *QUICK),
        "evaluation.metrics={accuracy: {_target_: "
        "geniu_lightning.evaluation.metrics.accuracy.Accuracy}}",
    )
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("training the oracle of seed 1001") == 1
    assert metrics_of(tmp_path / "run")["oracles"] == [1000, 1001, 1002]
    again, first = (folder / problem.name / "1001" / "kit.safetensors" for folder in (own, bank))
    assert same_tensors(again, first)


@pytest.mark.slow
def test_two_sweeps_at_once_divide_the_oracles(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    own = tmp_path / "bank"
    (problem,) = bank.iterdir()
    (own / problem.name / "1000").mkdir(parents=True)
    with (own / problem.name / "1000" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the other process does while it trains
        outcome = command(
            *("unlearn", "-m", "sweep=oracles", f"kit={trained}", "forget=[0]"),
            *(f"oracles.folder={own}", "oracles.add=1,2", "trainer.threads=1"),
        )
    assert outcome.status == 0, outcome.err
    assert not (own / problem.name / "1000" / "done.json").exists()
    assert (own / problem.name / "1001" / "done.json").exists()
