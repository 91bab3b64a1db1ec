"""Tables on a screen, as Markdown, LaTeX and CSV, and all values of a run."""

import re
from pathlib import Path

import pandas
import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.report.text import as_latex, escaped
from tests.report.examples import CURVE, SETTING, change, failed, kit, leaf, relearned, run, table

RETAIN = "accuracy.test.retain"


def test_markdown_has_means_spread_counts_and_the_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in ((1, 0.1), (2, 0.3), (3, None)):
        run(tmp_path / f"{seed}", "geniu", seed, forget=value)
    for seed, verdict in ((1, "suppressed"), (2, "forgotten"), (3, "suppressed"), (4, None)):
        folder = run(tmp_path / f"f{seed}", "finetune", seed, verdict=verdict)
        if seed == 1:
            relearned(folder, CURVE, 0.625)
    assert main([str(tmp_path), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert f"**{SETTING}**" in printed
    assert "| A_f train | relearned | time, s | read | verdict |" in printed  # no empty column
    assert "| geniu | 3 | 0.2000 ± 0.1414 (2) | 0.9000 ± 0.0000 | - |" in printed
    assert "| 0.6250 (1) | 2.00 ± 0.00 | 0 | suppressed 2/4, forgotten 1/4 |" in printed
    assert "No row is marked as best: " in printed
    assert "The rule for (best)" in printed
    run(tmp_path / "4", "geniu", 4)
    for form in ([], ["--markdown"]):
        assert main([str(tmp_path), *form]) == 0
        assert "geniu (best)" in (printed := capsys.readouterr().out)
        assert "Best: geniu, the only method here" in printed


def test_a_narrow_screen_still_shows_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for seed, value in ((1, 0.1), (2, 0.3)):
        run(tmp_path / f"{seed}", "synthetic_embeddings", seed, forget=value)
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert {"synthetic_embeddings", "0.2000", "0.1414"} <= {*printed.split()}
    assert "…" not in printed


def test_brackets_and_lines_of_a_run_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "[ship]" / "[" / "x]", "[b]m[/x]:ship:")
    change(folder, metrics={"cka": {"absent": "no\nlayers"}})
    failed(tmp_path / "c", "scrub", 1, "no\nmemory")
    for more in ([], ["--values"]):
        assert main([str(tmp_path), *more]) == 0
        printed = capsys.readouterr().out
        assert "[b]m[/x]:ship:" in printed
        if more:
            assert "[ship]/[/x]:[b]m[/x]:ship:,forgotten" in "".join(printed.split())
            assert "absent: cka.*: no layers\n" in printed
        else:
            assert "scrub, seed 1, failed: no memory\n" in printed


def test_all_values_of_a_run_stand_with_those_of_oracles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit(tmp_path / "kit", 1)
    area = leaf(0.625, oracle_mean=0.0625, oracle_std=0.03125, z=16.44, original=1.0, position=0.6)
    metrics = {
        "relearning": {"k10": {"area": area, "curve": area | {"value": [0.0, 1.0]}}},
        "probe": {"recall": {"absent": "no test images"}, "retain": area | {"value": -4321.25}},
        "cka": {"a": {"b": {"absent": "no oracles"}, "c": {"absent": "no oracles"}}},
    }
    change(run(tmp_path / "a", "geniu", verdict=None), metrics=metrics)
    assert main([str(tmp_path), "--values", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "geniu, no verdict**" in printed
    assert "\nbecause geniu\n" in printed
    cells = "0.6250 | 0.0625 | 0.0312 | 16.4 | 1.0000 | 0.6000 | oracle | -"
    assert f"| relearning.k10.area | {cells} |" in printed
    assert "absent: probe.recall: no test images" in printed
    assert "absent: cka.*: no oracles" in printed
    assert "| probe.retain | -4321 |" in printed
    assert printed.count("**") == 2  # a training run has no values to compare


def test_pandas_reads_exact_numbers_as_help_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = 1 / 3
    for seed, value in ((1, third), (2, 1.0)):
        run(tmp_path / f"{seed}", "geniu", seed, retain=value)
    failed(tmp_path / "3", "geniu", 3, "no memory")
    file = tmp_path / "all.csv"
    assert main([str(tmp_path), "--csv", str(file), "--latex"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("% in the preamble: \\usepackage{booktabs}")
    assert captured.out.endswith("\\end{table}\n% geniu, seed 3, failed: no memory\n")
    assert captured.err == f"wrote {file}\n"
    frame = pandas.read_csv(file, index_col=["setting", "method"], float_precision="round_trip")
    frame = frame.loc[SETTING]
    assert [*frame.index] == ["oracles (5)", "none", "logit_mask", "random_init", "geniu"]
    line = frame.loc["geniu"]
    assert line[f"{RETAIN}.mean"] == (third + 1.0) / 2
    assert line[f"{RETAIN}.std"] == pytest.approx((1 - third) / 2**0.5, rel=1e-15)
    assert [line[f"{RETAIN}.{part}"] for part in ("n", "oracle_mean", "oracle_std")] == [
        *(2, 0.875, 0.0625)
    ]
    assert (line["seeds"], line["failed_seeds"], line["verdicts"]) == ("1 2", 3, "forgotten 2/2")
    assert (line["network"], line["best"]) == ("AllCNN width 4", False)
    assert frame["oracles"].isna().tolist() == [False, False, True, True, False]
    assert frame[f"{RETAIN}.n"].tolist() == [5, 2, 0, 0, 2]
    assert frame[f"{RETAIN}.mean"].isna().tolist() == [False, False, True, True, False]
    assert frame.loc["oracles (5)", f"{RETAIN}.mean"] == 0.875
    assert not [name for name in frame if "per_class" in name]


def test_a_latex_table_is_whole(tmp_path: Path) -> None:
    assert escaped("a_b & 5% of $x {y} #1 ~^\\ < ±") == (
        r"a\_b \& 5\% of \$x \{y\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}"
        r" \textless{} $\pm$"
    )
    for seed in (1, 2, 3):
        run(tmp_path / f"{seed}", "my_method", seed, retain=0.5 + seed / 8)
    failed(tmp_path / "c", "other", 1, "50% of\nit")  # a reason may not leave its comment
    text = as_latex([table(tmp_path)] * 2)
    heads = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") + 1 for line in rows} == {len(head) for head in heads}
    assert r"\textbf{my\_method (best)} & 3 & 0.1250 $\pm$ 0.0000 & 0.7500 $\pm$ 0.1250" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [2, 4, 2]
    assert r"% other, seed 1, failed: 50\% of it" in text
    assert [text.count(f"tab:unlearning-{k}") for k in (1, 2, 3)] == [1, 1, 0]
