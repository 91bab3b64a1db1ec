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
from geniu_lightning.report.document import leaves, upgraded

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


def rows_in(title: str, columns: int) -> list[list[str]]:
    """Return the cells of rows about a problem, of the tables of a section that are so wide."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in row[1:-1].split("|")] for row in section.splitlines()]
    return [row for row in cells if len(row) == columns and re.match(r"[\w-]+ [\d.]+", row[0])]


def problem(cell: str) -> tuple[str, str, str]:
    """Return the folder of a data set, the ratio and the forgotten class."""
    said = re.match(r"([\w-]+) ([\d.]+).*?, (\d)\b", cell)
    assert said, cell
    return FOLDERS[said[1]], said[2], said[3]


def finished(
    runs: Path, data: str, ratio: str, forgotten: str, folder: str = "regrow"
) -> list[dict[str, Any]]:
    files = sorted(runs.glob(f"{folder}/{data}-{ratio}-*/regrow-{forgotten}/metrics.json"))
    assert files
    return [upgraded(json.loads(file.read_text())) for file in files]


def means(found: list[dict[str, Any]], part: str = "value") -> list[float]:
    """Return the mean of each of `COLUMNS`."""
    values = [dict(leaves(run["metrics"])) for run in found]
    return [statistics.mean(one[name][part] for one in values) for name in COLUMNS]


def problems() -> list[list[str]]:
    return rows_in("What is found", len(COLUMNS) + 2)


def test_all_values_are_what_the_report_makes_of_the_runs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: dict[str, set[str]] = defaultdict(set)
    for folder in sorted(runs.iterdir()):
        assert main([str(folder), "--markdown"]) == 0
        for head, rows in tables(capsys.readouterr().out).items():
            made[head] |= rows
    printed = tables(PAGE)
    assert len(printed) == len({problem(row[0]) for row in problems()}) > 0
    for head, rows in printed.items():
        assert rows <= made[head], head


def test_the_table_of_problems_is_of_the_runs(runs: Path) -> None:
    for about, *cells, counts in problems():
        found = finished(runs, *problem(about))
        oracles = means(found[:1], "oracle_mean")
        wanted = [f"{a:.3f} ({b:.3f})" for a, b in zip(means(found), oracles, strict=True)]
        assert cells == wanted, about
        verdicts = dict(re.findall(r"([a-z][a-z ]*) (\d+)", counts))
        assert verdicts == {k: str(n) for k, n in Counter(run["verdict"] for run in found).items()}


def test_the_values_that_say_nothing_are_those_of_the_runs(runs: Path) -> None:
    rows = rows_in("What is found", 2)
    for about, names in rows:
        found = finished(runs, *problem(about))
        blind = Counter(
            attack["name"]
            for run in found
            for attack in run["attacks"]
            if attack["reach"] <= attack["allowed"]
        )
        expected = {k for k, n in blind.items() if 2 * n > len(found)}
        assert set(re.findall(r"`([\w.]+)`", names)) == expected, about
    assert [problem(row[0]) for row in rows] == [problem(row[0]) for row in problems()]


def test_the_comparison_with_agreement_is_of_all_runs_without(runs: Path) -> None:
    rows = rows_in("What limits it", len(COLUMNS) + 3)
    for about, _, *cells, _ in rows:
        both = [
            means(finished(runs, *problem(about), folder))
            for folder in ("regrow", "regrow-unweakened")
        ]
        assert cells == [f"{a:.3f} ({b:.3f})" for a, b in zip(*both, strict=True)], about
    there = [path.parent for path in runs.glob("regrow-unweakened/*/regrow-*/metrics.json")]
    assert {problem(row[0]) for row in rows} == {
        (*path.parent.name.split("-")[:2], path.name.removeprefix("regrow-")) for path in there
    }


def test_the_controls_are_runs_that_differ_in_what_the_table_says(runs: Path) -> None:
    def settings(path: Path) -> dict[str, Any]:
        same = ("name", "agreement")  # the latter changes nothing on this kit
        found = json.loads(path.read_text())["run"]["unlearner"]
        return {key: str(value) for key, value in found.items() if key not in same}

    section = PAGE.partition("\n## Controls that could refute it\n")[2].partition("\n## ")[0]
    controls = re.findall(r"^\| (?!\||oracles|original)(.*) \|$", section, flags=re.MULTILINE)
    assert controls
    usual = runs / "regrow-cost" / "regrow_1000" / "metrics.json"
    values = {"true": "True", "false": "False", "null": "None"}
    names = ("accuracy.test.forget", "accuracy.test.retain", "relearning.k10.area")
    names += ("adaptive.net", "probe.recall", "prototype.all.recall")
    for row in controls:
        _, said, *cells = (cell.strip() for cell in row.split("|"))
        asked = settings(usual)
        for name, value in re.findall(r"`(\w+)=(\w+)`", said):
            key = FORMER_NAMES.get(name, name)
            assert key in asked
            asked[key] = values.get(value, value)
        (found,) = [
            upgraded(json.loads(path.read_text()))
            for path in (usual, *runs.glob("regrow-ctl/*/metrics.json"))
            if settings(path) == asked
        ]
        measured = dict(leaves(found["metrics"]))
        assert cells == [*(f"{measured[name]['value']:.3f}" for name in names), found["verdict"]]


def test_the_summary_counts_the_verdicts_of_these_runs(runs: Path) -> None:
    asked = [problem(row[0]) for row in problems()]
    counts = Counter(
        run["verdict"]
        for data, ratio, forgotten in asked
        if data in ("mnist", "fashion_mnist")
        for run in finished(runs, data, ratio, forgotten)
    )
    section = PAGE.partition("\n## Should I use it?\n")[2].partition("\n## ")[0]
    said = re.findall(r"^\| \*(\w+)\* \| (\d+) \|", section, flags=re.MULTILINE)
    assert {verdict: int(n) for verdict, n in said} == counts
    assert f"verdicts of its {counts.total()} runs" in PAGE
