"""The view that compares runs, made by wandb's library for workspaces."""

from typing import Any

from geniu_lightning.errors import UserError
from geniu_lightning.report.document import FORGET_ACCURACY, RELEARNED, RETAIN_ACCURACY

PINNED = (
    *("verdict", "verdict_reason", "findings", FORGET_ACCURACY, RETAIN_ACCURACY),
    *(f"{RETAIN_ACCURACY}.oracles", f"{RETAIN_ACCURACY}.z", RELEARNED),
)
WITH_ORACLES = {
    "retained": RETAIN_ACCURACY,
    "forgotten": FORGET_ACCURACY,
    "worst retained class": "accuracy.test.worst_retained",
    "the class comes back (area, 10 shots)": RELEARNED,
}
COSTS = ("seconds", "training_images_read", "peak_memory_bytes")
# the kind of wandb's chart, and which column of its table is what
BARS = ("wandb/bar/v0", {"label": "class", "value": "accuracy"})
MATRIX = ("wandb/confusion_matrix/v1", {k: k for k in ("Actual", "Predicted", "nPredictions")})
LINES = ("wandb/lineseries/v0", {k: k for k in ("step", "lineKey", "lineVal")})
CLASSES = {
    **{f"classes/{when}": BARS for when in ("after", "oracles", "before")},
    **{f"confusion/{when}": MATRIX for when in ("after", "before")},
}
ATTACKS = {
    "curves/relearning.k10.curve": LINES,
    "curves/relearning.k10.retain_curve": LINES,
    "curves/relearning_sgd.k10.curve": LINES,
    "curves/retain_only.curve": LINES,
    "curves/adaptive.curve": LINES,
}


def workspace_of(project: str, entity: str, group: str | None) -> Any:  # a workspace of wandb's
    """Return a view of a project's runs, of one wandb group or all; nothing is sent.

    `entity` is the account or team that the project belongs to.
    """
    ws, wr, expr = _library()
    retain = wr.SummaryMetric(RETAIN_ACCURACY)
    gone = [
        wr.ScatterPlot(
            title="forgotten and retained accuracy", x=wr.SummaryMetric(FORGET_ACCURACY), y=retain
        ),
        *(_bars(wr, k, f"{k}.oracles", title=title) for title, k in WITH_ORACLES.items()),
        wr.ScatterPlot(
            title="what it costs", x=wr.SummaryMetric("cost.seconds"), y=retain, log_x=True
        ),
    ]
    training = [
        wr.LinePlot(title="loss", metric_regex="(train|unlearn)/loss.*"),
        wr.LinePlot(title="accuracy", y=["train/accuracy", "validation/accuracy"]),
        wr.MediaBrowser(title="proxies", media_keys=["proxies"]),
    ]
    sections = [
        ws.Section(name="Is it gone?", panels=gone, is_open=True, pinned=True),
        ws.Section(name="Classes", panels=_charts(wr, CLASSES), is_open=True),
        ws.Section(name="Attacks", panels=_charts(wr, ATTACKS), is_open=True),
        ws.Section(name="Cost", panels=[_bars(wr, f"cost.{name}") for name in COSTS]),
        ws.Section(name="Training", panels=training),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"class unlearning{'' if group is None else f', {group}'}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=50),
        runset_settings=ws.RunsetSettings(
            filters=[] if group is None else [expr.Metric("Group") == group],
            pinned_columns=[f"summary:{name}" for name in PINNED],
        ),
    )


def spec_of(workspace: Any) -> str:  # of workspace_of
    """Return what would be sent, as JSON."""
    # the library has no public way to look at a view before it is saved
    text: str = workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)
    return text


def save(workspace: Any) -> str:  # of workspace_of
    """Send the view and return its address; wandb refuses without an account."""
    import wandb

    try:
        workspace.save()
    except wandb.errors.Error as error:
        raise UserError(f"wandb did not take the view: {error}") from error
    return str(workspace.url)


def _bars(wr: Any, *names: str, title: str = "") -> Any:  # likewise, and a panel
    return wr.BarPlot(title=title or names[0], metrics=[wr.SummaryMetric(n) for n in names])


def _charts(wr: Any, charts: dict[str, tuple[str, dict[str, str]]]) -> list[Any]:
    return [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": f"{name}_table"}},
            chart_name=kind,
            chart_fields=fields,
            chart_strings={"title": name},
        )
        for name, (kind, fields) in charts.items()
    ]


def _library() -> tuple[Any, Any, Any]:  # its modules
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise UserError(
            "wandb's library for views is missing: pip install -e '.[dashboards]' in the checkout"
        ) from error
    return ws, wr, expr
