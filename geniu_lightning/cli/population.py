"""Evaluation of methods by populations of runs: `geniu evaluate population=[FOLDER]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from geniu_lightning.cli import terminal
from geniu_lightning.cli.data import recorded_data
from geniu_lightning.cli.device import begin, device_of
from geniu_lightning.cli.model_evaluation import split_of
from geniu_lightning.cli.results import VERSION
from geniu_lightning.cli.terminal import say
from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import Outputs, outputs_of
from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.evaluation.population import INFOS, Model, evaluate_population
from geniu_lightning.files import flat, write_json
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.header import kit_metadata
from geniu_lightning.kit.info import KitInfo
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


def compare(config: DictConfig, folders: Sequence[Path], out: Path) -> None:
    """Compare the runs of each method with the retrained models of the same setting.

    `population.json` gets an entry for each setting, with `methods` by name, and in each the
    `seeds` and the values as `metrics.json` holds them.
    """
    if (out / FILE).exists() and not config.force:
        raise UserError(f"{out / FILE} holds results; choose another out=, or give force=true")
    ended = [run for run in find(folders) if not run.failed]
    runs = [run for run in ended if (run.folder / WEIGHTS).is_file()]
    if len(runs) < len(ended):
        say(f"{len(ended) - len(runs)} of {len(ended)} runs are left out: they have no weights")
    settings = sorted({row.setting for row in gather(runs)})  # which refuses a seed that is twice
    populations = [[run for run in runs if run.setting == setting] for setting in settings]
    for group in populations or [[]]:
        methods = {run.method for run in group}
        where = group[0].setting if group else ", ".join(map(str, folders))
        if ORACLE not in methods:
            raise UserError(f"there is no run of unlearner={ORACLE} to compare with in {where}")
        if methods == {ORACLE}:
            raise UserError(f"there is nothing but unlearner={ORACLE} in {where}")
        _refuse_mixture(group)  # before any model is read, which takes long
    entries = [_setting(config, group) for group in populations]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, {"version": VERSION, "settings": entries})
    for entry in entries:
        _print(entry)
    say(f"results: {out / FILE}")


def _refuse_mixture(runs: Sequence[Run]) -> None:
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
    info = KitInfo.from_json(kit_metadata(run.folder / WEIGHTS)["geniu"])
    settings = info.settings
    recipe = {k: settings.get("training", {}).get(k) for k in RECIPE}
    return {
        "the data set": info.data_fingerprint,
        "its normalisation": info.spec,
        # the fingerprint is of the whole set, and equal counts may be of other images
        "the training images (imbalance)": (settings.get("imbalance"), info.class_counts),
        "the forgotten classes": info.forgotten,
        "how the original was trained": (recipe, settings.get("precision")),
    }


def _setting(config: DictConfig, runs: Sequence[Run]) -> dict[str, Any]:
    device, due, read = device_of(config.trainer), terminal.paced(), 0

    def load(run: Run) -> Kit:
        return Kit.load(run.folder / WEIGHTS, config.allow_custom).to(device)

    info = load(runs[0]).info
    data = recorded_data(info, **config.data, allow_custom=config.allow_custom)
    data.place(device)

    def outputs(run: Run) -> Model:
        """Return the logits of a run's model on test and training images."""
        nonlocal read
        kit, read = load(run), read + 1
        if due():
            say(f"reading model {read} of {len(runs)}")
        found = {}
        for split in ("test", "train"):
            whole = outputs_of(kit.classifier, split_of(data, split, device))
            none = torch.empty(len(whole.labels), 0)  # features would fill the memory
            found[split] = Outputs(whole.logits, none, whole.labels)
        return found

    of: dict[str, list[Run]] = {run.method: [] for run in runs}
    for run in sorted(runs, key=lambda run: run.seed):
        of[run.method].append(run)
    oracles = of.pop(ORACLE)
    retrained = [outputs(run) for run in oracles]
    methods: dict[str, Any] = {}
    for method in sorted(of):
        models = [outputs(run) for run in of[method]]
        values = evaluate_population(models, retrained, info.forgotten)
        infos = {name: INFOS[name.rpartition(".")[2]] for name in values}
        tree = Evaluation(values, infos=infos).metrics
        methods[method] = {"seeds": [run.seed for run in of[method]], "values": tree}
    return {
        "setting": runs[0].setting,
        "forget": list(info.forgotten),
        "oracle_seeds": [run.seed for run in oracles],
        "methods": methods,
    }


def _print(entry: dict[str, Any]) -> None:
    rows = []
    reasons = set()
    for method, found in entry["methods"].items():
        klom = next(k for k in found["values"] if k.startswith("klom"))
        names = (*SHOWN, f"{klom}.test_forget.mean", f"{klom}.test_forget.floor")
        leaves = flat(found["values"])
        reasons |= {leaves[f"{n}.absent"] for n in names if f"{n}.absent" in leaves}
        cells = [leaves.get(f"{name}.value", "-") for name in names]
        rows.append([method, len(found["seeds"]), *cells])
    columns = ["method", "n", "U-LiRA", "ret.", "RMIA", "ret.", "KLoM", "floor"]
    terminal.table(f"{entry['setting']}: {len(entry['oracle_seeds'])} oracles", columns, rows)
    for reason in sorted(reasons):
        say(f"-: {reason}")
