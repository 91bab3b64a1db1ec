"""Finished runs as they describe themselves in their ``metrics.json``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geniu_lightning.errors import UserError
from geniu_lightning.report.leaves import Leaf, is_number, leaves, lists, numbers

# of how a kit was trained, what its classifier and its oracles follow from: kits whose prompts and
# generator were trained otherwise are still about the same problem
RECIPE = ("batch_size", "epochs", "optimizer", "schedule", "max_gradient_norm")
PLACES = ("root", "cache_folder")  # of the settings of data: where, not what


@dataclass(frozen=True)
class Found:
    """What was measured of one model, by dotted names.

    Attributes:
        values: Numbers, such as ``accuracy.test.forget`` and ``cost.seconds``.
        curves: Lists of numbers, such as ``relearning.k10.curve``.
    """

    values: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Oracles:
    """The retrained models that a run was compared with.

    Attributes:
        seeds: Their training seeds; empty where there were none.
        mean: Means over them.
        std: Deviations of the numbers between them.
        words: How many of them the rule gave which word.
    """

    seeds: tuple[int, ...] = ()
    mean: Found = field(default_factory=Found)
    std: dict[str, float] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One unlearning run that ended, well or not.

    Attributes:
        folder: Where it is.
        parts: What was forgotten from what: data, imbalance, network, classes.
        method: Name of the method; an experiment that changes its settings changes its name too.
        basis: The file of ``unlearning/`` that the method is in, whatever its name.
        problem: Settings that an original and its oracles follow from, by dotted names, as text.
        seed: Training seed of the kit it began with.
        kit: Digest of the kit; empty where the run does not say it.
        unlearning_seed: Of all that the method drew; ``None`` where the run does not say it.
        training: How the kit was trained, as text.
        recipe: The method's settings, as text; runs of one row share it and ``training``.
        evaluation: Its settings, and whether the method reads prompts, which are then judged too,
            as text.
        found: What was measured.
        oracles: What it was compared with.
        original: What was measured of the original beside it.
        original_word: What the evaluation says of the original; ``None`` where it says nothing.
        word: What the evaluation says of the run; ``None`` where it says nothing.
        reason: Why it says so.
        deciding: The values that decided, as the evaluation wrote them.
        steps: At which relearning was read; empty where the run does not say it.
        revision: Of the package's sources; empty where it is not known.
        failed: Why there is nothing; empty where the run ended well.
        again: Why judging it anew failed; the values are then those found before.
        apart: What of the problem tells it from others with the same parts; empty without any.
    """

    folder: Path
    parts: tuple[str, str, str, str]
    method: str
    basis: str
    problem: dict[str, str]
    seed: int
    kit: str
    unlearning_seed: int | None
    training: str
    recipe: str
    evaluation: str
    found: Found
    oracles: Oracles
    original: Found
    original_word: str | None = None
    word: str | None = None
    reason: str = ""
    deciding: tuple[dict[str, Any], ...] = ()
    steps: tuple[float, ...] = ()
    revision: str = ""
    failed: str = ""
    again: str = ""
    apart: str = ""

    @property
    def setting(self) -> str:
        """All parts in one line; runs that share it are about one problem."""
        return ", ".join(filter(None, (*self.parts, self.apart)))


@dataclass(frozen=True)
class Trained:
    """A training run that left a picture of the kit's proxies.

    Attributes:
        picture: The file.
        parts: As of a `Run`, without the classes.
        problem: As of a `Run`.
        seed: Training seed.
        training: As of a `Run`.
    """

    picture: Path
    parts: tuple[str, str, str]
    problem: dict[str, str]
    seed: int
    training: str


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the unlearning runs at or below some folders that ended, well or not.

    Raises:
        UserError: If there is none, a folder is not there, or a file cannot be read.
    """
    names = ("metrics.json", "failed.json")
    found = {file.parent for name in names for file in below(folders, name)}
    runs = [run for folder in sorted(found) if (run := read(folder)) is not None]
    if not runs:
        raise UserError(f"no finished unlearning run in {', '.join(map(str, folders))}")
    return _told_apart(runs)


def trained(folders: Sequence[Path]) -> list[Trained]:
    """Return the training runs at or below some folders that left a picture of their proxies.

    Raises:
        UserError: If a folder is not there, or a file cannot be read.
    """
    return list(_trained(below(folders, "proxies.png")))


def below(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the files of a name at or below some folders.

    Raises:
        UserError: If a folder is not there.
    """
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    return sorted(
        {
            file
            for folder in folders
            for file in folder.rglob(name)
            # a run that is done anew sets its results aside under such a name
            if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        }
    )


def _trained(pictures: Sequence[Path]) -> Iterator[Trained]:
    for picture in pictures:
        file = picture.parent / "metrics.json"
        if file.is_file():
            try:
                run = json.loads(file.read_text())["run"]
                if run.get("job") == "train":
                    precision = run.get("trainer", {}).get("precision")  # a kit's own name for it
                    problem = _problem(run | {"precision": precision})
                    training = _text(run.get("training"))
                    yield Trained(picture, _parts(run), problem, run["seed"], training)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unreadable(file, error) from error


