"""Judging methods by many of their runs: U-LiRA, RMIA and KLoM need models, not a model."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from geniu_lightning.cli import data as build
from geniu_lightning.cli import terminal
from geniu_lightning.cli.assess import VERSION, opened
from geniu_lightning.cli.device import device_of
from geniu_lightning.cli.terminal import say
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.evaluation.context import Outputs, outputs_of
from geniu_lightning.evaluation.evaluator import Findings, tree_of
from geniu_lightning.evaluation.metric import Values
from geniu_lightning.evaluation.population import READINGS, Model, assess_group
from geniu_lightning.files import write_json
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import description_of, kit_metadata
from geniu_lightning.report.rows import gather
from geniu_lightning.report.runs import Run, find
from geniu_lightning.runs.folder import WEIGHTS
from geniu_lightning.runs.oracles import RECIPE

ORACLE = "retrain"
FILE = "group.json"
SHOWN = ("u_lira.auc", "u_lira_retained.auc", "rmia.auc", "rmia_retained.auc")


def judge_group(config: DictConfig, folders: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Compare the runs of each method with the retrained models of the same setting.

    Args:
        config: ``data``, ``trainer``, ``allow_custom`` and ``force``.
        folders: Of runs, or of such folders. Runs of one method differ in their training seed;
            a run without weights is left out.
        out: Where ``group.json`` is written.

    Returns:
        What is written: an entry a setting, with ``methods`` by name and in each the ``seeds`` and
        the values as ``metrics.json`` holds them.

    Raises:
        UserError: If there are no runs, none or only retrained ones, two of one training seed, or
            runs of one setting on other training images, with another normalisation, recipe or
            other forgotten classes; or if there are results that ``force`` does not give up.
        DataNotFoundError: If the images are nowhere.
    """
    if (out / FILE).exists() and not config.force:
        raise UserError(f"{out / FILE} holds results; choose another out=, or give force=true")
    ended = [run for run in find(folders) if not run.failed]
    runs = [run for run in ended if (run.folder / WEIGHTS).is_file()]
    if len(runs) < len(ended):
        say(f"{len(ended) - len(runs)} of {len(ended)} runs are left out: their weights are gone")
    settings = sorted({row.setting for row in gather(runs)})  # which refuses a seed that is twice
    lacking = [s for s in settings if not _of(runs, s, ORACLE)]
    if lacking or not settings:
        raise UserError(
            f"there is no run of unlearner={ORACLE} to compare with in"
            f" {lacking[0] if lacking else ', '.join(map(str, folders))}"
        )
    groups = [[run for run in runs if run.setting == setting] for setting in settings]
    for group in groups:
        if all(run.method == ORACLE for run in group):
            raise UserError(f"there is nothing but unlearner={ORACLE} in {group[0].setting}")
    for group in groups:  # all of them before any, as reading models takes long
        _refuse_mixture(group)
    entries = [_setting(config, group) for group in groups]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, {"version": VERSION, "settings": entries})
    for entry in entries:
        _print(entry)
    say(f"results: {out / FILE}")
    return entries


def _of(runs: Sequence[Run], setting: str, method: str) -> list[Run]:
    """Return the runs of a method in a setting by their training seeds."""
    found = [run for run in runs if (run.setting, run.method) == (setting, method)]
    return sorted(found, key=lambda run: run.seed)


