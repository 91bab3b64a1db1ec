"""The schema of the commands: one sentence that names key, wanted and given value."""

import math
from pathlib import Path

import pytest
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from geniu_lightning.cli.command import sentence_of
from geniu_lightning.cli.settings import check_settings, keys_of, unknown_key
from geniu_lightning.errors import SettingError
from tests.cli.test_configurations import composed
from tests.commands import TINY, Command

KNOWN = ("training", "training.epochs", "training.optimizer.lr", "out")


def test_a_value_that_does_not_fit_is_refused_by_its_key() -> None:
    config = composed("unlearn", "kit=x", "logger=both")
    check_settings("unlearn", config)
    for key, value, said in (
        ("seed", "one", "seed must be an integer, got 'one'"),
        ("force", 1, "force must be a boolean, got 1"),
        ("out", 3, "out must be a string or null, got 3"),
        ("out", [1], "out must be a string or null, got [1]"),
        ("out", "", "out must be a folder or null, got ''"),
        ("runs", "", "runs must be a folder, got ''"),
        ("oracles.folder", "", "oracles.folder must be a folder, got ''"),
        ("seed", None, "seed must be an integer, got None"),
        ("seed", 1.5, "seed must be an integer, got 1.5"),
        ("trainer.threads", -1, "trainer.threads must be greater than or equal to 1 or null"),
        ("unlearner.optimizer.lr", math.nan, "optimizer.lr must be a finite number, got nan"),
        ("unlearner.optimizer.betas", [0.9, math.inf], "betas.1 must be a finite number, got inf"),
        ("oracles.count", 0, "oracles.count must be greater than or equal to 1, got 0"),
        ("trainer.devices", [0.5], "trainer.devices must be an integer or a string, got [0.5]"),
        ("trainer.precision", "16-mixed", "precision must be 'auto', '32-true' or 'bf16-mixed'"),
        ("trainer.strategy", "fsdp", "trainer.strategy must be auto or ddp: "),
        ("trainer.strategy", {"_target_": "x.FSDPStrategy"}, "trainer.strategy must be auto"),
        ("evaluation.bank", "all", "bank must be 'use' or 'build' or null, got 'all'"),
        ("logger.wandb.tags", "a", "logger.wandb.tags must be a list, got 'a'"),
        ("sede", 1, "sede is no setting; did you mean seed?"),
        ("oracles.counts", 1, "oracles.counts is no setting; did you mean oracles.count?"),
    ):
        other = OmegaConf.create(OmegaConf.to_container(config))
        OmegaConf.update(other, key, value, force_add=True)
        with pytest.raises(SettingError) as error:
            check_settings("unlearn", other)
        assert said in str(error.value), key
    check_settings("unlearn", composed("unlearn", "+trainer.max_time=1"))  # Lightning's
    ddp = {"_target_": "pytorch_lightning.strategies.DDPStrategy"}
    OmegaConf.update(config, "trainer.strategy", ddp)
    check_settings("unlearn", config)


def test_an_unknown_key_is_told_its_new_name_or_the_nearest_one() -> None:
    for key, said in (
        ("training.epocs", "is no setting; did you mean training.epochs?"),
        ("lr", "is no setting; did you mean training.optimizer.lr?"),
        ("zzzzzz", "zzzzzz is no setting"),
        ("training.supervision", "is now training.exemplar_strategy"),
        ("group", "is now population"),
        ("data.cache_folder", "data.cache_folder was removed: set the environment variable"),
        ("objective", "objective was removed: a sweeper gets A_r - A_f"),
        ("unlearner.masked", "unlearner.masked was removed: forget classes are always masked"),
    ):
        assert str(unknown_key(key, KNOWN)).endswith(said) or said in str(unknown_key(key, KNOWN))


def test_errors_of_hydra_become_sentences() -> None:
    composition = ConfigCompositionException("Could not override 'unlearner.step'.\nand more")
    assert "did you mean unlearner.steps?" in sentence_of(composition, "unlearn")
    missing = MissingConfigException("", "data/nosuch", ["digits", "mnist"])
    assert sentence_of(missing) == "there is no data/nosuch; there are digits, mnist"
    other = ConfigCompositionException("Could not override 'unlearner'. No match")
    assert sentence_of(other, "train").endswith("a setting of geniu unlearn, not of geniu train")
    unquoted = sentence_of(OverrideParseException("out=/a/lr=0.1", "mismatched input '='"))
    assert "out=/a/lr=0.1 cannot be read" in unquoted
    assert """quoted, "out='...'\"""" in unquoted
    renamed = MissingConfigException("", "evaluation/word", ["full"])
    assert sentence_of(renamed) == "evaluation/word is now evaluation/verdict"
    unset = MissingMandatoryValue("???")
    unset.full_key = "data.source.hub_id"
    assert sentence_of(unset) == "data.source.hub_id has to be set"


def test_known_keys_are_those_of_the_chosen_files() -> None:
    words = ("-m", "unlearner=ssd,geniu", "seed=1,2", "nosuch.key=3", "sweep=tune")
    keys = keys_of("unlearn", words)
    assert {"seed", "unlearner.name", "trainer.devices", "oracles.count", "experiment"} <= set(keys)
    assert set(keys) != set(keys_of("unlearn", ("unlearner=none",)))


def test_values_that_only_a_constructor_knows_are_refused_before_training(
    command: Command, tmp_path: Path
) -> None:
    for word, said in (
        ("training.epochs=1.5", "training.epochs must be an integer, got 1.5"),
        ("training.epochs=null", "training.epochs must be an integer, got None"),
        ("model.width=0", "model.width must be greater than or equal to 1, got 0"),
        ("model.width=abc", "model.width must be an integer, got 'abc'"),
        ("generator.latent=0", "generator.latent must be greater than or equal to 1, got 0"),
        ("training.optimizer.lr=-1", "training.optimizer must be an optimizer that can be made ("),
        ("data.std=0", "data.std.0 must be greater than 0, got 0.0"),
        ("imbalance.ratio=nan", "imbalance.ratio must be a finite number, got nan"),
        ("imbalance.rato=0.1", "imbalance.rato is no setting; did you mean imbalance.ratio?"),
        ("imbalance=null", "error: imbalance=null: a group is chosen by the name of a file of it"),
        ("=3", "error: =3: a group is chosen by the name of a file of it"),
        ("seed", "seed is no setting: settings are written KEY=VALUE"),
        ("training.optimizer._target_=nosuch.Adam", "No module named 'nosuch'"),
    ):
        outcome = command("train", *TINY, word, f"out={tmp_path / 'run'}")
        assert (outcome.status, outcome.err.count("\n")) == (2, 1), (word, outcome.err)
        assert said in outcome.err, word


def test_a_sweep_says_how_many_of_its_jobs_failed(command: Command, tmp_path: Path) -> None:
    words = (*TINY, "evaluation=none", f"runs={tmp_path}", "seed=1,abc")
    outcome = command("train", "-m", *words)
    assert outcome.status != 0
    assert "1 of 2 failed" in outcome.out
    assert "seed must be an integer, got 'abc'" in outcome.err
    (tmp_path / "file").touch()
    outcome = command("train", "-m", *TINY, f"runs={tmp_path / 'file'}", "seed=1,2")
    assert outcome.status == 2
    assert outcome.err == f"error: {tmp_path / 'file/multirun'} cannot be used: Not a directory\n"
