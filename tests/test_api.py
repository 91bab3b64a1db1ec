"""The Python interface: what a notebook does, without Hydra, files or noise."""

import ast
import json
import logging
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import geniu_lightning
from geniu_lightning import load_kit, unlearn
from geniu_lightning.cli.data import recorded_data
from geniu_lightning.errors import DataNotFoundError, KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.training.next_kit import next_kit
from geniu_lightning.unlearning.inputs import Warps
from tests.commands import Command
from tests.unlearning.every_method import CONFIGS, digest

DOCS = Path(__file__).parents[2] / "docs"
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def kit(trained: Path) -> Kit:
    return load_kit(trained)


@pytest.fixture(scope="module")
def images(kit: Kit) -> tuple[torch.Tensor, torch.Tensor]:
    """The kit's training images, as the classifier reads them."""
    data = recorded_data(kit.info.settings, None, None, allow_custom=False)
    found = kit.info.spec.normalise(data.read("train", data.indices("train")))
    return found, data.labels("train")


def test_the_package_is_light_and_says_what_it_offers() -> None:
    code = (
        "import sys, geniu_lightning as g; assert not {'torch', 'hydra'} & set(sys.modules);"
        "assert all(hasattr(g, name) for name in g.__all__) and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        _ = geniu_lightning.forget


def test_a_kit_is_named_by_its_file_or_its_folder(trained: Path) -> None:
    assert digest(load_kit(trained / "kit.safetensors")) == digest(load_kit(str(trained)))
    with pytest.raises(KitError, match="there is no kit at"):
        load_kit(trained / "other.safetensors")


def test_it_finds_the_weights_that_the_command_finds(
    command: Command, trained: Path, kit: Kit, tmp_path: Path
) -> None:
    command("unlearn", f"kit={trained}", "forget=[3,5]", "evaluation=none", f"out={tmp_path}")
    expected = Kit.load(tmp_path / "unlearned.safetensors")
    classifier, cost = unlearn(kit, forget=[3, "5"])
    assert state_digest(classifier) == state_digest(expected.classifier)
    told = json.loads((tmp_path / "metrics.json").read_text())["cost"]
    assert (cost.steps, cost.training_images_read) == (told["steps"], 0)
    assert cost.seconds > 0


def test_the_kit_for_the_next_request_is_that_of_the_command(
    command: Command, trained: Path, kit: Kit, tmp_path: Path
) -> None:
    words = ("forget=[3]", "unlearner=logit_adjust", "evaluation=none", f"out={tmp_path}")
    assert command("unlearn", f"kit={trained}", *words).status == 0
    expected = load_kit(tmp_path)
    classifier, cost = unlearn(kit, forget=[3], method="logit_adjust")
    made = next_kit(kit, classifier, forget=[3], seed=0, prior_taken=cost.prior_taken)
    assert made.info.prior_taken == expected.info.prior_taken > 0
    assert digest(made) == digest(expected)


def test_it_leaves_kit_random_state_loggers_filters_and_folder_as_they_were(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state, before = torch.get_rng_state(), digest(kit)
    level = logging.getLogger("pytorch_lightning").level
    filters = list(warnings.filters)
    classifier, _ = unlearn(kit, 0, **QUICK)
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert digest(kit) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("pytorch_lightning").level == level
    assert warnings.filters == filters
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_data_set_leaves_the_random_state_as_it_was(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    state = torch.get_rng_state()
    unlearn(kit, 0, "finetune", data=TensorDataset(*images), **QUICK)
    assert torch.equal(torch.get_rng_state(), state)


def test_classes_come_in_the_numbers_of_arrays_and_tensors(kit: Kit) -> None:
    whole = state_digest(unlearn(kit, [0, 3], **QUICK).classifier)
    for forget in (np.array([0, 3]), torch.tensor([0, 3]), [np.int64(0), 3]):
        assert state_digest(unlearn(kit, forget, **QUICK).classifier) == whole
    assert unlearn(kit, np.int64(3), **QUICK)


def test_settings_replace_those_of_the_yaml_and_a_mapping_single_values(kit: Kit) -> None:
    found = [
        state_digest(unlearn(kit, 0, **QUICK | settings).classifier)
        for settings in (
            {"optimizer": {"lr": 0.01}},
            {"optimizer": partial(torch.optim.Adam, lr=0.01)},
            {},
            {"seed": 1},
        )
    ]
    assert found[0] == found[1] != found[2]
    assert found[2] == found[3]  # nothing is drawn by this method


def test_an_object_of_a_users_takes_the_place_of_a_settings_mapping(kit: Kit) -> None:
    half = {"rotate": 7, "scale": 0.1, "shear": 0.1, "shift": 0.05, "elastic": 0.01}
    rest = {"mix": 0.5, "paste": 0.5, "noise": 0.1}
    given = unlearn(kit, 0, "regrow", steps=2, warps=Warps(**half, **rest))
    assert state_digest(given.classifier) == state_digest(
        unlearn(kit, 0, "regrow", steps=2, warps=half).classifier
    )
    with pytest.raises(UserError, match="regrow cannot be made"):
        unlearn(kit, 0, "regrow", leave_out="half")


def test_a_method_that_reads_images_takes_them_in_any_form(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    forms = (images, TensorDataset(*images), DataLoader(TensorDataset(*images), batch_size=50))
    found = [unlearn(kit, 0, "finetune", data=form, **QUICK) for form in forms]
    assert len({state_digest(one.classifier) for one in found}) == 1
    assert 0 < found[0].cost.training_images_read <= 2 * 64


def test_retraining_follows_the_kits_recipe_on_the_images_given(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    classifier, cost = unlearn(kit, 0, "retrain", data=images)
    retained = int((images[1] != 0).sum())
    assert cost.training_images_read == 2 * retained  # of two epochs
    assert classifier(images[0][:2]).shape == (2, 10)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_method_is_known_and_what_reads_images_says_so_without(kit: Kit, path: Path) -> None:
    with pytest.raises(UserError, match="has no setting 'setpts'; it has"):
        unlearn(kit, 0, path.stem, setpts=1)
    if path.stem in ("finetune", "coreset", "salun"):
        with pytest.raises(DataNotFoundError, match=r"pass data=; methods that read none .*geniu"):
            unlearn(kit, 0, path.stem)


def test_proxies_stand_for_data(kit: Kit) -> None:
    assert unlearn(kit, 0, "finetune", source="proxies", **QUICK).cost.training_images_read == 0


class Pictures(Dataset[tuple[object, int]]):
    """A data set as one forgets to give it a transform."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[object, int]:
        if index > 1:
            raise IndexError
        return object(), 0


def test_what_cannot_work_is_said_in_one_sentence(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pictures, labels = images
    for arguments, settings, said in (
        ([["cat"]], {}, "there is no class 'cat'; the classes are: 0 0, 1 1"),
        ([[]], {}, "say what to forget"),
        ([list(range(10))], {}, "nothing to retain"),
        ([0, "genui"], {}, r"there is no method 'genui'; there are .*geniu.*retrain"),
        ([0], {"steps": -1}, "steps must be a whole number"),
        ([0, "finetune"], {"data": [pictures]}, "pairs of images and labels"),
        ([0.0], {}, "there is no class"),
        ([0, "finetune"], {"data": []}, "holds no image"),
        ([0, "finetune"], {"data": (pictures[:0], labels[:0])}, "holds no image"),
        ([0, "finetune"], {"data": (pictures.double(), labels)}, "float32.* got float64"),
        ([0, "finetune"], {"data": Pictures()}, "must give tensors of images and labels"),
        ([0, "finetune"], {"data": (pictures.flatten(1), labels)}, r"shape \(N, 1, 28, 28\)"),
        ([0, "finetune"], {"data": (pictures.byte(), labels)}, "normalised floats"),
        ([0, "finetune"], {"data": (pictures, labels.float())}, "integer label from 0 to 9"),
        ([0, "finetune"], {"data": (pictures, labels + 1)}, "integer label from 0 to 9"),
        ([0, "delete"], {"data": (pictures[labels > 0], labels[labels > 0])}, "image to forget"),
        ([0, "finetune"], {"data": [(pictures, labels), (labels, labels)]}, "put together"),
    ):
        with pytest.raises(UserError, match=said):
            unlearn(kit, *arguments, **settings)


def cells_of(document: Path) -> list[str]:
    """The pieces of Python of a notebook or a page, in their order."""
    text = document.read_text()
    if document.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["python.md", "example.ipynb"])
def test_what_the_documents_show_runs(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    cells = cells_of(DOCS / name)
    assert cells
    known: dict[str, object] = {}
    for cell in cells:
        assert ast.parse(cell).body
        exec(compile(cell, f"{name}: {cell[:60]}", "exec"), known)
    written = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert written <= {"forgot.safetensors", "mine.safetensors"}
