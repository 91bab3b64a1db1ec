"""The bank of oracles, and the judging of weights with it."""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import save_file

from geniu_lightning.cli.assess import controls_of
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import description_of, kit_metadata
from geniu_lightning.runs import oracles
from geniu_lightning.runs.oracles import Bank
from geniu_lightning.settings.configs import CONF
from geniu_lightning.unlearning.retrain import Retrain
from tests.commands import Command

QUICK = ("trainer.threads=1", "oracles.count=3")


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def config(*arguments: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("unlearn", list(arguments))


def bank_of(kit: dict[str, Any], forget: tuple[int, ...] = (0,), *arguments: str) -> Bank:
    return Bank(config(*arguments), kit, forget)


# ---- what a bank is named by -------------------------------------------------------------------


def test_what_oracles_follow_from_makes_another_bank_and_nothing_else_does(trained: Path) -> None:
    def kit() -> dict[str, Any]:
        return description_of(kit_metadata(trained / "kit.safetensors"))

    first = bank_of(kit())
    for path, value in (
        (("seed",), 7),
        (("settings", "data", "root"), "/elsewhere"),
        (("settings", "training", "generator_weight"), 9.0),
        (("revision",), "another"),
    ):
        same = kit()
        node = same
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        assert bank_of(same).folder == first.folder, path
    for path, value in (
        (("data_fingerprint",), "0" * 64),
        (("settings", "imbalance", "ratio"), 0.7),
        (("settings", "imbalance", "seed"), 5),
        (("settings", "data", "pad"), 9),
        (("settings", "training", "epochs"), 77),
        (("settings", "training", "batch_size"), 7),
        (("settings", "training", "optimizer", "lr"), 0.7),
        (("settings", "precision"), "bf16-mixed"),
        (("classifier", "arguments", "width"), 77),
    ):
        other = kit()
        node = other
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        assert bank_of(other).folder != first.folder, path
    assert bank_of(kit(), (1,)).folder != first.folder
    assert bank_of(kit(), (0, 3)).folder == bank_of(kit(), (3, 0)).folder


def test_the_recipe_is_all_that_retraining_reads_of_the_kit(trained: Path) -> None:
    class Read(dict[str, Any]):
        names: ClassVar[set[str]] = set()

        def __getitem__(self, name: str) -> Any:
            self.names.add(name)
            return super().__getitem__(name)

    kit = Kit.load(trained / "kit.safetensors")
    kit.info.settings["training"] = Read(kit.info.settings["training"])
    three_batches = [None] * 3  # only their number is asked
    Retrain(forget=(0,)).follow_recipe(kit, lambda batch_size: three_batches)
    assert Read.names == set(oracles.RECIPE)


def test_a_kit_that_does_not_say_how_it_was_trained_is_refused(trained: Path) -> None:
    kit = description_of(kit_metadata(trained / "kit.safetensors"))
    del kit["settings"]["training"]
    with pytest.raises(UserError, match="does not say how it was trained: no 'training'"):
        bank_of(kit)
    for count in (0, -1):
        with pytest.raises(UserError, match=r"oracles\.count must be at least 1"):
            bank_of(kit, (0,), f"oracles.count={count}")


# ---- filling it ------------------------------------------------------------------------------


def test_oracles_are_retrained_models_of_seeds_of_their_own(trained: Path, bank: Path) -> None:
    (folder,) = bank.iterdir()
    *found, outputs = sorted(path.name for path in folder.iterdir())
    assert (found, outputs) == (["1000", "1001", "1002"], "outputs")
    # what every evaluation asks of them is known before the first
    kept = [path.stem.rpartition("-")[2] for path in (folder / "outputs").iterdir()]
    assert sorted(kept) == ["test"] * 3 + ["train"] * 3
    weights = [Kit.load(folder / name / "unlearned.safetensors") for name in found]
    biases = [tuple(kit.classifier.head.bias.tolist()) for kit in weights]
    assert len(set(biases)) == 3
    assert all(kit.info.forgotten == (0,) for kit in weights)
    assert metrics_of(folder / "1000")["cost"]["access"] == "retain data"


def test_what_is_there_is_not_trained_again(trained: Path, bank: Path, command: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in bank.rglob("unlearned.safetensors")}
    outcome = command(
        *("unlearn", "sweep=oracles", f"kit={trained}", "forget=[0]"),
        *(f"oracles.folder={bank}", "oracles.count=3", *QUICK),
    )
    assert outcome.status == 0
    assert outcome.out.count("already done") == 3
    assert {p: p.stat().st_mtime_ns for p in bank.rglob("unlearned.safetensors")} == before


def test_the_report_takes_no_oracle_for_a_run(bank: Path, command: Command) -> None:
    from geniu_lightning.report.runs import find

    with pytest.raises(UserError, match="no finished unlearning run"):
        find([bank])


# ---- judging with it -------------------------------------------------------------------------


def test_controls_are_the_original_and_a_mask_of_it(trained: Path) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    before = kit.classifier.head.bias.clone()
    controls = controls_of(kit, (2, 5))
    assert controls.keys() == {"original", "mask"}
    assert controls["original"] is kit.classifier
    assert torch.equal(kit.classifier.head.bias, before)
    mask = controls["mask"].state_dict()
    assert mask["head.bias"][[2, 5]].tolist() == [-1e4, -1e4]
    mask["head.bias"][[2, 5]] = before[[2, 5]]
    assert all(mask[k].equal(v) for k, v in kit.classifier.state_dict().items())


def test_fast_asks_for_oracles_and_judges_anew_when_they_are_there(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    own, out = tmp_path / "own bank", tmp_path / "run"
    arguments = (f"kit={trained}", "forget=[0]", "unlearner=logit_mask", f"out={out}", *QUICK)
    outcome = command("unlearn", *arguments, f"oracles.folder={own}")
    assert outcome.status == 0, outcome.err
    assert "0 of 3 oracles are there" in outcome.out
    assert "sweep=oracles" in outcome.out
    alone = metrics_of(out)
    assert alone["word"] is None
    assert "no oracles" in alone["word_reason"]
    assert alone["oracles"] == []
    weights = (out / "unlearned.safetensors").stat().st_mtime_ns

    shutil.copytree(bank, own)
    outcome = command("unlearn", *arguments, f"oracles.folder={own}")
    assert outcome.status == 0, outcome.err
    assert "anew" in outcome.out
    judged = metrics_of(out)
    assert judged["oracles"] == [1000, 1001, 1002]
    assert judged["word"] is not None
    assert judged["controls"].keys() == {"original", "mask"}
    assert sum(judged["oracle_words"].values()) == 3
    assert judged["cost"]["seconds"] == alone["cost"]["seconds"]
    assert judged["cost"]["retrain_seconds"] > 0
    assert (out / "unlearned.safetensors").stat().st_mtime_ns == weights
    entry = judged["metrics"]["accuracy"]["test"]["forget"]
    assert entry["oracle_std"] is not None
    assert entry["original"] is not None
    transplanted = judged["metrics"]["head"]["transplant"]
    assert transplanted["value"] == transplanted["original"]  # the mask's body is the original's

    outcome = command("unlearn", *arguments, f"oracles.folder={own}")
    assert "already done" in outcome.out


def test_the_same_weights_get_the_same_numbers_whoever_brings_them(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    """From a run, from its folder, as a plain state dict; remembered and measured anew."""
    run = tmp_path / "run"
    common = (f"kit={trained}", *QUICK)
    with_bank = f"oracles.folder={bank}"
    # a plain state dict has no kit beside it but the one that is named
    arguments = ("forget=[0]", "unlearner=geniu", f"out={run}", with_bank, "next_kit=false")
    assert command("unlearn", *common, *arguments).status == 0
    kit = Kit.load(run / "unlearned.safetensors")
    plain = tmp_path / "from elsewhere.safetensors"
    save_file(kit.classifier.state_dict(), plain)
    forgetful = tmp_path / "bank without memory"
    shutil.copytree(bank, forgetful, ignore=shutil.ignore_patterns("measured", "outputs"))
    for name, more in {
        "folder": (f"weights={run}", with_bank),
        "file": (f"weights={run / 'unlearned.safetensors'}", with_bank),
        "state": (f"weights={plain}", "forget=[0]", with_bank),
        "anew": (f"weights={plain}", "forget=[0]", f"oracles.folder={forgetful}"),
    }.items():
        out = tmp_path / name
        outcome = command("evaluate", *common, *more, "evaluation=fast", f"out={out}")
        assert outcome.status == 0, outcome.err
        found, expected = metrics_of(out), metrics_of(run)
        for part in ("metrics", "word", "word_reason", "deciding", "controls", "oracle_words"):
            assert found[part] == expected[part], (name, part)
    assert metrics_of(tmp_path / "folder")["run"]["unlearner"]["name"] == "geniu"
    assert metrics_of(tmp_path / "state")["run"]["job"] == "evaluate"


def test_build_trains_what_is_missing(
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
    assert outcome.out.count("training the oracle") == 1
    assert metrics_of(tmp_path / "run")["oracles"] == [1000, 1001, 1002]
    again, first = (
        Kit.load(folder / problem.name / "1001" / "unlearned.safetensors").classifier.state_dict()
        for folder in (own, bank)
    )
    assert all(again[name].equal(first[name]) for name in first)


# ---- what is refused -------------------------------------------------------------------------


def test_an_evaluation_that_cannot_be_is_refused_in_a_sentence(
    trained: Path, bank: Path, tmp_path: Path, command: Command
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    foreign = tmp_path / "foreign.safetensors"
    state = Kit.load(trained / "kit.safetensors").classifier.state_dict()
    state.pop("head.bias")
    save_file(state, foreign)
    kit = f"kit={trained}"
    weights = trained / "kit.safetensors"
    for arguments, said in (
        ((), "name what to judge and its kit"),
        ((kit,), "name what to judge and its kit"),
        ((kit, f"weights={tmp_path / 'none'}"), "there are no weights at"),
        ((kit, f"weights={tmp_path}"), "there are no weights at"),
        ((kit, f"weights={broken}"), "do not say what they forgot"),
        ((kit, f"weights={broken}", "forget=[0]"), "is truncated, or neither"),
        ((kit, f"weights={foreign}", "forget=[0]"), "does not fit"),
        ((kit, f"weights={weights}"), "say what to forget"),
        ((kit, f"weights={weights}", "forget=[11]"), "11"),
        ((kit, f"weights={weights}", "forget=[0]", f"out={trained}"), "the folder of the weights"),
        ((kit, f"weights={weights}", "forget=[0]", "evaluation=none"), "nothing was measured"),
        (("group=[nowhere]",), "out=FOLDER"),
    ):
        outcome = command("evaluate", *arguments, f"oracles.folder={bank}", "trainer.threads=1")
        assert (outcome.status, said in outcome.err) == (2, True), (arguments, outcome.err)
        assert "Traceback" not in outcome.err


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
    assert "left to the other" in outcome.out
    assert not (own / problem.name / "1000" / "done.json").exists()
    assert (own / problem.name / "1001" / "done.json").exists()


def test_several_processes_are_told_to_train_oracles_before(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    outcome = command(
        *("unlearn", f"kit={trained}", "forget=[0]", "evaluation=full", f"out={tmp_path / 'run'}"),
        *(f"oracles.folder={tmp_path / 'bank'}", "trainer=ddp", "trainer.devices=2"),
    )
    assert (outcome.status, "sweep=oracles" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_bank_setting_that_is_none_is_refused(trained: Path, command: Command) -> None:
    outcome = command("unlearn", f"kit={trained}", "forget=[0]", "evaluation.bank=maybe")
    assert (outcome.status, "use, build or null" in outcome.err) == (2, True)
