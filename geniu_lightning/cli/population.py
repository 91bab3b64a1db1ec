"""Evaluation of methods by populations of runs: `geniu evaluate population=[FOLDER]`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from geniu_lightning.cli import terminal
from geniu_lightning.cli.data import decoding_progress, recorded_data
from geniu_lightning.cli.device import begin, device_of
from geniu_lightning.cli.model_evaluation import split_of
from geniu_lightning.cli.results import VERSION
from geniu_lightning.cli.terminal import say
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import DataNotFoundError, UserError
from geniu_lightning.evaluation.context import Outputs, outputs_of
from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.evaluation.metric import Values
from geniu_lightning.evaluation.population import INFOS, Model, evaluate_population
from geniu_lightning.files import write_json
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import description_of, kit_metadata
from geniu_lightning.report.aggregate import gather
from geniu_lightning.report.load import Run, find
from geniu_lightning.report.problem import RECIPE
from geniu_lightning.runs.folder import WEIGHTS

ORACLE = "retrain"
FILE = "population.json"
SHOWN = ("u_lira.auc", "u_lira_retained.auc", "rmia.auc", "rmia_retained.auc")


def evaluate_folders(config: DictConfig) -> None:
    """Evaluate the population of runs that a configuration names."""
    if (config.get("logger") or {}).get("wandb") is not None:
        raise UserError("logger= is for single weights: the results of a population are a file")
    if config.out is None:
        raise UserError("name the folder for the results of the population: out=FOLDER")
    names = config.population
    folders = [names] if isinstance(names, str) else list(names)
    begin(config.trainer)
    out = Path(config.out).expanduser()
    compare(config, [Path(folder).expanduser() for folder in folders], out)


def compare(config: DictConfig, folders: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Compare the runs of each method with the retrained models of the same setting.

    Args:
        config: `data`, `trainer`, `allow_custom` and `force`.
        folders: Of runs, or of such folders. Runs of one method differ in their training seed;
            a run without weights is left out.
        out: Where `population.json` is written.

    Returns:
        The content of that file: an entry for each setting, with `methods` by name, and in each the
        `seeds` and the values as `metrics.json` holds them.

    Raises:
        UserError: If there are no runs, none or only retrained ones, two of one training seed, or
            runs of one setting on other training images, with another normalisation, recipe or
            other forgotten classes; or if there are results and `force` is not set.
        DataNotFoundError: If the images are not found.
    """
    if (out / FILE).exists() and not config.force:
        raise UserError(f"{out / FILE} holds results; choose another out=, or give force=true")
    ended = [run for run in find(folders) if not run.failed]
    runs = [run for run in ended if (run.folder / WEIGHTS).is_file()]
    if len(runs) < len(ended):
        say(f"{len(ended) - len(runs)} of {len(ended)} runs are left out: they have no weights")
    settings = sorted({row.setting for row in gather(runs)})  # which refuses a seed that is twice
    lacking = [s for s in settings if not _of(runs, s, ORACLE)]
    if lacking or not settings:
        raise UserError(
            f"there is no run of unlearner={ORACLE} to compare with in"
            f" {lacking[0] if lacking else ', '.join(map(str, folders))}"
        )
    populations = [[run for run in runs if run.setting == setting] for setting in settings]
    for group in populations:
        if all(run.method == ORACLE for run in group):
            raise UserError(f"there is nothing but unlearner={ORACLE} in {group[0].setting}")
    for group in populations:  # before any model is read, which takes long
        _refuse_mixture(group)
    entries = [_setting(config, group) for group in populations]
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
    """Return what runs must have in common, as recorded in the weights, by its description."""
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
    """Return the results in one setting."""
    setting = runs[0].setting
    reader = _Reader(config, runs)
    oracles = _of(runs, setting, ORACLE)
    retrained = [reader.outputs(run) for run in oracles]
    methods: dict[str, Any] = {}
    for method in sorted({run.method for run in runs} - {ORACLE}):
        mine = _of(runs, setting, method)
        values = evaluate_population(
            [reader.outputs(run) for run in mine], retrained, reader.forget
        )
        methods[method] = {"seeds": [run.seed for run in mine], "values": _tree(values)}
    return {
        "setting": setting,
        "forget": list(reader.forget),
        "oracle_seeds": [run.seed for run in oracles],
        "methods": methods,
    }


def _tree(values: Values) -> dict[str, Any]:
    infos = {name: INFOS[name.rpartition(".")[2]] for name in values}
    return Evaluation(values, infos=infos).metrics


class _Reader:
    """Outputs of the models of one setting.

    Args:
        config: As `compare` takes it.
        runs: All of one setting.
    """

    def __init__(self, config: DictConfig, runs: Sequence[Run]) -> None:
        self.config = config
        self.device = device_of(config.trainer)
        self.first = self._load(runs[0])
        self.forget = self.first.info.forgotten
        self.data = self._open()
        self._count, self._total = 0, len(runs)
        self._reported = time.monotonic()

    def outputs(self, run: Run) -> Model:
        """Return the logits of a run's model on test and training images."""
        kit = self._load(run)
        self._count += 1
        if time.monotonic() - self._reported > terminal.SECONDS_BETWEEN_LINES:
            self._reported = time.monotonic()
            say(f"reading model {self._count} of {self._total}")
        found = {}
        for split in ("test", "train"):
            whole = outputs_of(kit.classifier, split_of(self.data, split, self.device))
            none = torch.empty(len(whole.labels), 0)  # features would fill the memory
            found[split] = Outputs(whole.logits, none, whole.labels)
        return found

    def _load(self, run: Run) -> Kit:
        return Kit.load(run.folder / WEIGHTS, self.config.allow_custom).to(self.device)

    def _open(self) -> ImageData:
        info, config = self.first.info, self.config
        data = recorded_data(
            info.settings,
            config.data.root,
            config.data.name,
            config.allow_custom,
            on_decode=decoding_progress(),
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
