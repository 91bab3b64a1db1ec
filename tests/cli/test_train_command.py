import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.seeds import generator
from tests.cli.conftest import TINY, Command, started_and_at_its_first_checkpoint


def test_a_run_leaves_kit_metrics_and_pictures(trained: Path) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    assert kit.prompts is not None
    assert kit.prompts.shape == (10, 2, 1, 28, 28)
    assert kit.info.class_counts[0] > 3 * kit.info.class_counts[1]  # the majority, ratio 0.3
    metrics = json.loads((trained / "metrics.json").read_text())
    entry = metrics["metrics"]["accuracy"]["test"]["retain"]
    assert set(entry) >= {"value", "direction", "ideal", "oracle_mean", "oracle_std", "z"}
    assert metrics["verdict"] is None
    assert metrics["reason"]
    for name in ("proxies.png", "confusion.png", "done.json"):
        assert (trained / name).stat().st_size > 0


def test_a_finished_run_is_not_done_again(command: Command, trained: Path) -> None:
    before = (trained / "kit.safetensors").stat().st_mtime_ns
    outcome = command("train", *TINY, "seed=1", f"out={trained}")
    assert outcome.status == 0
    assert "already done" in outcome.out
    assert (trained / "kit.safetensors").stat().st_mtime_ns == before


def test_a_folder_with_another_runs_results_is_refused(command: Command, trained: Path) -> None:
    outcome = command("train", *TINY, "seed=2", f"out={trained}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "holds another run, which differs in seed" in outcome.err


def test_force_does_it_anew_and_spares_what_is_not_ours(command: Command, tmp_path: Path) -> None:
    small = (*TINY, "generator=none", "training.epochs=1", "evaluation=none", f"out={tmp_path}")
    assert command("train", *small, "seed=1").status == 0
    (tmp_path / "notes.txt").write_text("mine")
    first = load_file(tmp_path / "kit.safetensors")
    assert command("train", *small, "seed=2", "force=true").status == 0
    second = load_file(tmp_path / "kit.safetensors")
    assert any(not torch.equal(first[k], second[k]) for k in first)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_killed_run_goes_on_to_the_same_bits(command: Command, tmp_path: Path) -> None:
    arguments = [
        *TINY,
        "training.epochs=12",
        "training.exemplar_strategy=nearest_mean",
        "data.pad=2",
        "evaluation=none",
    ]
    killed = tmp_path / "killed"
    process = started_and_at_its_first_checkpoint(killed, *arguments)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "kit.safetensors").exists()

    resumed = command("train", *arguments, f"out={killed}")
    assert resumed.status == 0
    assert "going on from" in resumed.out
    whole = tmp_path / "whole"
    assert command("train", *arguments, f"out={whole}").status == 0
    a, b = (load_file(folder / "kit.safetensors") for folder in (killed, whole))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_ctrl_c_ends_with_a_sentence_and_a_status_of_its_own(tmp_path: Path) -> None:
    process = started_and_at_its_first_checkpoint(
        tmp_path, *TINY, "training.epochs=500", "evaluation=none"
    )
    for _ in range(3):  # one was lost once, it is not known where: press again, as a person would
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in said
    assert "Traceback" not in said


