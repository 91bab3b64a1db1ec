"""The view that compares runs, made by wandb's library for workspaces."""

from typing import Any

from geniu_lightning.errors import UserError
from geniu_lightning.report.leaves import FORGET_ACCURACY, RELEARNED, RETAIN_ACCURACY

PINNED = (
    *("verdict", FORGET_ACCURACY, RETAIN_ACCURACY),
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
MATRIX = (
    "wandb/confusion_matrix/v1",
    {name: name for name in ("Actual", "Predicted", "nPredictions")},
)
LINES = ("wandb/lineseries/v0", {name: name for name in ("step", "lineKey", "lineVal")})
CLASSES = {
    "classes/after": BARS,
    "classes/oracles": BARS,
    "classes/before": BARS,
    "confusion/after": MATRIX,
    "confusion/before": MATRIX,
}
ATTACKS = {
    f"curves/{name}": LINES
    for name in (
        "relearning.k10.curve",
        "relearning.k10.retain_curve",
        "retain_only.curve",
        "adaptive.curve",
    )
}


def workspace_of(project: str, entity: str, group: str | None) -> Any:  # a workspace of wandb's
    """Return a view of a project's runs; nothing is sent.

    Args:
        project: In which the runs are.
        entity: Account or team that it belongs to.
        group: Show the runs of this wandb group alone; `None` shows all.

    Raises:
        UserError: If wandb's library for views is not installed.
    """
    ws, _, expr = _library()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"class unlearning{'' if group is None else f', {group}'}",
        sections=_sections(),
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
    """Send the view and return its address.

    Raises:
        UserError: If wandb refuses, as it does without an account.
    """
    import wandb

    try:
        workspace.save()
    except wandb.errors.Error as error:
        raise UserError(f"wandb did not take the view: {error}") from error
    return str(workspace.url)


def _sections() -> list[Any]:
    ws, wr, _ = _library()
    return [
        ws.Section(name="Is it gone?", panels=_compared(wr), is_open=True, pinned=True),
        ws.Section(name="Classes", panels=_charts(wr, CLASSES), is_open=True),
        ws.Section(name="Attacks", panels=_charts(wr, ATTACKS), is_open=True),
        ws.Section(name="Cost", panels=[_bars(wr, f"cost.{name}") for name in COSTS]),
        ws.Section(name="Training", panels=_curves(wr)),
    ]


def _compared(wr: Any) -> list[Any]:  # the library's module
    plane = wr.ScatterPlot(
        title="forgotten and retained accuracy",
        x=wr.SummaryMetric(FORGET_ACCURACY),
        y=wr.SummaryMetric(RETAIN_ACCURACY),
    )
    paid = wr.ScatterPlot(
        title="what it costs",
        x=wr.SummaryMetric("cost.seconds"),
        y=wr.SummaryMetric(RETAIN_ACCURACY),
        log_x=True,
    )
    bars = [_bars(wr, name, f"{name}.oracles", title=title) for title, name in WITH_ORACLES.items()]
    return [plane, *bars, paid]


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


def _curves(wr: Any) -> list[Any]:
    loss = wr.LinePlot(title="loss", metric_regex="(train|unlearn)/loss.*")
    accuracy = wr.LinePlot(title="accuracy", y=["train/accuracy", "validation/accuracy"])
    return [loss, accuracy, wr.MediaBrowser(title="proxies", media_keys=["proxies"])]


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
