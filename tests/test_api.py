"""The Python interface: what a notebook does, without Hydra, files or noise."""

import json
import logging
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import geniu_lightning
from geniu_lightning import api, load_kit, unlearn
from geniu_lightning.cli.data import recorded_data
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.fitting import progress
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.configs import method_names, method_settings
from geniu_lightning.training.next_kit import next_kit
from geniu_lightning.unlearning.warps import Warps
from tests.unlearning.every_method import digest

DOCS = Path(__file__).parents[1] / "docs"
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def kit(trained: Path) -> Kit:
    return load_kit(trained)


@pytest.fixture(scope="module")
def images(kit: Kit) -> tuple[torch.Tensor, torch.Tensor]:
    """The kit's training images, as the classifier reads them."""
    data = recorded_data(kit.info)
    found = kit.info.spec.normalise(data.read("train", data.indices("train")))
    return found, data.labels("train")


def test_the_package_has_what_it_offers() -> None:
    assert all(hasattr(geniu_lightning, name) for name in geniu_lightning.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        _ = geniu_lightning.forget


def test_it_finds_weights_and_next_kit_of_the_command(kit: Kit, unlearned: Path) -> None:
    classifier, cost = unlearn(kit, forget=[3, "5"], steps=5)
    expected = Kit.load(unlearned / "unlearned.safetensors")
    assert state_digest(classifier) == state_digest(expected.classifier)
    told = json.loads((unlearned / "metrics.json").read_text())["cost"]
    assert (cost.steps, cost.training_images_read) == (told["steps"], 0)
    assert cost.seconds > 0
    made = next_kit(kit, classifier, forget=[3, 5], seed=0, prior_taken=cost.prior_taken)
    assert digest(made) == digest(load_kit(unlearned))
    for numbers in (np.array([3, 5]), torch.tensor([3, 5]), [np.int64(3), 5]):
        assert state_digest(unlearn(kit, numbers, steps=5).classifier) == state_digest(classifier)
    classifier, cost = unlearn(kit, np.int64(3), method="logit_adjust")
    made = next_kit(kit, classifier, forget=[3], seed=0, prior_taken=cost.prior_taken)
    assert made.info.prior_taken == cost.prior_taken > 0


def test_it_leaves_kit_random_state_loggers_filters_and_folder_as_they_were(
    kit: Kit,
    images: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    state, before = torch.get_rng_state(), digest(kit)
    level = logging.getLogger("pytorch_lightning").level
    filters = list(warnings.filters)
    classifier, _ = unlearn(kit, 0, **QUICK)
    unlearn(kit, 0, "finetune", data=TensorDataset(*images), **QUICK)  # whose loader draws in vain
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert digest(kit) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("pytorch_lightning").level == level
    assert warnings.filters == filters
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_progress_is_printed_unless_the_user_logs_it(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    package = logging.getLogger("geniu_lightning")
    for alone in (True, False):
        monkeypatch.setattr(package, "propagate", not alone)  # pytest's handlers are the root's
        unlearn(kit, 0, steps=2)
        assert ("forgetting 0 with geniu  step 2/2" in capfd.readouterr().out) is alone


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
    with pytest.raises(UserError, match="drop_fraction must be a number"):
        unlearn(kit, 0, "regrow", drop_fraction="half")


def test_a_method_that_reads_images_takes_them_in_any_form(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    forms = (images, TensorDataset(*images), DataLoader(TensorDataset(*images), batch_size=50))
    found = [unlearn(kit, 0, "finetune", data=form, **QUICK) for form in forms]
    assert len({state_digest(one.classifier) for one in found}) == 1
    assert 0 < found[0].cost.training_images_read <= 2 * 64
    assert unlearn(kit, 0, "finetune", source="proxies", **QUICK).cost.training_images_read == 0
    retrained = unlearn(kit, 0, "retrain", data=images)
    assert retrained.cost.training_images_read == 2 * int((images[1] != 0).sum())  # two epochs
    assert retrained.classifier(images[0][:2]).shape == (2, 10)


def test_every_method_is_known_and_what_reads_images_says_so_without(kit: Kit) -> None:
    for name in method_names():
        with pytest.raises(UserError, match=r"^setpts is no setting of \w+; "):
            unlearn(kit, 0, name, setpts=1)
    for name in ("finetune", "coreset", "salun"):
        with pytest.raises(DataNotFoundError, match=r"pass data=; methods that read none .*geniu"):
            unlearn(kit, 0, name)


def test_what_cannot_work_is_said_in_one_sentence(
    kit: Kit, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pictures, labels = images
    untransformed = Subset([(object(), 0)], [0])
    for arguments, settings, said in (
        ([["cat"]], {}, "there is no class 'cat'; the classes are: 0, 1, 2"),
        ([[]], {}, "say what to forget"),
        ([list(range(10))], {}, "nothing to retain"),
        ([0, "genui"], {}, r"there is no method 'genui'; there are .*geniu.*retrain"),
        ([0], {"steps": -1}, "steps must be greater than or equal to 0"),
        ([0, "finetune"], {"data": [pictures]}, "pairs of images and labels"),
        ([0.0], {}, "there is no class"),
        ([0, "finetune"], {"data": []}, "holds no image"),
        ([0, "finetune"], {"data": (pictures[:0], labels[:0])}, "holds no image"),
        ([0, "finetune"], {"data": (pictures.double(), labels)}, "float32.* got float64"),
        ([0, "finetune"], {"data": untransformed}, "must give tensors of images and labels"),
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


def _in_few_steps(name: str) -> dict[str, Any]:
    settings = method_settings(name)
    return settings | {"steps": min(settings["steps"], 2)} if "steps" in settings else settings


def test_what_the_documents_show_runs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "method_settings", _in_few_steps)
    for name in ("python.md", "example.ipynb"):
        cells = cells_of(DOCS / name)
        assert cells
        known: dict[str, object] = {}
        for cell in cells:
            exec(compile(cell, f"{name}: {cell[:60]}", "exec"), known)
    written = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert written <= {"forgot.safetensors", "mine.safetensors"}
