"""Every yaml is found by globbing, so the next one is tested for free."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from geniu_lightning.cli import build
from geniu_lightning.evaluation import checks
from geniu_lightning.settings.configs import CONF
from geniu_lightning.tracking.loggers import closing, loggers_of

ROOT = Path(__file__).parents[2]


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert found, f"conf/{group} is empty"
    return found


def composed(primary: str, *overrides: str):  # type: ignore[no-untyped-def]  # a DictConfig
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, overrides=list(overrides))


@pytest.mark.parametrize("name", names("data"))
def test_data(name: str) -> None:
    config = composed("train", f"data={name}")
    assert config.data._target_ == "geniu_lightning.data.module.ImageData"
    missing = [] if name not in ("hub", "folder") else ["???"]
    config.data.name = name
    if missing:
        return
    source = instantiate(config.data.source)(name=name, root="nowhere")
    assert source.key()


@pytest.mark.parametrize("name", names("imbalance"))
def test_imbalance(name: str) -> None:
    counts = ["imbalance.counts=[5,0.5,1.0]"] if name == "custom" else []
    function = instantiate(composed("train", f"imbalance={name}", *counts).imbalance)
    labels = torch.arange(30) % 3
    kept = function(labels, ["a", "b", "c"])
    assert 0 < len(kept) <= 30
    assert (name == "none") == (len(kept) == 30)


@pytest.mark.parametrize("name", [name for name in names("model") if name != "custom"])
def test_model(name: str) -> None:
    own = "model.width=4"
    if name == "timm":
        pytest.importorskip("timm", reason="the extra timm is not installed", exc_type=Exception)
        own = "model.name=test_resnet"
    config = composed("train", f"model={name}", own)
    spec = build.network_spec(config.model, channels=3, num_classes=7)
    assert spec is not None
    network = spec.build_classifier(allow_custom=False).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), network.head(network.features(images)))


@pytest.mark.parametrize("name", names("generator"))
def test_generator(name: str) -> None:
    config = composed("train", f"generator={name}")
    spec = build.network_spec(config.generator, channels=1, image_size=28)
    assert (spec is None) == (name == "none")


@pytest.mark.parametrize("name", names("recipe"))
def test_a_recipe_belongs_to_a_data_set_and_is_taken(name: str) -> None:
    assert (CONF / "data" / f"{name}.yaml").is_file()
    text = (CONF / "recipe" / f"{name}.yaml").read_text()
    config = composed("train", f"data={name}")
    assert f"epochs: {config.training.epochs}" in text


@pytest.mark.parametrize("name", names("experiment"))
def test_experiment(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    primary = "unlearn" if "unlearn.py" in text else "train"
    assert "# @package _global_" in text
    assert composed(primary, f"experiment={name}") != composed(primary)


@pytest.mark.parametrize("name", names("logger"))
def test_logger(name: str, tmp_path: Path) -> None:
    config = composed("train", f"logger={name}")
    loggers = loggers_of(config, tmp_path, "train", {"revision": "1"}, ["tag"])
    with closing(loggers):
        assert len(loggers) == (2 if name == "both" else 1)


@pytest.mark.parametrize("name", names("evaluation"))
def test_evaluation(name: str) -> None:
    for primary in ("train", "unlearn"):
        for metric in composed(primary, f"evaluation={name}").evaluation.metrics.values():
            assert callable(instantiate(metric, _convert_="all"))


def test_evaluation_verdict_measures_all_that_decides_and_full_all_of_it() -> None:
    questions = (checks.WORKS, checks.ANSWERS, checks.INSIDE, checks.PROBABILITIES, checks.SYSTEM)
    asked = [check for question in questions for check in question]
    enough, full = (
        composed("unlearn", "kit=x", f"evaluation={name}").evaluation
        for name in ("verdict", "full")
    )
    assert {check.name.partition(".")[0] for check in asked} <= set(enough.metrics)
    assert set(enough.metrics) < set(full.metrics)
    assert all(full.metrics[name] == metric for name, metric in enough.metrics.items())


@pytest.mark.parametrize("name", names("trainer"))
def test_trainer(name: str, tmp_path: Path) -> None:
    config = composed("train", f"trainer={name}", "trainer.accelerator=cpu", "trainer.devices=1")
    made = build.trainer_of(config.trainer, tmp_path, label="x", loggers=[], callbacks=[])
    assert made.world_size == 1


@pytest.mark.parametrize("script", ["train.py", "unlearn.py"])
def test_help_from_a_folder_with_a_space_needs_no_torch(script: str, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'a help text took seconds'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / script)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "GROUP=NAME" in done.stdout
    assert list(folder.iterdir()) == []


def test_the_documented_tuning_names_are_those_of_the_code() -> None:
    config = composed("unlearn", "experiment=paper_tuning")
    assert config.unlearner.name == "geniu_paper"
    assert config.unlearner.proxies_per_class == 1
    assert (config.unlearner.forget_term, config.unlearner.retain_term) == ("reciprocal", "ce")
