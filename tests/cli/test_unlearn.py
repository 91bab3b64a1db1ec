"""`geniu unlearn`: what it leaves, what it reads and what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from geniu_lightning.cli.data import recorded_data
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from tests.commands import ROOT, TINY, UNLEARNED, Command, same_tensors, timeless

QUICK = ("trainer.threads=1", "evaluation=none", "forget=[0]")


def test_a_run_leaves_weights_metrics_and_pictures_and_is_not_done_again(
    command: Command, trained: Path, unlearned: Path, tmp_path: Path
) -> None:
    weights = Kit.load(unlearned / "unlearned.safetensors")
    assert weights.info.forgotten == (3, 5)
    assert weights.prompts is None
    document = json.loads((unlearned / "metrics.json").read_text())
    cost = document["cost"]
    assert document["metrics"]["accuracy"]["test"]["forget"]["value"] >= 0
    assert (cost["training_images_read"], cost["reads_prompts"]) == (0, True)
    assert len(cost["seconds_each"]) == 3
    assert sorted(cost["seconds_each"])[1] == cost["seconds"]
    assert cost["bytes_kept"] > 0
    assert "retrain_seconds" not in cost  # there is no bank
    for name in ("confusion_before.png", "confusion_after.png", "kit.safetensors", "receipt.md"):
        assert (unlearned / name).stat().st_size > 0
    words = (f"kit={trained}", *UNLEARNED)
    assert "already done" in command("unlearn", *words, f"out={unlearned}").out
    other = command("unlearn", *words, "forget=[2]", f"out={unlearned}")
    assert (other.status, "holds another run" in other.err) == (2, True)
    again = command("unlearn", *words, f"out={tmp_path}")
    assert again.out.count("before") == 1
    assert timeless(tmp_path) == timeless(unlearned)
    for name in ("unlearned.safetensors", "kit.safetensors"):
        assert same_tensors(tmp_path / name, unlearned / name)


def test_no_training_image_is_read_until_the_clock_stops(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ImageData, *_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageData, "read", refuse)
    words = (f"kit={trained}", *QUICK)
    blind = command("unlearn", *words, "unlearner.steps=2", f"out={tmp_path / 'geniu'}")
    assert blind.status == 0, blind.err
    reading = command("unlearn", *words, "unlearner=retrain", f"out={tmp_path / 'retrain'}")
    assert (reading.status, "an image was read" in reading.err) == (1, True)


def test_a_next_kit_is_left_by_single_runs_and_added_to_one_of_a_sweep(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    words = (f"kit={trained}", *QUICK, "unlearner=logit_mask", f"out={tmp_path}")
    kit = tmp_path / "kit.safetensors"
    assert command("unlearn", *words, "next_kit=false").status == 0
    assert "already done" in command("unlearn", "-m", *words).out
    assert not kit.exists()
    assert command("unlearn", *words).status == 0
    assert kit.is_file()
    assert "already done" in command("unlearn", *words).out
    kit.unlink()
    assert command("unlearn", "-m", *words, "next_kit=true").status == 0
    assert kit.is_file()


def test_it_works_after_data_caches_and_checkpoints_are_gone(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache, run, after = (tmp_path / name for name in ("data", "cache", "run", "after"))
    monkeypatch.setenv("GENIU_CACHE", str(cache))
    _write_parquet(root / "mnist")
    tiny = [word for word in TINY if not word.startswith("imbalance")]
    data = ("data=mnist", f"data.root={root}", "data.image_size=16")
    made = command("train", *tiny, *data, "imbalance=none", "evaluation=none", f"out={run}")
    assert made.status == 0, made.err
    for gone in (root, cache, run / "checkpoints"):
        shutil.rmtree(gone)
    words = (f"kit={run}", "forget=[dark]", "trainer.threads=1", "evaluation=accuracy")
    words += (f"data.root={root}",)
    few = ("unlearner.steps=2", "next_kit=false", f"out={after}")
    outcome = command("unlearn", *words, *few)
    assert outcome.status == 0, outcome.err
    assert "evaluation is left out" in outcome.out
    document = json.loads((after / "metrics.json").read_text())
    assert document["cost"]["training_images_read"] == 0
    assert (document["verdict"], document["oracles"]) == (None, [])
    for reason in (document["verdict_reason"], document["metrics"]["accuracy"]["absent"]):
        assert str(root) in reason
    reader = (*words, "unlearner=retrain", f"out={tmp_path / 'retrain'}")
    refused = command("unlearn", *reader)
    assert refused.status == 2
    for said in ("neither at", "retrain reads retain data", "methods that read none are", "geniu"):
        assert said in refused.err
    _write_parquet(root / "mnist")
    # they are back, and it measures
    assert "before" in command("unlearn", *words, *few).out
    _write_parquet(tmp_path / "other" / "mnist", shift=1)
    elsewhere = [word for word in reader if not word.startswith("data.root=")]
    other = command("unlearn", *elsewhere, f"data.root={tmp_path / 'other'}")
    assert (other.status, "are not those that the kit was trained on" in other.err) == (2, True)


def test_settings_that_cannot_work_are_refused_in_a_sentence(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    altered = bytearray((trained / "kit.safetensors").read_bytes())
    altered[-1] ^= 1
    damaged = tmp_path / "kit" / "kit.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(altered)
    kit, loop, long = f"kit={trained}", tmp_path / "loop", "x" * 300
    loop.symlink_to(loop)
    for words, sentence in (
        (["forget=[0]"], "name the kit to unlearn from"),
        ([f"kit={damaged}", "forget=[0]"], "was altered"),
        ([kit, "forget=[0]", "unlearner.proxies_per_class=3"], "the kit has 2 prompts a class"),
        ([kit, "forget=[0]", "unlearner.batch_norm=off"], "unlearner.batch_norm must be"),
        ([kit, "forget=[0]", "evaluation=validation"], "train it with data.validation=0.2"),
        ([kit, "forget=[0]", f"out={trained}", "force=true"], "is the folder of the kit itself"),
        ([kit, "forget=[0]", f"out={tmp_path / long}"], "cannot be used: File name too long"),
        ([kit, "forget=[0]", f"out={loop}"], "loop cannot be used: "),
        ([f"kit={tmp_path / long}", "forget=[0]"], "cannot be used: File name too long"),
    ):
        out = [] if any(word.startswith("out=") for word in words) else [f"out={tmp_path / 'run'}"]
        outcome = command("unlearn", *words, *out)
        assert (outcome.status, outcome.err.count("\n")) == (2, 1), words
        assert sentence in outcome.err, words
        assert not (tmp_path / "run" / "unlearned.safetensors").exists(), words
    assert (trained / "kit.safetensors").is_file()


def test_a_forged_kit_runs_no_code_of_others(trained: Path) -> None:
    info = Kit.load(trained / "kit.safetensors").info
    assert recorded_data(info).class_counts
    for part, target in (
        ("source", "os.getcwd"),
        ("source", "geniu_lightning.data.sources.os.getcwd"),
        ("source", "geniu_lightning.data.imbalance.none"),
        ("imbalance", "os.getcwd"),
        ("imbalance", "geniu_lightning.data.sources.Digits"),
    ):
        forged = {"_target_": target}
        data = info.settings["data"] | ({"source": forged} if part == "source" else {})
        settings = info.settings | {"data": data} | ({part: forged} if part != "source" else {})
        with pytest.raises(UserError, match=f"'{target}', which may run code"):
            recorded_data(replace(info, settings=settings))


def test_a_kit_chooses_no_place_to_read_from(trained: Path, tmp_path: Path) -> None:
    info = Kit.load(trained / "kit.safetensors").info
    hub = "geniu_lightning.data.sources.HubSet"
    for data, message in (
        ({"name": "../secret"}, "confirm that by data.name="),
        ({"name": "/etc"}, "confirm that by data.name="),
        ({"source": {"_target_": hub, "hub_id": "a/b"}}, "unasked from a/b .* data.hub_id=a/b"),
        (
            {"source": {"_target_": hub, "hub_id": "ylecun/mnist", "revision": "refs/pr/1"}},
            "unasked from ylecun/mnist",
        ),
    ):
        settings = info.settings | {"data": info.settings["data"] | data}
        with pytest.raises(UserError, match=message):
            recorded_data(replace(info, settings=settings), str(tmp_path))
    for lost in ("data", "imbalance"):
        left = {key: value for key, value in info.settings.items() if key != lost}
        with pytest.raises(UserError, match="does not say which data it was trained on"):
            recorded_data(replace(info, settings=left))
    moved = info.settings["data"] | {"root": "/nowhere", "cache_folder": str(tmp_path / "made")}
    assert recorded_data(replace(info, settings=info.settings | {"data": moved})).class_counts
    assert not (tmp_path / "made").exists()


def test_images_are_read_in_the_form_that_the_kit_records(trained: Path) -> None:
    info = Kit.load(trained / "kit.safetensors").info
    recorded = info.settings["data"] | {"resize": "pad", "background": 0.25}
    data = recorded_data(replace(info, settings=info.settings | {"data": recorded}))
    assert (data.form.resize, data.form.background) == ("pad", 0.25)


def _write_parquet(folder: Path, shift: int = 0) -> None:
    folder.mkdir(parents=True)
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["dark", "grey", "x"])})
    for split, count in (("train", 8), ("test", 2)):
        cells = [(k, j) for k in range(3) for j in range(count)]
        images = [Image.new("L", (16, 16), 60 * k + 10 * j + shift) for k, j in cells]
        rows = {"image": images, "label": [k for k, _ in cells]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-0.parquet")


@pytest.mark.slow
def test_ctrl_c_ends_with_a_sentence_and_a_status_of_its_own(trained: Path, tmp_path: Path) -> None:
    words = (f"kit={trained}", "forget=[0]", "unlearner.steps=100000", f"out={tmp_path}")
    process = subprocess.Popen(
        [sys.executable, "unlearn.py", *words],
        cwd=ROOT,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored behind a `&`
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "step" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
