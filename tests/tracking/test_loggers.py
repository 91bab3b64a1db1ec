"""What a dashboard shows: read back from the files that wandb writes without a network."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.image import imsave

from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.tracking import workspace
from geniu_lightning.tracking.charts import Shown, charts_of, numbers_of
from geniu_lightning.tracking.loggers import closing, loggers_of, show, wandb_id
from tests.tracking.offline import OfflineRun, offline_runs

SETTINGS = {
    "csv": {},
    "wandb": {"project": "mine", "entity": None, "group": "sweep7", "tags": ["t" * 70]},
}
NAMES = ("cat", "dog", "ship")


def leaf(value: Any, mean: Any = None, std: Any = None, z: Any = None, original: Any = None) -> Any:
    return {"value": value, "oracle_mean": mean, "oracle_std": std, "z": z, "original": original}


METRICS = {
    "accuracy": {
        "test": {
            "retain": leaf(0.9, 0.8, 0.1, 1.0, 0.7),
            "forget": leaf(0.2),
            "per_class": leaf([0.1, 0.2, None], [0.3, 0.4, None]),
        }
    },
    "relearning": {"k10": {"curve": leaf([0.0, 0.6], [0.1, 0.5], original=[0.2, 0.9])}},
    "retain_only": {"curve": leaf([0.0, 0.4])},  # at unknown steps
    "probe": {"absent": "no images"},
}
COST = {"seconds": 1.5, "reads_prompts": True, "seconds_each": [1.5], "peak": {"absent": "x"}}
NUMBERS = {
    "accuracy.test.retain": 0.9,
    "accuracy.test.retain.oracles": 0.8,
    "accuracy.test.retain.oracles_std": 0.1,
    "accuracy.test.retain.z": 1.0,
    "accuracy.test.forget": 0.2,
    "cost.seconds": 1.5,
    "cost.reads_prompts": True,
}
BEFORE = torch.tensor([[3, 1, 0], [0, 2, 5], [0, 0, 7]])
AFTER = torch.tensor([[0, 4, 0], [6, 1, 0], [0, 8, 9]])


def shown(picture: Path, forget: tuple[int, ...] = (0,)) -> Shown:
    nan = float("nan")
    evaluation: Any = SimpleNamespace(
        accuracies={"before": [0.5, 0.6, nan], "after": [0.1, 0.2, nan]},
        confusions={"before": BEFORE, "after": AFTER},
        metrics=METRICS,
        steps={"relearning": [0, 50]},
    )
    why = {"verdict": "retained", "verdict_reason": "still answered", "findings": 2}
    summary = {**why, **numbers_of(METRICS, COST)}
    return Shown(summary, evaluation, NAMES, forget, "test", {"proxies": picture})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was logged, resumed in another process' place, and failed then."""
    folder = tmp_path_factory.mktemp("my run")
    imsave(folder / "a.png", torch.zeros(4, 4, 3).numpy())
    for steps in (range(3), range(2, 4)):
        loggers = loggers_of(
            SETTINGS, folder, "unlearn", {"forget": [0], "a": {"b": 1}}, ["digits"]
        )
        try:
            with closing(loggers):
                for step in steps:
                    for logger in loggers:
                        logger.log_metrics({"loss": 2.0 * step}, step=step)
                if steps.start:
                    raise ValueError
                show(loggers, shown(folder / "a.png"))
        except ValueError:
            pass
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[OfflineRun]:
    return offline_runs(folder)


def test_numbers_stand_with_those_of_the_oracles(runs: list[OfflineRun]) -> None:
    assert numbers_of(METRICS, COST) == NUMBERS
    assert runs[0].summary.items() >= (NUMBERS | {"verdict": "retained"}).items()


