"""The tables of docs/regrow.md are those of the runs that are published beside it."""

import json
import re
import statistics
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.report.document import upgraded

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "regrow.md").read_text()
COLUMNS = (
    "accuracy.test.retain",
    "accuracy.test.worst_retained",
    "relearning.k10.area",
    "probe.recall",
    "prototype.all.recall",
)
FORMER_NAMES = {  # of settings, as these runs recorded them
    "drop_fraction": "leave_out",
    "forget_logit_fraction": "denials",
    "label_agreement": "agreement",
}
FOLDERS = {
    "MNIST": "mnist",
    "Fashion-MNIST": "fashion_mnist",
    "KMNIST": "kmnist",
    "CIFAR-10": "cifar10",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(DOCS / "regrow_runs.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def tables(text: str) -> dict[str, set[str]]:
    """Return the rows below each bold heading."""
    found = defaultdict(set)
    for head, table in re.findall(r"^\*\*(.+)\*\*\n\n((?:\|.+\n)+)", text, flags=re.MULTILINE):
        found[head] |= set(table.splitlines()[2:])
    return found


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def problem(row: str) -> tuple[str, str, str]:
    """Return the folder of a row's data set, the ratio and the forgotten class."""
    said = re.match(r"\| ([\w-]+) ([\d.]+).*?, (\d)\b", row)
    assert said, row
    return FOLDERS[said[1]], said[2], said[3]


def finished(
    runs: Path, data: str, ratio: str, forgotten: str, folder: str = "regrow"
) -> list[dict[str, Any]]:
    files = sorted(runs.glob(f"{folder}/{data}-{ratio}-*/regrow-{forgotten}/metrics.json"))
    assert files
    return [upgraded(json.loads(file.read_text())) for file in files]


def leaf(run: dict[str, Any], name: str) -> dict[str, float]:
    tree = run["metrics"]
    for part in name.split("."):
        tree = tree[part]
    return tree


def problems() -> list[str]:
    return _rows(columns=len(COLUMNS) + 2)


def _rows(columns: int) -> list[str]:
    """Return the rows of problems of a table as wide as this."""
    rows = [row for row in section("What is found").splitlines() if re.match(r"\| .*\d\.\d", row)]
    return [row for row in rows if row.count("|") == columns + 1]


def test_all_values_are_what_the_report_makes_of_the_runs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: dict[str, set[str]] = defaultdict(set)
    for folder in sorted(runs.iterdir()):
        assert main([str(folder), "--markdown"]) == 0
        for head, rows in tables(capsys.readouterr().out).items():
            made[head] |= rows
    printed = tables(PAGE)
    assert len(printed) == len({problem(row) for row in problems()})
    for head, rows in printed.items():
        assert rows <= made[head], head


def test_the_table_of_problems_is_of_the_runs(runs: Path) -> None:
    for row in problems():
        _check_problem(runs, row)


def _check_problem(runs: Path, row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    found = finished(runs, *problem(row))
    wanted = []
    for name in COLUMNS:
        values = [leaf(run, name) for run in found]
        mean = statistics.mean(value["value"] for value in values)
        wanted.append(f"{mean:.3f} ({values[0]['oracle_mean']:.3f})")
    assert cells[1:-1] == wanted
    verdicts = dict(re.findall(r"([a-z][a-z ]*) (\d+)", cells[-1]))
    assert verdicts == {k: str(n) for k, n in Counter(run["verdict"] for run in found).items()}


def test_the_values_that_say_nothing_are_those_of_the_runs(runs: Path) -> None:
    for row in _rows(columns=2):
        found = finished(runs, *problem(row))
        blind = Counter(
            tolerance["name"]
            for run in found
            for tolerance in run["tolerances"]
            if tolerance["reach"] <= tolerance["allowed"]
        )
        expected = {k for k, n in blind.items() if 2 * n > len(found)}
        assert set(re.findall(r"`([\w.]+)`", row)) == expected, row
    assert [problem(row) for row in _rows(columns=2)] == [problem(row) for row in problems()]


def _weakened() -> list[str]:
    """Return the rows that compare the default with ``agreement=0``."""
    return [
        row
        for row in section("What limits it").splitlines()
        if re.match(rf"\| ({'|'.join(FOLDERS)}) ", row) and row.count("|") == len(COLUMNS) + 4
    ]


def test_the_comparison_with_agreement_is_of_all_runs_without(runs: Path) -> None:
    for row in _weakened():
        asked = problem(row)
        means = [
            [
                statistics.mean(leaf(run, name)["value"] for run in finished(runs, *asked, folder))
                for name in COLUMNS
            ]
            for folder in ("regrow", "regrow-unweakened")
        ]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2:-1] == [f"{a:.3f} ({b:.3f})" for a, b in zip(*means, strict=True)], row
    compared = {problem(row) for row in _weakened()}
    there = [path.parent for path in runs.glob("regrow-unweakened/*/regrow-*/metrics.json")]
    assert compared == {
        (*path.parent.name.split("-")[:2], path.name.removeprefix("regrow-")) for path in there
    }


def _controls() -> list[str]:
    """Return the rows of runs in the table of controls."""
    rows = re.findall(r"^\| .*\|$", section("Controls that could refute it"), flags=re.MULTILINE)
    return [row for row in rows if not re.match(r"\| (\||oracles|original)", row)]


def test_the_controls_are_runs_that_differ_in_what_the_table_says(runs: Path) -> None:
    assert _controls()
    for row in _controls():
        _check_control(runs, row)


def _check_control(runs: Path, row: str) -> None:
    def settings(path: Path) -> dict[str, Any]:
        same = ("name", "agreement")  # the latter changes nothing on this kit
        found = json.loads(path.read_text())["run"]["unlearner"]
        return {key: str(value) for key, value in found.items() if key not in same}

    cells = [cell.strip() for cell in row.strip("|").split("|")]
    usual = runs / "regrow-cost" / "regrow_1000" / "metrics.json"
    values = {"true": "True", "false": "False", "null": "None"}
    asked = settings(usual)
    for name, value in re.findall(r"`(\w+)=(\w+)`", cells[1]):
        key = FORMER_NAMES.get(name, name)
        assert key in asked
        asked[key] = values.get(value, value)
    (found,) = [
        upgraded(json.loads(path.read_text()))
        for path in (usual, *runs.glob("regrow-ctl/*/metrics.json"))
        if settings(path) == asked
    ]
    names = ("accuracy.test.forget", "accuracy.test.retain", "relearning.k10.area")
    names += ("adaptive.net", "probe.recall", "prototype.all.recall")
    measured = [f"{leaf(found, name)['value']:.3f}" for name in names]
    assert cells[2:] == [*measured, found["verdict"]]


def test_the_summary_counts_the_verdicts_of_these_runs(runs: Path) -> None:
    asked = [problem(row) for row in problems()]
    counts = Counter(
        run["verdict"]
        for data, ratio, forgotten in asked
        if data in ("mnist", "fashion_mnist")
        for run in finished(runs, data, ratio, forgotten)
    )
    said = re.findall(r"^\| \*(\w+)\* \| (\d+) \|", section("Should I use it?"), flags=re.MULTILINE)
    assert {verdict: int(n) for verdict, n in said} == counts
    assert f"verdicts of its {counts.total()} runs" in PAGE
