"""What a sweeper optimises: named, measured, or told to be missing."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from geniu_lightning.cli.objective import objective_of, terms_of
from geniu_lightning.errors import UserError
from tests.cli.conftest import TINY, Command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    metrics = {
        "accuracy": {"test": {"retain": {"value": 0.75}, "forget": {"value": 0.5}}},
        "membership": {"mia": {"absent": "too few images"}},
    }
    document = {"metrics": metrics, "cost": {"seconds": 2, "reads_prompts": True}}
    (tmp_path / "metrics.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (None, 0.75),
        ("accuracy.test.forget", 0.5),
        ("accuracy.test.retain - accuracy.test.forget", 0.25),
        ("-accuracy.test.forget+accuracy.test.retain-cost.seconds", -1.75),
    ],
)
def test_an_objective_adds_and_subtracts_what_was_measured(
    folder: Path, objective: str | None, value: float
) -> None:
    config = OmegaConf.create({"objective": objective})
    assert objective_of(config, folder, "accuracy.test.retain") == value


def test_the_usual_one_may_be_missing_and_a_named_one_may_not(folder: Path) -> None:
    assert objective_of(OmegaConf.create({"objective": None}), folder, "no.such") is None
    for name in ("no.such", "membership.mia", "cost.reads_prompts"):
        with pytest.raises(UserError, match=f"names {name}, which was not measured; there are acc"):
            objective_of(OmegaConf.create({"objective": name}), folder, "accuracy.test.retain")


@pytest.mark.parametrize("objective", ["a b", "a * b", "3 a", "a -", "a - - b", "+"])
def test_what_is_no_objective_is_refused(objective: str) -> None:
    with pytest.raises(UserError, match="objective must be names of values"):
        terms_of(objective)


def test_commands_take_it_before_and_after_they_work(command: Command, trained: Path) -> None:
    words = (f"out={trained}", "seed=1")
    assert command("train", *TINY, *words, "objective=accuracy.test.worst_retained").status == 0
    refused = command("train", *TINY, *words, "objective=a*b")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    missing = command("train", *TINY, *words, "objective=accuracy.test.forgotten")
    assert missing.status == 2
    assert "objective names accuracy.test.forgotten, which was not measured" in missing.err