def _refuse_mixture(runs: Sequence[Run]) -> None:
    """Refuse runs of one setting that differ in images, classes or training."""
    first, *others = [_subject(run) for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        differ = [what for what, value in first.items() if other[what] != value]
        if differ:
            raise UserError(
                f"{run.folder} cannot be compared with {runs[0].folder}: they differ"
                f" in {', '.join(differ)}"
            )


def _subject(run: Run) -> dict[str, Any]:
    """Return what the weights of a run say that they are about, by what it is called."""
    info = description_of(kit_metadata(run.folder / WEIGHTS))
    settings = info.get("settings", {})
    recipe = settings.get("training", {})
    # the fingerprint is of the whole set, and equal counts may be of other images
    training = (settings.get("imbalance"), info.get("class_counts"))
    return {
        "the data set": info.get("data_fingerprint"),
        "its normalisation": info.get("spec"),
        "the training images (imbalance)": training,
        "the forgotten classes": info.get("forgotten"),
        "how the original was trained": (
            {k: recipe.get(k) for k in RECIPE},
            settings.get("precision"),
        ),
    }


def _setting(config: DictConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what is found in one setting."""
    setting = runs[0].setting
    reader = _Reader(config, runs)
    oracles = _of(runs, setting, ORACLE)
    retrained = [reader.outputs(run) for run in oracles]
    methods: dict[str, Any] = {}
    for method in sorted({run.method for run in runs} - {ORACLE}):
        mine = _of(runs, setting, method)
        values = assess_group([reader.outputs(run) for run in mine], retrained, reader.forget)
        methods[method] = {"seeds": [run.seed for run in mine], "values": _tree(values)}
    return {
        "setting": setting,
        "forget": list(reader.forget),
        "oracle_seeds": [run.seed for run in oracles],
        "methods": methods,
    }


def _tree(values: Values) -> dict[str, Any]:
    return tree_of(Findings(values, readings={k: READINGS[k.rpartition(".")[2]] for k in values}))


class _Reader:
    """Opens weights one after another, and reads the images with them.

    Args:
        config: As `judge_group` takes it.
        runs: All of one setting.
    """

    def __init__(self, config: DictConfig, runs: Sequence[Run]) -> None:
        self.config = config
        self.device = device_of(config.trainer)
        self.first = self._load(runs[0])
        self.forget = self.first.info.forgotten
        self.data = self._open()
        self._count, self._total = 0, len(runs)
        self._told = time.monotonic()

    def outputs(self, run: Run) -> Model:
        """Return what the weights of a run say of test and training images, without features."""
        kit = self._load(run)
        self._count += 1
        if time.monotonic() - self._told > terminal.SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            say(f"reading model {self._count} of {self._total}")
        found = {}
        for split in ("test", "train"):
            whole = outputs_of(kit.classifier, opened(self.data, split, self.device))
            none = torch.empty(len(whole.labels), 0)  # of many models they would fill the memory
            found[split] = Outputs(whole.logits, none, whole.labels)
        return found

    def _load(self, run: Run) -> Kit:
        return Kit.load(run.folder / WEIGHTS, self.config.allow_custom).to(self.device)

    def _open(self) -> ImageData:
        info, config = self.first.info, self.config
        data = build.recorded_data(
            info.settings,
            config.data.root,
            config.data.name,
            config.allow_custom,
            on_decode=build.decoding_progress(),
        )
        if data.fingerprint != info.data_fingerprint:
            raise DataNotFoundError(
                "the images found are not those that these runs were trained on; set data.root and"
                " data.name"
            )
        data.place(self.device)
        return data


def _print(entry: dict[str, Any]) -> None:
    rows = []
    reasons = set()
    for method, found in entry["methods"].items():
        cells = []
        klom = next(k for k in found["values"] if k.startswith("klom"))
        for name in (*SHOWN, f"{klom}.test_forget.mean", f"{klom}.test_forget.floor"):
            leaf = found["values"]
            for part in name.split("."):
                leaf = leaf[part]
            reasons |= {leaf["absent"]} if "absent" in leaf else set()
            cells.append(leaf.get("value", "-"))
        rows.append([method, len(found["seeds"]), *cells])
    columns = ["method", "n", "U-LiRA", "ret.", "RMIA", "ret.", "KLoM", "floor"]
    terminal.table(f"{entry['setting']}: {len(entry['oracle_seeds'])} oracles", columns, rows)
    for reason in sorted(reasons):
        say(f"-: {reason}")
