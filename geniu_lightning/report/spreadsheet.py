"""Everything that was measured, as a CSV file: a line a method in a setting."""

import csv
import io
from collections.abc import Iterator, Sequence

from geniu_lightning.report.rows import means
from geniu_lightning.report.runs import Run
from geniu_lightning.report.tables import Line, Table

SHAPE = (
    "one line a setting and method, oracles and original included; for each number NAME (such as"
    " accuracy.test.forget) the columns NAME.mean, NAME.std (divisor n - 1, empty for one seed) and"
    " NAME.n, beside NAME.oracle_mean and NAME.oracle_std of the oracles it was compared with,"
    " of which the column oracles has the number;"
    " numbers as measured, nothing rounded, an empty cell where there is none; pandas:"
    " read_csv(FILE, index_col=['setting', 'method'])"
)
COLUMNS = ("setting", "data", "imbalance", "network", "forget", "method", "role")
ABOUT = (*COLUMNS, "best", "seeds", "n", "oracles", "words", "failed_seeds")
PARTS = ("mean", "std", "n", "oracle_mean", "oracle_std")


def as_csv(found: Sequence[Table]) -> str:
    """Return the file's text; its shape is that of ``SHAPE``."""
    names = sorted({name for table in found for line in table.lines for name in line.row.mean})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*ABOUT, *(f"{name}.{part}" for name in names for part in PARTS)])
    for table in found:
        for line in table.lines:
            oracles = _oracles(line, table.runs)
            writer.writerow([*_about(line, table), *_numbers(line, names, oracles)])
    return out.getvalue()


def _about(line: Line, table: Table) -> Iterator[object]:
    yield table.setting
    yield from table.runs[0].parts
    yield line.row.method
    yield line.role
    yield line.best
    yield " ".join(map(str, line.row.seeds))
    yield len(line.row.seeds)
    yield " ".join(map(str, sorted({len(bank) for bank in line.row.oracles})))
    yield line.words
    yield " ".join(map(str, sorted(line.row.failures)))


def _numbers(
    line: Line, names: Sequence[str], oracles: tuple[dict[str, float], dict[str, float]]
) -> Iterator[object]:
    """Yield the parts of each number; ``None`` is an empty cell."""
    row = line.row
    for name in names:
        yield row.mean.get(name)
        yield row.std.get(name)
        yield row.counts.get(name, 0)
        yield from (part.get(name) for part in oracles)


def _oracles(line: Line, runs: Sequence[Run]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and deviation of the oracles, over the runs that a line was gathered from."""
    own = [run.oracles for run in runs if run.method == line.row.method and not run.failed]
    return means([one.mean.values for one in own]), means([one.std for one in own])
