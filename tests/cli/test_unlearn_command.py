import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from geniu_lightning.cli.build import recorded_data
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from tests.cli.conftest import MEASURED, TINY, Command

ROOT = Path(__file__).parents[2]


def timeless(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "metrics.json").read_text())
    for name in MEASURED:
        document["cost"].pop(name, None)
    return document


@pytest.mark.parametrize("method", ["none", "geniu", "logit_mask", "retrain"])
def test_every_method_leaves_weights_metrics_and_pictures(
    command: Command, trained: Path, tmp_path: Path, method: str
) -> None:
    outcome = command(
        "unlearn", f"kit={trained}", "forget=[0]", f"unlearner={method}", f"out={tmp_path}"
    )
    assert outcome.status == 0, outcome.err
    weights = Kit.load(tmp_path / "unlearned.safetensors")
    assert weights.info.forgotten == (0,)
    assert weights.prompts is None
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["cost"]["training_images_read"] == 0 or method == "retrain"
    assert document["metrics"]["accuracy"]["test"]["forget"]["value"] >= 0
    assert (tmp_path / "confusion_before.png").is_file()
    assert (tmp_path / "confusion_after.png").is_file()
    assert "before" in outcome.out
    assert "after" in outcome.out


def test_the_mask_forbids_the_answer(command: Command, trained: Path, tmp_path: Path) -> None:
    command("unlearn", f"kit={trained}", "forget=[3,5]", "unlearner=logit_mask", f"out={tmp_path}")
    accuracy = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["accuracy"]
    assert accuracy["test"]["forget"]["value"] == 0
    assert accuracy["test"]["per_class"]["value"][3] == 0
    assert accuracy["test"]["per_class"]["value"][5] == 0


