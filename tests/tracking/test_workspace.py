"""The view of wandb's library; sending it needs an account, and is not tested."""

import json
import sys
from typing import Any

import pytest

from geniu_lightning.cli.dashboard import main
from geniu_lightning.tracking.workspace import ATTACKS, BARS, CLASSES


def test_the_view_compares_runs_with_the_oracles(capsys: pytest.CaptureFixture[str]) -> None:
    def view(*arguments: str) -> dict[str, Any]:
        assert main(["--dry-run", *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def filters(found: dict[str, Any]) -> list[Any]:
        (runs,) = found["spec"]["section"]["runSets"]
        return [(f["key"]["name"], f["value"]) for f in runs["filters"].get("filters", [])]

    pytest.importorskip("wandb_workspaces", reason="the extra [dashboards] is not installed")
    whole = view("--project", "mine", "--entity", "me")
    assert (whole["project"], whole["entity"]) == ("mine", "me")
    sections = whole["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    bars = [p["config"]["metrics"] for p in panels if p["viewType"] == "Bar Chart"]
    retain = "summary_metrics.accuracy.test.retain"
    assert [retain, f"{retain}.oracles"] in bars
    charts = [p["config"] for p in panels if p["viewType"] == "Vega2"]
    assert len(charts) == len(CLASSES) + len(ATTACKS)
    assert (charts[0]["panelDefId"], charts[0]["fieldSettings"]) == BARS
    assert '"classes/after_table"' in json.dumps(charts[0])
    assert ("group", "sweep7") not in filters(whole)
    assert ("group", "sweep7") in filters(view("--group", "sweep7"))


def test_what_cannot_work_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([]) == 2
    assert "--entity NAME" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for name in ("reports.v2", "workspaces", "reports"):
        monkeypatch.delitem(sys.modules, f"wandb_workspaces.{name}", raising=False)
    assert main(["--dry-run"]) == 2
    assert ".[dashboards]" in capsys.readouterr().err