def read(folder: Path) -> Run | None:
    """Return the unlearning run in a folder; ``None`` where there is none.

    Raises:
        UserError: If its file cannot be read.
    """
    file, failure = folder / "metrics.json", folder / "failed.json"
    # what ended well once stays so, though judging it anew failed
    again = failure.is_file() and file.is_file() and (folder / "done.json").is_file()
    if failure.is_file() and not again:
        file = failure
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text())
        if document["run"].get("job") != "unlearn":
            return None
        run = _run(folder, document)
        return replace(run, again=json.loads(failure.read_text())["failed"]) if again else run
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _run(folder: Path, document: dict[str, Any]) -> Run:
    run, cost = document["run"], document.get("cost", {})
    name = str(run["unlearner"]["name"])
    found = list(leaves(document.get("metrics", {})))
    costs = {f"cost.{k}": float(v) for k, v in cost.items() if is_number(v)}
    return Run(
        folder=folder,
        parts=(*_parts(run["trained"]), _asked(run)),
        method=name,
        basis=_file_of(str(run["unlearner"].get("_target_", ""))) or name,
        problem=_problem(run["trained"]),
        seed=run["trained"]["seed"],
        kit=str(run.get("kit_sha256") or ""),
        unlearning_seed=run.get("seed"),
        training=_text(run["trained"].get("training")),
        recipe=_text(run["unlearner"]),
        evaluation=_text([run.get("evaluation"), cost.get("reads_prompts")]),
        found=Found(numbers(found, "value") | costs, lists(found, "value")),
        oracles=_oracles(document, found, costs),
        original=Found(numbers(found, "original"), lists(found, "original")),
        original_word=(document.get("controls") or {}).get("original"),
        word=document.get("verdict", document.get("word")),
        reason=str(document.get("reason", document.get("word_reason")) or ""),
        deciding=tuple(document.get("deciding") or ()),
        steps=tuple(document.get("steps", {}).get("relearning") or ()),
        revision=str(run.get("revision") or ""),
        failed=str(document.get("failed", "")),
    )


def _oracles(
    document: dict[str, Any], found: list[tuple[str, Leaf]], costs: dict[str, float]
) -> Oracles:
    mean = numbers(found, "oracle_mean")
    if "cost.retrain_seconds" in costs:  # what unlearning takes, for a model retrained
        mean["cost.seconds"] = costs["cost.retrain_seconds"]
    return Oracles(
        tuple(document.get("oracles") or ()),
        Found(mean, lists(found, "oracle_mean")),
        numbers(found, "oracle_std"),
        dict(document.get("oracle_verdicts", document.get("oracle_words")) or {}),
    )


def _asked(run: dict[str, Any]) -> str:
    """Return what was to be forgotten: a second request begins with another model than one."""
    before = run.get("forgotten_before", [])
    now = [k for k in run["forget"] if k not in before]
    return f"forget {now}{f' after {before}' if before else ''}"


def _parts(trained: dict[str, Any]) -> tuple[str, str, str]:
    """Return data, imbalance and network in words."""
    imbalance = dict(trained["imbalance"])
    kind = str(imbalance.pop("_target_")).rpartition(".")[2]
    imbalance.pop("_partial_", None)
    if not imbalance.get("seed"):  # said where it is not the usual one: other images were kept
        imbalance.pop("seed", None)
    details = ", ".join(f"{k} {v}" for k, v in sorted(imbalance.items()))
    network = str(trained["model"]["_target_"]).rpartition(".")[2]
    width = trained["model"].get("width")
    return (
        str(trained["data"]["name"]),
        f"{kind}{f' ({details})' if details else ''}",
        f"{network}{f' width {width}' if width else ''}",
    )


def _file_of(target: str) -> str:
    """Return the name of the module in which a class is; empty where none is said."""
    return target.rpartition(".")[0].rpartition(".")[2]


def _problem(trained: Mapping[str, Any]) -> dict[str, str]:
    """Return what tells problems apart; the forgotten classes are among the parts already."""
    recipe = trained.get("training") or {}
    return dict(
        _flat(
            {
                "data": {k: v for k, v in trained["data"].items() if k not in PLACES},
                "imbalance": trained["imbalance"],
                "model": trained["model"],
                "training": {name: recipe.get(name) for name in RECIPE},
                "precision": trained.get("precision"),
            }
        )
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by dotted names; one that is null is as good as none."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, str) else _text(value)


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; where one setting's name stands for several problems, it says what differs.

    Models of different problems have nothing to be averaged or compared over.
    """
    problems: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        known = problems.setdefault(run.setting, [])
        if run.problem not in known:
            known.append(run.problem)
    return [replace(run, apart=_difference(run.problem, problems[run.setting])) for run in runs]


def _difference(own: dict[str, str], problems: Sequence[dict[str, str]]) -> str:
    names = sorted({name for one in problems for name in one})
    return ", ".join(
        f"{name} {own.get(name, 'null')}"
        for name in names
        if len({one.get(name) for one in problems}) > 1
    )


def _text(settings: object) -> str:
    return json.dumps(settings, sort_keys=True)


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} cannot be read as the metrics of a run: {error!r}")