def test_the_same_command_twice_finds_the_same(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        command("unlearn", f"kit={trained}", "forget=[1]", f"out={tmp_path / name}")
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_a_finished_run_is_not_done_again(command: Command, trained: Path, tmp_path: Path) -> None:
    arguments = (f"kit={trained}", "forget=[1]", "unlearner=logit_mask", f"out={tmp_path}")
    command("unlearn", *arguments)
    assert "already done" in command("unlearn", *arguments).out
    other = command("unlearn", f"kit={trained}", "forget=[2]", "unlearner=none", f"out={tmp_path}")
    assert other.status == 2
    assert "holds another run" in other.err


def test_no_training_image_is_read_until_the_clock_stops(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ImageData, *_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageData, "read", refuse)
    arguments = (f"kit={trained}", "forget=[0]", "evaluation=none")
    for method in ("geniu", "logit_mask", "none"):
        outcome = command("unlearn", *arguments, f"unlearner={method}", f"out={tmp_path / method}")
        assert outcome.status == 0, outcome.err
    reading = command("unlearn", *arguments, "unlearner=retrain", f"out={tmp_path / 'retrain'}")
    assert "an image was read" in reading.err  # the guard does guard


def test_it_works_after_data_caches_and_checkpoints_are_gone(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache, run = tmp_path / "data", tmp_path / "cache", tmp_path / "run"
    _write_parquet(root / "mnist")
    data = ("data=mnist", f"data.root={root}", f"data.cache_folder={cache}", "data.image_size=16")
    made = command("train", *TINY, *data, "imbalance=none", "evaluation=none", f"out={run}")
    assert made.status == 2  # TINY sets a ratio, which imbalance=none does not have
    tiny = [one for one in TINY if not one.startswith("imbalance")]
    made = command("train", *tiny, *data, "imbalance=none", "evaluation=none", f"out={run}")
    assert made.status == 0, made.err
    for gone in (root, cache, run / "checkpoints"):
        shutil.rmtree(gone)
    outcome = command("unlearn", f"kit={run}", "forget=[dark]", f"out={tmp_path / 'after'}")
    assert outcome.status == 0, outcome.err
    assert "evaluation is left out" in outcome.out
    document = json.loads((tmp_path / "after" / "metrics.json").read_text())
    assert document["cost"]["training_images_read"] == 0
    assert str(root) in document["metrics"]["accuracy"]["absent"]
    reader = command(
        "unlearn", f"kit={run}", "forget=[dark]", "unlearner=retrain", f"out={tmp_path / 'retrain'}"
    )
    assert reader.status == 2
    assert "neither at" in reader.err
    assert "retrain reads retain data" in reader.err
    assert "methods that read none are" in reader.err
    assert "geniu" in reader.err
    _write_parquet(root / "mnist")
    again = command("unlearn", f"kit={run}", "forget=[dark]", f"out={tmp_path / 'after'}")
    assert "before" in again.out  # the images are back, and the same command measures


def test_other_images_than_the_kits_are_refused(command: Command, tmp_path: Path) -> None:
    tiny = [one for one in TINY if not one.startswith("imbalance")]
    _write_parquet(tmp_path / "data" / "mnist")
    data = ("data=mnist", f"data.root={tmp_path / 'data'}", "imbalance=none", "evaluation=none")
    assert command("train", *tiny, *data, f"out={tmp_path / 'run'}").status == 0
    _write_parquet(tmp_path / "other" / "mnist", shift=1)
    outcome = command(
        "unlearn",
        f"kit={tmp_path / 'run'}",
        "forget=[dark]",
        "unlearner=retrain",
        f"data.root={tmp_path / 'other'}",
        f"out={tmp_path / 'out'}",
    )
    assert outcome.status == 2
    assert "are not those that the kit was trained on" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say what to forget"),
        (["forget=[]"], "say what to forget"),
        (["forget=[ship]"], "there is no class 'ship'; the classes are: 0 0, 1 1"),
        (["forget=[10]"], "there is no class 10"),
        (["forget=[-1]"], "there is no class -1"),
        (["forget=[0,1,2,3,4,5,6,7,8,9]"], "all classes are to be forgotten"),
        (["forget=[0]", "unlearner.forget_term=wish"], "unlearner.forget_term must be one of"),
        (["forget=[0]", "unlearner.proxies_per_class=3"], "the kit has 2 prompts a class, 3 were"),
        (["forget=[0]", "unlearner.batch_norm=off"], "unlearner.batch_norm must be one of frozen"),
        (
            ["forget=[0]", "unlearner=nosuch"],
            "there is no unlearner/nosuch; there are bad_teacher, ",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_what_cannot_work_is_told_in_a_sentence(
    command: Command, trained: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    outcome = command("unlearn", f"kit={trained}", *arguments, f"out={tmp_path}")
    assert outcome.status == 2
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "unlearned.safetensors").exists()


def test_the_kits_own_folder_is_no_place_for_the_result(command: Command, trained: Path) -> None:
    outcome = command("unlearn", f"kit={trained}", "forget=[0]", f"out={trained}", "force=true")
    assert outcome.status == 2
    assert "is the folder of the kit itself" in outcome.err
    assert (trained / "kit.safetensors").is_file()


@pytest.mark.parametrize(
    "forged",
    [
        {"source": {"_target_": "os.getcwd"}},
        {"mean": {"_target_": "os.getcwd"}},
        {"source": {"_target_": "geniu_lightning.data.sources.os.getcwd"}},
        {"std": [{"_target_": "os.getcwd"}]},
    ],
)
def test_a_kits_settings_run_no_foreign_code(trained: Path, forged: dict[str, Any]) -> None:
    settings = Kit.load(trained / "kit.safetensors").info.settings
    settings = settings | {"data": settings["data"] | forged}
    with pytest.raises(UserError, match="is not ours"):
        recorded_data(settings, None, None, allow_custom=False)


@pytest.mark.parametrize("spoil", ["missing", "text", "truncated", "altered"])
def test_a_file_that_is_no_whole_kit_is_refused(
    command: Command, trained: Path, tmp_path: Path, spoil: str
) -> None:
    path = tmp_path / "kit.safetensors"
    content = bytearray((trained / "kit.safetensors").read_bytes())
    if spoil == "text":
        path.write_text("no kit")
    elif spoil == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif spoil == "altered":
        content[-1] ^= 1
        path.write_bytes(content)
    outcome = command("unlearn", f"kit={path}", "forget=[0]", f"out={tmp_path / 'out'}")
    assert outcome.status == 2
    sentences = {
        "missing": "there is no kit at",
        "text": "no safetensors file",
        "truncated": "truncated",
        "altered": "was altered",
    }
    assert sentences[spoil] in outcome.err
    assert outcome.err.count("\n") == 1


def _write_parquet(folder: Path, shift: int = 0) -> None:
    folder.mkdir(parents=True)
    names = ["dark", "grey", "light"]
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=names)})
    for split, count in (("train", 8), ("test", 2)):
        rows = {
            "image": [
                Image.new("L", (16, 16), 60 * k + 10 * j + shift)
                for k in range(3)
                for j in range(count)
            ],
            "label": [k for k in range(3) for _ in range(count)],
        }
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-0.parquet")


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
