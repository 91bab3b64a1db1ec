"""What is shown of an evaluation whose every value is another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.tracking.charts import Matrix, Shown, charts_of, numbers_of
from geniu_lightning.tracking.loggers import closing, loggers_of, show
from tests.cli.test_configurations import composed
from tests.tracking.offline import OfflineRun, offline_runs

NAMES = ("cat", "dog", "ship")


def leaf(value: Any, mean: Any = None, std: Any = None, z: Any = None, original: Any = None) -> Any:
    beside = {"oracle_mean": mean, "oracle_std": std, "z": z, "original": original}
    return {"value": value, **beside}


METRICS = {
    "accuracy": {
        "test": {
            "retain": leaf(0.9, 0.8, 0.1, 1.0, 0.7),
            "forget": leaf(0.2),
            "per_class": leaf([0.1, 0.2, None], [0.3, 0.4, None]),
        }
    },
    "relearning": {"k10": {"curve": leaf([0.0, 0.6], [0.1, 0.5], original=[0.2, 0.9])}},
    "retain_only": {"curve": leaf([0.0, 0.4])},
    "probe": {"absent": "no images"},
}
FOUND = SimpleNamespace(
    metrics=METRICS,
    confusions={
        "before": torch.tensor([[3, 1, 0], [0, 2, 5], [0, 0, 7]]),
        "after": torch.tensor([[0, 4, 0], [6, 1, 0], [0, 8, 9]]),
    },
    accuracies={"before": [0.5, 0.6, float("nan")], "after": [0.1, 0.2, float("nan")]},
    steps={"relearning": [0, 50]},
)


def test_numbers_stand_beside_those_of_the_oracles() -> None:
    cost = {"seconds": 1.5, "reads_prompts": True, "seconds_each": [1.5], "peak": {"absent": "x"}}
    assert numbers_of(METRICS, cost) == {
        "accuracy.test.retain": 0.9,
        "accuracy.test.retain.oracles": 0.8,
        "accuracy.test.retain.oracles_std": 0.1,
        "accuracy.test.retain.z": 1.0,
        "accuracy.test.forget": 0.2,
        "cost.seconds": 1.5,
        "cost.reads_prompts": True,
    }


def test_after_training_there_is_the_original_alone() -> None:
    charts = charts_of(FOUND, NAMES, (), "test")
    assert set(charts) == {
        "classes/table",
        "classes/before",
        "confusion/before",
        "curves/relearning.k10.curve",
    }


def test_without_evaluation_there_is_nothing() -> None:
    assert charts_of(Evaluation(), NAMES, (0,), "test") == {}


def test_a_curve_whose_steps_are_unknown_is_none() -> None:
    assert "curves/retain_only.curve" not in charts_of(FOUND, NAMES, (0,), "test")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    folder: Path = tmp_path_factory.mktemp("shown")
    loggers = loggers_of(composed("train", "logger=wandb"), folder, "train", {}, [])
    with closing(loggers):
        show(loggers, Shown({"word": "keeps"}, charts_of(FOUND, NAMES, (0,), "test")))
    (found,) = offline_runs(folder)
    return found


def test_wandb_shows_classes(logged: OfflineRun) -> None:
    columns, rows = logged.table("classes/table")
    assert columns == ["class", "side", "before", "after", "oracles"]
    assert rows == [
        ["cat", "forget", 0.5, 0.1, 0.3],
        ["dog", "retain", 0.6, 0.2, 0.4],
        ["ship", "retain", None, None, None],
    ]
    assert logged.table("classes/oracles_table")[1] == [["cat", 0.3], ["dog", 0.4], ["ship", None]]


@pytest.mark.parametrize("when", ["before", "after"])
def test_wandb_shows_confusion(logged: OfflineRun, when: str) -> None:
    matrix = charts_of(FOUND, NAMES, (0,), "test")[f"confusion/{when}"]
    assert isinstance(matrix, Matrix)
    _, rows = logged.table(f"confusion/{when}_table")
    assert len(rows) == 9
    for actual, predicted, count in rows:
        counted = FOUND.confusions["before"] if when == "before" else FOUND.confusions["after"]
        assert counted is not None
        assert counted[NAMES.index(actual), NAMES.index(predicted)] == count


def test_wandb_shows_curves(logged: OfflineRun) -> None:
    _, rows = logged.table("curves/relearning.k10.curve_table")
    assert rows == [
        *([0, "model", 0.0], [50, "model", 0.6]),
        *([0, "oracles", 0.1], [50, "oracles", 0.5]),
        *([0, "original", 0.2], [50, "original", 0.9]),
    ]
    assert logged.summary["word"] == "keeps"
