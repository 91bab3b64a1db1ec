"""`geniu train`: what it leaves, what it refuses, and how it is resumed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import new

from geniu_lightning.cli import fit_kit
from geniu_lightning.cli.data import recorded_data
from geniu_lightning.errors import KitError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.runs.step_clock import StepClock
from geniu_lightning.seeds import generator
from tests.commands import TINY, Command, same_tensors

BARE = (*TINY, "kit=null", "training.epochs=1", "evaluation=none")


def test_a_run_leaves_kit_metrics_and_pictures_and_is_not_done_again(
    command: Command, trained: Path
) -> None:
    kit = Kit.load(trained / "kit.safetensors")
    assert kit.prompts is not None
    assert kit.prompts.shape == (10, 2, 1, 28, 28)
    assert kit.info.class_counts[0] > 3 * kit.info.class_counts[1]  # the majority, ratio 0.3
    document = json.loads((trained / "metrics.json").read_text())
    entry = document["metrics"]["accuracy"]["test"]["retain"]
    assert set(entry) >= {"value", "direction", "ideal", "oracle_mean", "oracle_std", "z"}
    assert document["cost"]["step_seconds"] > 0
    assert document["cost"]["generator_overhead"] > 0
    for name in ("proxies.png", "confusion.png", "done.json"):
        assert (trained / name).stat().st_size > 0
    before = (trained / "kit.safetensors").stat().st_mtime_ns
    again = command("train", *TINY, "seed=1", f"out={trained}")
    assert (again.status, "already done" in again.out) == (0, True)
    other = command("train", *TINY, "seed=2", f"out={trained}")
    assert (other.status, other.err.count("\n")) == (2, 1)
    assert "holds another run, which differs in seed" in other.err
    assert (trained / "kit.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on_to_the_same_bits(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TINY, "data.pad=2", "evaluation=none")  # two epochs
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    counted = StepClock.on_train_batch_end

    def stop(self: StepClock, trainer: Any, *rest: Any) -> None:
        counted(self, trainer, *rest)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepClock, "on_train_batch_end", stop)
    interrupted = command("train", *words, f"out={stopped}")
    assert interrupted.status == 130
    assert "interrupted; the same command goes on" in interrupted.err
    assert "Traceback" not in interrupted.err
    assert not (stopped / "kit.safetensors").exists()
    monkeypatch.undo()
    resumed = command("train", *words, f"out={stopped}")
    assert (resumed.status, "going on from" in resumed.out) == (0, True)
    assert command("train", *words, f"out={whole}").status == 0
    assert same_tensors(stopped / "kit.safetensors", whole / "kit.safetensors")


def test_a_loss_that_is_no_number_stops_the_run(command: Command, tmp_path: Path) -> None:
    outcome = command("train", *TINY, "training.optimizer.lr=1e30", f"out={tmp_path}")
    assert outcome.status == 2
    assert "stopped being a finite number at step" in outcome.err
    assert not (tmp_path / "kit.safetensors").exists()
    assert "finite number" in json.loads((tmp_path / "failed.json").read_text())["failed"]
    assert command("train", *BARE, f"out={tmp_path}").status == 0  # nothing stands in the way
    assert not (tmp_path / "failed.json").exists()


def test_settings_that_cannot_work_are_refused_in_a_sentence(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = f"weights={trained / 'kit.safetensors'}"
    for words, sentence in (
        (["training.epocs=3"], "training.epocs is no setting; did you mean training.epochs?"),
        (["data=hub"], "data.source.hub_id has to be set"),
        (["data=mnist", "data.root=nowhere"], "neither at nowhere/mnist"),
        (["kit=archives"], "kit must be 'prompts', 'distribution' or 'archive' or a"),
        (["generator=none"], "was removed: kit=null trains the classifier alone"),
        (["kit=archive", "archive.bytes_per_image=3"], "archive.bytes_per_image must be at least"),
        (["kit=archive", "archive.format=gif"], "archive.format must be 'avif'"),
        (["kit=distribution", "distribution.parts=0"], "distribution.parts must be greater"),
        (["kit=null", "experiment=post_hoc", weights], "nothing to add to them with kit=null"),
        (["evaluation=fast"], "train.py takes evaluation=accuracy"),
        (["weights=nowhere.pt", "experiment=post_hoc"], "there are no weights at nowhere.pt"),
        ([weights], "so the kit is made after them: experiment=post_hoc"),
        ([weights, "experiment=post_hoc", "model.width=5"], "holds another network"),
    ):
        outcome = command("train", *TINY, *words, "out=run")
        assert outcome.status == 2, words
        assert sentence in outcome.err, words
        assert "Traceback" not in outcome.err, words
        assert not Path("run", "kit.safetensors").exists(), words


def test_a_kit_is_made_for_finished_weights(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    finished = Kit.load(trained / "kit.safetensors").classifier
    torch.save(finished.state_dict(), tmp_path / "mine.pt")
    words = (*TINY, "experiment=post_hoc", "seed=4", "evaluation=none", f"out={tmp_path / 'run'}")
    outcome = command("train", *words, f"weights={tmp_path / 'mine.pt'}")
    assert outcome.status == 0, outcome.err
    kit = Kit.load(tmp_path / "run" / "kit.safetensors")
    assert state_digest(kit.classifier) == state_digest(finished)
    assert kit.prompts is not None
    begun = torch.randn(kit.prompts.flatten(0, 1).shape, generator=generator("prompts", 4))
    assert not torch.equal(kit.prompts.flatten(0, 1), begun)
    assert kit.info.settings["training"]["epochs"] == 2  # as the user says they were trained
    assert "initial_sha256" not in kit.info.settings
    cost = json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]
    assert cost["generator_overhead"] == {"absent": "the classifier was trained elsewhere"}
    (tmp_path / "mine.pt").rename(tmp_path / "moved.pt")
    assert "already done" in command("train", *words, f"weights={tmp_path / 'moved.pt'}").out


def test_an_archive_holds_each_image_that_was_trained_on(command: Command, tmp_path: Path) -> None:
    words = (*BARE, "kit=archive", "archive.format=lossless", "data.validation=0.2", "data.pad=2")
    assert command("train", *words, f"out={tmp_path / 'both'}").status == 0
    kit = Kit.load(tmp_path / "both" / "kit.safetensors")
    assert kit.info.contents == ("archive",)
    images, labels = kit.archived(range(10))
    assert labels.bincount().tolist() == [*kit.info.class_counts]
    data = recorded_data(kit.info)
    expected = [
        data.read("train", data.indices("train")[data.labels("train") == k]) for k in (0, 7)
    ]
    assert torch.equal(images[labels == 0], expected[0])
    assert torch.equal(images[labels == 7], expected[1])
    data.set_forget([0])  # batches of its images are drawn and shifted alike
    both = zip(
        kit.archive_loader([0], 64, 3), data.loader("forget", batch_size=64, seed=3), strict=True
    )
    assert all(torch.equal(one.images, other.images) for one, other in both)
    kit.info.settings["data"]["pad"] = 29
    with pytest.raises(KitError, match="at most their side, not 29"):
        kit.archive_loader([0], 64, 3)
    finished = (f"weights={tmp_path / 'both' / 'kit.safetensors'}", f"out={tmp_path / 'after'}")
    assert command("train", *words, "archive.images_per_class=9", *finished).status == 0
    after = Kit.load(tmp_path / "after" / "kit.safetensors")
    assert state_digest(after.classifier) == state_digest(kit.classifier)
    assert after.info.archive is not None
    assert after.info.archive.counts == (9,) * 10


@pytest.mark.parametrize("converted", [False, True])
def test_a_command_that_the_system_ends_says_so(
    converted: bool, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            if converted:  # as pydantic does
                raise ValueError("another error") from error
            raise

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(fit_kit, "fit", end)
    outcome = command("train", *TINY, f"out={tmp_path / 'run'}")
    assert outcome.status == 143
    assert outcome.err == "terminated; the same command goes on where a checkpoint was written\n"
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "run" / "failed.json").exists() == converted


def test_other_images_are_another_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIU_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for k, name in enumerate("ab"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for j in range(6):
                new("L", (16, 16), 99 * k + j).save(tmp_path / "pets" / split / name / f"{j}.png")
    tiny = [word for word in BARE if not word.startswith("imbalance")]
    form = ("data=folder", "data.name=pets", "imbalance=none", "data.image_size=16")
    where = (f"data.root={tmp_path}", "training.batch_size=4", f"out={tmp_path / 'run'}")
    words = (*tiny, *form, *where)
    assert command("train", *words).status == 0
    assert "already done" in command("train", *words).out
    new("L", (16, 16), 250).save(tmp_path / "pets" / "train" / "a" / "0.png")
    other = command("train", *words)
    assert (other.status, "differs in data_fingerprint" in other.err) == (2, True), other.err


def test_distributions_are_made_for_finished_weights(command: Command, tmp_path: Path) -> None:
    assert command("train", *BARE, "kit=null", f"out={tmp_path / 'bare'}").status == 0
    weights = f"weights={tmp_path / 'bare' / 'kit.safetensors'}"
    few = ("distribution.min_steps=5", "distribution.width=8", f"out={tmp_path / 'after'}")
    outcome = command("train", *BARE, "kit=distribution", weights, *few)
    assert outcome.status == 0, outcome.err
    before, after = (Kit.load(tmp_path / name / "kit.safetensors") for name in ("bare", "after"))
    assert state_digest(after.classifier) == state_digest(before.classifier)
    assert after.info.contents == ("distribution",)
    assert (tmp_path / "after" / "samples.png").is_file()
