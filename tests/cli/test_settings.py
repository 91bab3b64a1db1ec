"""The schema of the commands: one sentence that names key, wanted and given value."""

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from geniu_lightning.cli.command import sentence_of
from geniu_lightning.cli.settings import check_settings, keys_of, unknown_key
from geniu_lightning.errors import SettingError
from tests.cli.test_configurations import composed

KNOWN = ("training", "training.epochs", "training.optimizer.lr", "out")


def test_a_value_that_does_not_fit_is_refused_by_its_key() -> None:
    config = composed("unlearn", "kit=x", "logger=both")
    check_settings("unlearn", config)
    for key, value, said in (
        ("seed", "one", "seed must be an integer, got 'one'"),
        ("force", 1, "force must be a boolean, got 1"),
        ("out", 3, "out must be a string or null, got 3"),
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
        ("objective", "objective was removed: a sweeper gets A_r - A_f"),
        ("unlearner.masked", "unlearner.masked was removed: forget classes are always masked"),
    ):
        assert str(unknown_key(key, KNOWN)).endswith(said) or said in str(unknown_key(key, KNOWN))


def test_errors_of_hydra_become_sentences() -> None:
    composition = ConfigCompositionException("Could not override 'unlearner.step'.\nand more")
    assert "did you mean unlearner.steps?" in sentence_of(composition, "unlearn")
    missing = MissingConfigException("", "data/nosuch", ["digits", "mnist"])
    assert sentence_of(missing) == "there is no data/nosuch; there are digits, mnist"
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