def test_a_loss_that_is_no_number_stops_the_run(command: Command, tmp_path: Path) -> None:
    outcome = command("train", *TINY, "training.optimizer.lr=1e30", f"out={tmp_path}")
    assert outcome.status == 2
    assert "stopped being a finite number at step" in outcome.err
    assert not (tmp_path / "kit.safetensors").exists()
    again = command("train", *TINY, "generator=none", "evaluation=none", f"out={tmp_path}")
    assert again.status == 0  # nothing came of it, so nothing stands in the way


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["imbalance.ratio=0"], "imbalance.ratio must be greater than 0, got 0"),
        (["imbalance.ratio=1.5"], "imbalance.ratio must be less than or equal to 1, got 1.5"),
        (["imbalance.majority=[ship]"], "there is no class 'ship'; the classes are: 0 0, 1 1"),
        (
            ["imbalance=custom", "imbalance.counts=[900,1,1,1,1,1,1,1,1,1]"],
            "imbalance.counts[0] asks for 900 images of class '0', which has",
        ),
        (["data.image_size=8"], "image_size must be greater than or equal to 16, got 8"),
        (["data=mnist", "data.root=nowhere"], "neither at nowhere/mnist"),
        (["training.epochs=1"], "training.epochs of at least 2"),
        (
            ["training.exemplar_strategy=best"],
            "training.exemplar_strategy must be one of max_entropy",
        ),
        (["trainer.precision=16-mixed"], "trainer.precision must be auto, 32-true or bf16-mixed"),
        (["model=custom", "model._target_=no.such.Net"], "cannot be imported"),
        (["training.epocs=3"], "Could not override 'training.epocs'"),
        (["data=nosuch"], "there is no data/nosuch; there are cifar10, "),
        (["data=hub"], "error: data.source.hub_id has to be set"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_told_in_a_sentence(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [one for one in TINY if not (one.startswith("imb") and "imbalance=custom" in arguments)]
    tiny = [one for one in tiny if not (one.startswith("model") and "model=custom" in arguments)]
    outcome = command("train", *tiny, *arguments, "out=run")
    assert outcome.status == 2
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run" / "kit.safetensors").exists()


def test_without_out_the_folder_follows_from_the_settings(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = (*TINY, "generator=none", "training.epochs=1", "evaluation=none")
    assert command("train", "-m", *small, "seed=1,2").status == 0
    folders = sorted(path.name for path in (tmp_path / "runs" / "train").iterdir())
    assert [name.rsplit("-", 1)[0] for name in folders] == [
        "digits-step0.3-AllCNN-seed1",
        "digits-step0.3-AllCNN-seed2",
    ]
    again = command("train", *small, "seed=2")
    assert "already done" in again.out


def test_strategies_that_leave_no_whole_network_are_refused(
    command: Command, tmp_path: Path
) -> None:
    outcome = command("train", *TINY, "trainer.strategy=fsdp", f"out={tmp_path / 'run'}")
    assert outcome.status == 2
    assert "trainer.strategy must be auto or ddp, got fsdp" in outcome.err


@pytest.mark.parametrize("evaluation", ["fast", "full"])
def test_training_is_not_compared_with_oracles(
    tmp_path: Path, command: Command, evaluation: str
) -> None:
    outcome = command("train", *TINY, f"evaluation={evaluation}", f"out={tmp_path / 'run'}")
    assert (outcome.status, "evaluation=accuracy" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_kit_is_made_for_finished_weights_by_one_command(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    finished = Kit.load(trained / "kit.safetensors").classifier
    torch.save(finished.state_dict(), tmp_path / "mine.pt")
    arguments = (*TINY, "experiment=post_hoc", f"weights={tmp_path / 'mine.pt'}", "seed=4")
    outcome = command("train", *arguments, f"out={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    kit = Kit.load(tmp_path / "run" / "kit.safetensors")
    assert state_digest(kit.classifier) == state_digest(finished)
    assert kit.prompts is not None
    begun = torch.randn(kit.prompts.flatten(0, 1).shape, generator=generator("prompts", 4))
    assert not torch.equal(kit.prompts.flatten(0, 1), begun)
    assert kit.info.settings["training"]["epochs"] == 2  # how somebody says they were trained
    assert "initial_sha256" not in kit.info.settings
    cost = json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]
    assert cost["generator_overhead"] == {"absent": "the classifier was trained elsewhere"}
    (tmp_path / "mine.pt").rename(tmp_path / "moved.pt")
    arguments = (*TINY, "experiment=post_hoc", f"weights={tmp_path / 'moved.pt'}", "seed=4")
    assert "already done" in command("train", *arguments, f"out={tmp_path / 'run'}").out
    forgot = command("unlearn", f"kit={tmp_path / 'run'}", "forget=[0]", f"out={tmp_path / 'f'}")
    assert forgot.status == 0, forgot.err


def test_weights_that_no_kit_can_be_made_for_are_refused(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    weights = f"weights={trained / 'kit.safetensors'}"
    for arguments, said in (
        (["weights=nowhere.pt", "experiment=post_hoc"], "there are no weights at nowhere.pt"),
        ([weights], "so the kit is made after them: experiment=post_hoc"),
        ([weights, "experiment=post_hoc", "generator=none"], "nothing to train with generator"),
        ([weights, "experiment=post_hoc", "model.width=5"], "holds another network"),
    ):
        outcome = command("train", *TINY, *arguments, f"out={tmp_path / 'run'}")
        assert outcome.status == 2
        assert said in outcome.err
        assert not (tmp_path / "run" / "kit.safetensors").exists()


def test_training_says_what_generator_and_prompts_cost(trained: Path) -> None:
    cost = json.loads((trained / "metrics.json").read_text())["cost"]
    assert cost["step_seconds"] > 0
    assert cost["generator_overhead"] > 0
