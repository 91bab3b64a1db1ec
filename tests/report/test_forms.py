"""CSV and LaTeX, and what is written over."""

import csv
import re
from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report import files
from geniu_lightning.report.printed import as_latex, escaped
from geniu_lightning.report.runs import find
from geniu_lightning.report.spreadsheet import as_csv
from geniu_lightning.report.tables import tables
from tests.report.examples import SETTING, change, failed, run

RETAINED = "accuracy.test.retain"


def as_read(folder: Path) -> dict[str, dict[str, str]]:
    """The lines of the CSV file of some runs by their method."""
    text = as_csv(tables(find([folder])))
    return {line["method"]: line for line in csv.DictReader(text.splitlines())}


def test_a_csv_line_holds_exact_numbers_beside_the_oracles(tmp_path: Path) -> None:
    third = 1 / 3
    for seed, value in ((1, third), (2, 1.0)):
        run(tmp_path / f"{seed}", "geniu", seed, retain=value)
    failed(tmp_path / "3", "geniu", 3, "no memory")
    line = as_read(tmp_path)["geniu"]
    assert float(line[f"{RETAINED}.mean"]) == (third + 1.0) / 2
    assert float(line[f"{RETAINED}.std"]) == pytest.approx((1 - third) / 2**0.5, rel=1e-15)
    assert line[f"{RETAINED}.n"] == "2"
    assert line[f"{RETAINED}.oracle_mean"] == "0.875"
    assert line[f"{RETAINED}.oracle_std"] == "0.0625"
    assert line["seeds"] == "1 2"
    assert line["failed_seeds"] == "3"
    assert line["oracles"] == "5"
    assert line["words"] == "forgets 2/2"
    assert line["network"] == "AllCNN width 4"
    assert not any(name.startswith("accuracy.test.per_class") for name in line)


def test_a_csv_cell_is_empty_where_there_is_no_number(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    lines = as_read(tmp_path)
    assert [*lines] == ["oracles (5)", "none", "logit_mask", "random_init", "geniu"]
    assert lines["geniu"][f"{RETAINED}.std"] == ""
    assert [line["oracles"] for line in lines.values()] == ["5", "5", "", "", "5"]
    assert lines["logit_mask"][f"{RETAINED}.mean"] == ""
    assert lines["logit_mask"][f"{RETAINED}.n"] == "0"
    assert lines["logit_mask"]["words"] == "not run"
    assert lines["oracles (5)"][f"{RETAINED}.mean"] == "0.875"
    assert lines["oracles (5)"][f"{RETAINED}.n"] == "5"
    assert lines["none"]["cost.seconds.mean"] == ""


def test_pandas_reads_the_csv_as_help_says(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    run(tmp_path / "a", "geniu", retain=0.1)
    assert main([str(tmp_path), "--csv", str(tmp_path / "all.csv")]) == 0
    frame = pandas.read_csv(tmp_path / "all.csv", index_col=["setting", "method"])
    assert frame.loc[(SETTING, "geniu"), f"{RETAINED}.mean"] == 0.1
    assert frame[f"{RETAINED}.mean"].dtype == float
    assert frame["best"].tolist() == [False, False, False, False, True]


def test_latex_prints_what_it_is_given() -> None:
    assert escaped("a_b & 5% of $x {y} #1 ~^\\ < ±") == (
        r"a\_b \& 5\% of \$x \{y\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}"
        r" \textless{} $\pm$"
    )
    assert escaped("two\nlines") == "two lines"  # a reason may not leave its comment


def test_a_latex_table_is_whole(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path / f"{seed}", "my_method", seed, retain=0.5 + seed / 4)
    failed(tmp_path / "c", "other", 1, "50% of\nit")
    text = as_latex(tables(find([tmp_path])))
    (head,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") + 1 for line in rows} == {len(head)}
    assert r"\textbf{my\_method (best)} & 2 & 0.1250 $\pm$ 0.0000 & 0.8750 $\pm$ 0.1768" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert r"% other, seed 1, failed: 50\% of it" in text
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 1


def test_latex_goes_to_the_screen_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", "geniu")
    assert main([str(tmp_path), "--latex", "--csv", str(tmp_path / "all.csv")]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("% in the preamble: \\usepackage{booktabs}")
    assert captured.out.endswith("\\end{table}\n")
    assert captured.err == f"wrote {tmp_path / 'all.csv'}\n"


# ---- files -----------------------------------------------------------------------------------


def test_own_files_are_replaced_and_others_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "runs" / "a", "geniu")
    out = tmp_path / "new" / "folder"
    command = [str(tmp_path / "runs"), "--html", str(out / "page.html")]
    command += ["--csv", str(out / "all.csv"), "--figures", str(out / "figures")]
    assert main(command) == 0
    written = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(written) == 5  # page, numbers, and the figures of trade-off, price and cost
    change(folder, word="hides")
    assert main(command) == 0
    assert "hides 1/1" in (out / "all.csv").read_text()
    for path in written:
        before = {each: each.read_bytes() for each in written}
        path.write_text("mine")
        assert main(command) == 2
        assert f"{path} is there, and not from this command" in capsys.readouterr().err
        assert {each: each.read_bytes() for each in written} == before | {path: b"mine"}
        assert main([*command, "--force"]) == 0
        assert path.read_bytes() != b"mine"
    assert sorted(path for path in out.rglob("*") if path.is_file()) == written


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text(files.MARK)

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="no space left"):
        files.write([(path, b"new")], force=False)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == files.MARK


def test_no_file_is_new_where_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(files.MARK)
    usual = Path.write_bytes

    def filling(self: Path, content: bytes) -> int:
        if "b" in self.name:
            raise OSError("no space left")
        return usual(self, content)

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises(UserError, match="no space left"):
        files.write([(path, b"new") for path in paths], force=False)
    assert sorted(tmp_path.iterdir()) == paths
    assert [path.read_text() for path in paths] == [files.MARK] * 2


def test_one_file_for_two_forms_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "runs" / "a", "geniu")
    out = tmp_path / "all"
    same = tmp_path / "runs" / ".." / "all"
    assert main([str(tmp_path / "runs"), "--csv", str(out), "--html", str(same)]) == 2
    assert f"{out} is named for 2 files" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_in_the_way_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", "geniu")
    for more in ([], ["--force"]):
        assert main([str(tmp_path), "--csv", str(tmp_path), *more]) == 2
        assert "cannot be written: it is a folder" in capsys.readouterr().err