def test_a_run_says_what_it_is_and_a_resumed_one_is_the_same(
    folder: Path, runs: list[OfflineRun]
) -> None:
    first, second = runs
    for found in runs:
        assert found.run.run_id == wandb_id(folder)
        assert (found.run.run_group, found.run.job_type) == ("sweep7", "unlearn")
        assert (found.run.project, found.run.display_name) == ("mine", folder.name)
        assert {*found.run.tags} == {"digits", "t" * 64}
        assert (found.config["forget"], found.config["a"]) == ([0], {"b": 1})
    assert (first.exits, second.exits) == ([0], [1])
    steps = [
        [(row["trainer/global_step"], row["loss"]) for row in found.history if "loss" in row]
        for found in runs
    ]
    assert steps == [[(0, 0.0), (1, 2.0), (2, 4.0)], [(2, 4.0), (3, 6.0)]]
    (file, *_) = sorted(folder.glob("log/*/metrics.csv"))
    assert [row["loss"] for row in csv.DictReader(file.open())] == ["0.0", "2.0", "4.0"]


def test_classes_are_a_table_and_bars(runs: list[OfflineRun]) -> None:
    columns, rows = runs[0].table("classes/table")
    assert columns == ["class", "side", "before", "after", "oracles"]
    assert rows == [
        ["cat", "forget", 0.5, 0.1, 0.3],
        ["dog", "retain", 0.6, 0.2, 0.4],
        ["ship", "retain", None, None, None],
    ]
    for k, when in enumerate(("before", "after", "oracles"), start=2):
        assert runs[0].table(f"classes/{when}_table")[1] == [[row[0], row[k]] for row in rows]


def test_confusion_is_of_true_class_and_answer_and_curves_are_lines(
    runs: list[OfflineRun],
) -> None:
    for when, counts in (("before", BEFORE), ("after", AFTER)):
        _, rows = runs[0].table(f"confusion/{when}_table")
        assert len(rows) == 9
        for actual, predicted, count in rows:
            assert counts[NAMES.index(actual), NAMES.index(predicted)] == count
    _, rows = runs[0].table("curves/relearning.k10.curve_table")
    assert rows == [
        *([0, "model", 0.0], [50, "model", 0.6]),
        *([0, "oracles", 0.1], [50, "oracles", 0.5]),
        *([0, "original", 0.2], [50, "original", 0.9]),
    ]


def test_the_workspace_shows_what_is_logged_under_its_name(runs: list[OfflineRun]) -> None:
    found = runs[0]
    (row,) = [row for row in found.history if "classes/table" in row]
    charts = {name.removesuffix("_table") for name in row if name.endswith("_table")}
    curve = "curves/relearning.k10.curve"
    assert charts == {*workspace.CLASSES, curve}  # no curve at unknown steps
    for name, (kind, fields) in {**workspace.CLASSES, curve: workspace.ATTACKS[curve]}.items():
        drawn = found.chart(name)
        assert (drawn["panelDefId"], drawn["fieldSettings"]) == (kind, fields)
        assert found.table(f"{name}_table")[0] == list(fields.values())
    assert "image" in str(row["proxies"])
    assert {*workspace.PINNED} - found.summary.keys() == {"relearning.k10.area"}


def test_without_wandb_nothing_is_shown_and_without_evaluation_there_is_no_chart(
    tmp_path: Path,
) -> None:
    assert loggers_of(None, tmp_path, "train", {}, []) == []
    loggers = loggers_of({"csv": {}, "wandb": None}, tmp_path, "train", {}, [])
    with closing(loggers):
        show(loggers, shown(tmp_path / "none.png"))
    loggers = loggers_of({"wandb": SETTINGS["wandb"]}, tmp_path, "train", {}, [])
    with closing(loggers):
        show(loggers, Shown({"cost.seconds": 1.0}, Evaluation(), NAMES, (), "test"))
    charts = charts_of(shown(tmp_path, forget=()))  # after training
    assert not {"classes/oracles", "classes/after", "confusion/after"} & charts.keys()
    (found,) = offline_runs(tmp_path)
    assert (found.history, found.summary["cost.seconds"]) == ([], 1.0)
