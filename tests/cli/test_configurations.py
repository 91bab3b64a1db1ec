"""Every yaml is found by globbing, composes, passes the schema and makes its object."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from geniu_lightning.cli.device import trainer_settings
from geniu_lightning.cli.settings import check_settings
from geniu_lightning.cli.train_run import network_spec
from geniu_lightning.fitting.trainer import make_trainer
from geniu_lightning.settings.configs import CONF, built


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert found, f"conf/{group} is empty"
    return found


def composed(primary: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, overrides=list(overrides))


def test_trainers_are_made(tmp_path: Path) -> None:
    for name in names("trainer"):
        words = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true")
        config = composed("train", f"trainer={name}", *words)
        check_settings("train", config)
        made = make_trainer("x", folder=tmp_path, **trainer_settings(config.trainer))
        assert made.world_size == 1, name


def test_evaluations_make_metrics() -> None:
    for name in names("evaluation"):
        config = composed("unlearn", f"evaluation={name}")
        check_settings("unlearn", config)
        for metric in config.evaluation.metrics.values():
            assert callable(built(metric)), name


def test_data_sources_are_made() -> None:
    for name in names("data"):
        data = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert data._target_ == "geniu_lightning.data.module.ImageData"
        if name not in ("hub", "folder", "dataset"):  # which a user completes
            assert built(data.source)(name=name, root="nowhere").key()


def test_imbalances_choose_images_and_none_chooses_all() -> None:
    labels = torch.arange(30) % 3
    for name in names("imbalance"):
        own = {"counts": [5, 0.5, 1.0]} if name == "custom" else {}
        choose = built(OmegaConf.load(CONF / "imbalance" / f"{name}.yaml"), **own)
        chosen = choose(labels, ["a", "b", "c"])
        assert 0 < len(chosen) <= 30, name
        assert (name == "none") == (len(chosen) == 30), name


@pytest.mark.parametrize("name", [name for name in names("model") if name != "custom"])
def test_models_have_features_and_a_head(name: str) -> None:
    own = {"width": 4}
    if name == "timm":
        pytest.importorskip("timm", reason="the extra timm is not installed", exc_type=Exception)
        own = {"name": "test_resnet"}
    config = OmegaConf.merge(OmegaConf.load(CONF / "model" / f"{name}.yaml"), own)
    spec = network_spec(config, "model", channels=3, num_classes=7)
    network: Any = spec.build_classifier(allow_custom=False).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), network.head(network.features(images)))


def test_the_papers_tuning_is_neither_clipped_nor_bounded() -> None:
    chosen = composed("unlearn", "experiment=paper_tuning").unlearner
    equation = ("reciprocal", "ce", 1.0, 1)
    names = ("forget_term", "retain_term", "retain_weight", "proxies_per_class")
    assert tuple(chosen[name] for name in names) == equation
    assert chosen.max_gradient_norm is None
    assert chosen.max_margin == 40.0  # test_losses: below it the gradient is the reciprocal's


def test_generators_recipes_and_experiments_compose() -> None:
    for name in names("generator"):
        generator = OmegaConf.load(CONF / "generator" / f"{name}.yaml")
        assert network_spec(generator, "generator", channels=1, image_size=28).ours
    for name in names("recipe"):  # each belongs to a data set, and is taken with it
        text = (CONF / "recipe" / f"{name}.yaml").read_text()
        epochs = composed("train", f"data={name}").training.epochs
        assert f"epochs: {epochs}" in text, name
    plain = {primary: composed(primary) for primary in ("train", "unlearn")}
    for name in names("experiment"):
        text = (CONF / "experiment" / f"{name}.yaml").read_text()
        primary = "unlearn" if "unlearn.py" in text else "train"
        assert "# @package _global_" in text
        assert composed(primary, f"experiment={name}") != plain[primary], name
