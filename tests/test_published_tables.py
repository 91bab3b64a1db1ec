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
