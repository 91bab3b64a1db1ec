"""Commands with a bank of oracles: filled, compared with, completed."""

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from geniu_lightning.cli import oracle_run
from geniu_lightning.cli.oracles import expected_nulls, oracle_bank
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import Context
from geniu_lightning.evaluation.evaluator import Evaluation, Evaluator
from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.oracles import RECIPE
from geniu_lightning.unlearning.retrain import Retrain
from tests.commands import TINY, Command, same_tensors

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


def test_to_a_kit_with_other_contents_belong_oracles_with_these(
    command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "kit"
    words = (*TINY, "training.epochs=1", "kit=[archive,distribution]", "archive.format=dct")
    small = ("distribution.min_steps=5", "distribution.width=8", "evaluation=none")
    assert command("train", *words, *small, f"out={folder}").status == 0
    request = (f"kit={folder}", "forget=[0]", f"oracles.folder={tmp_path / 'bank'}", *QUICK)
    assert command("unlearn", *request, "oracles.add=1").status == 0
    (oracle,) = map(Kit.load, (tmp_path / "bank").glob("*/1000/kit.safetensors"))
    original = Kit.load(folder / "kit.safetensors")
    assert oracle.archive.keys() == {*range(1, 10)}
    assert oracle.distribution is not None
    assert original.distribution is not None
    assert oracle.distribution.mixtures.keys() == {*range(1, 10)}
    decoders = (kit.distribution.decoder.state_dict() for kit in (oracle, original))
    assert not all(map(torch.equal, *(d.values() for d in decoders)))
    assert all(torch.equal(oracle.archive[k], original.archive[k]) for k in oracle.archive)
    rebuild = ("unlearner=rebuild", "evaluation=accuracy", "evaluation.bank=use")
    ended = command(
        "unlearn", *request, *rebuild, "evaluation.nulls=true", f"out={tmp_path / 'rebuilt'}"
    )
    assert ended.status == 0, ended.err
    document = metrics_of(tmp_path / "rebuilt")
    assert (document["oracles"], document["nulls"]) == ([1000], 1)
    images = sum(original.info.class_counts[1:])
    assert document["cost"]["archived_images_read"] == images
    assert f"0 training images read, and {images} of the kit's archive" in ended.out
    page = (tmp_path / "rebuilt" / "receipt.md").read_text()
    assert "No training image but those in the kit" in page
    assert f"of its archive {images} training images, all of kept classes" in page


def test_an_oracle_reads_no_image_of_the_class_and_is_what_retraining_makes(
    trained: Path, bank: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    read = ImageData.read

    def noted(self: ImageData, which: str, indices: Tensor, *more: Any) -> Tensor:
        seen.extend(self.all_labels[indices].tolist())
        return read(self, which, indices, *more)

    monkeypatch.setattr(ImageData, "read", noted)
    monkeypatch.setattr(oracle_run, "store_outputs", lambda *_: None)  # of test images, and all
    common = (f"kit={trained}", "forget=[0]", "trainer.threads=1")
    outcome = command("unlearn", *common, "oracles.add=1", f"oracles.folder={tmp_path / 'own'}")
    assert outcome.status == 0, outcome.err
    assert set(seen) == set(range(1, 10))
    (own,), (shared,) = (tmp_path / "own").iterdir(), bank.iterdir()
    oracle = own / "1000" / "kit.safetensors"
    assert own.name == shared.name
    assert same_tensors(oracle, shared / "1000" / "kit.safetensors")
    words = ("unlearner=retrain", "unlearner.training_seed=1000", f"out={tmp_path / 'run'}")
    matched: list[bool] = []
    evaluate = Evaluator.evaluate

    def judged(self: Evaluator, context: Context) -> Evaluation:
        matched.append(context.matched)
        return evaluate(self, context)

    monkeypatch.setattr(Evaluator, "evaluate", judged)
    compared = ("evaluation=accuracy", "evaluation.bank=use", f"oracles.folder={tmp_path / 'own'}")
    assert command("unlearn", *common, *words, *compared).status == 0
    assert command("evaluate", *common, *compared, f"weights={tmp_path / 'run'}").status == 0
    assert matched == [True, True]  # so that oracles are its nulls
    ours, theirs = Kit.load(oracle), Kit.load(tmp_path / "run" / "unlearned.safetensors")
    for name, value in theirs.classifier.state_dict().items():
        assert_close(ours.classifier.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_null_runs_are_done_once_and_compared_with(
    trained: Path, bank: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "bank"
    shutil.copytree(bank, own)
    judged: list[list[tuple[float, ...]]] = []
    evaluate = Evaluator.evaluate

    def noted(self: Evaluator, context: Context) -> Evaluation:
        assert not context.matched
        judged.append([tuple(net.head.bias.tolist()) for net in context.nulls])
        return evaluate(self, context)

    monkeypatch.setattr(Evaluator, "evaluate", noted)
    common = (f"kit={trained}", "forget=[0]", f"oracles.folder={own}", *QUICK)
    compared = ("evaluation=accuracy", "evaluation.bank=use", "evaluation.nulls=true")
    words = (*common, *compared, "unlearner=geniu", "unlearner.steps=5", "next_kit=false")
    for out, number, said in (
        ("a", 0, ""),
        ("a", 2, "running geniu on 2 of 3 oracles"),
        ("b", 3, ""),
    ):
        run = (f"out={tmp_path / out}", f"oracles.nulls={number}")
        outcome = command("unlearn", *words, *run)
        assert outcome.status == 0, outcome.err
        assert said in outcome.out
        assert f"35 test images, 3 oracles, {number} null runs" in outcome.out
        assert metrics_of(tmp_path / out)["nulls"] == len(judged[-1]) == number
    assert "running geniu on 1 of 3 oracles" in outcome.out  # the others are there
    assert len(set(judged[-1])) == 3
    assert judged[-1][:2] == judged[-2]
    ours = metrics_of(tmp_path / "b")
    assert ours["metrics"]["accuracy"]["test"]["forget"]["value"] is not None

    files = sorted(str(file) for file in own.glob("*/nulls/*/*.safetensors"))
    weights = f"weights={tmp_path / 'b'}"
    outcome = command("evaluate", *common, *compared, weights, f"nulls={files[1:]}")
    assert outcome.status == 0, outcome.err
    assert judged[-1] == judged[-2][1:]
    alone = command("evaluate", *common, "evaluation=fast", weights, f"nulls={files}")
    assert (alone.status, "compares with none" in alone.err) == (2, True)


def test_the_number_of_null_runs_follows_the_settings_and_retraining_has_none(
    trained: Path, bank: Path
) -> None:
    info = Kit.load(trained / "kit.safetensors").info
    for nulls, wanted, method, expected in (
        (True, None, "Geniu", 3), (True, 2, "Geniu", 2), (True, 9, "Geniu", 3),
        (True, 0, "Geniu", 0), (False, None, "Geniu", 0), (True, None, "Retrain", 0),
    ):  # fmt: skip
        target = f"geniu_lightning.unlearning.{method.lower()}.{method}"
        config = OmegaConf.create(
            {
                "evaluation": {"nulls": nulls, "bank": "use"},
                "oracles": {"nulls": wanted, "folder": str(bank), "count": 3},
                "unlearner": {"_target_": target},
                "trainer": {"devices": 1, "num_nodes": 1},
            }
        )
        assert expected_nulls(config, oracle_bank(config, info, (0,))) == expected
    assert expected_nulls(config, None) == 0
    config.trainer.devices, config.unlearner._target_ = 2, "another"
    config.evaluation.nulls, config.oracles.nulls = True, None
    with pytest.raises(UserError, match=r"set oracles\.nulls=0"):
        expected_nulls(config, oracle_bank(config, info, (0,)))


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
    assert (alone["version"], alone["verdict"], alone["oracles"]) == (3, None, [])
    assert "no oracles" in alone["verdict_reason"]
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
        for part in ("metrics", "verdict", "verdict_reason", "findings", "controls", "attacks"):
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
