"""Settings of the commands: one schema each, and the error that names an unknown key.

Groups that describe objects (data, model, training, unlearner, metrics, ...) are checked by the
constructors of these objects.
"""

import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from geniu_lightning.errors import SettingError
from geniu_lightning.settings import checked
from geniu_lightning.settings.checked import NonNegativeInt, PositiveInt, expected, located, shown
from geniu_lightning.settings.configs import CONF

Object = dict[str, Any]  # its own constructor checks it
Content = Literal["prompts", "distribution", "archive"]  # of a kit
Classes = Any  # names and indices; the kit says which there are
RENAMED = {  # keys and files of groups
    "training.supervision": "training.exemplar_strategy",
    "group": "population",
    "evaluation/word": "evaluation/verdict",
}
REMOVED = {
    "data.cache_folder": "set the environment variable GENIU_CACHE",
    "generator/none": "kit=null trains the classifier alone",
    "objective": "a sweeper gets A_r - A_f (unlearn) or A_r (train) of evaluation.split",
}


class _Group(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Trainer(_Group):
    model_config = ConfigDict(strict=True, extra="allow")
    accelerator: str
    devices: int | str | list[int]
    num_nodes: PositiveInt
    strategy: str | Object
    precision: Literal["auto", "32-true", "bf16-mixed"]
    channels_last: bool | Literal["auto"]
    compile: bool
    sync_batchnorm: bool
    threads: PositiveInt | None
    checkpoint_every_n_steps: PositiveInt | None

    @field_validator("strategy")
    @classmethod
    def leaves_whole_networks(cls, strategy: str | Object) -> str | Object:
        """Refuse what shards the networks or forks the process."""
        name = strategy if isinstance(strategy, str) else str(strategy.get("_target_"))
        if name not in ("auto", "ddp") and not name.endswith(".DDPStrategy"):
            raise ValueError(
                "auto or ddp: what shards the networks (fsdp, deepspeed) or forks the process"
                " (ddp_fork, ddp_spawn) leaves no whole classifier for the kit and the evaluation"
            )
        return strategy


class _Wandb(_Group):
    project: str
    entity: str | None
    group: str | None
    tags: list[str | int]


class _Logger(_Group):
    csv: Object | None = None
    wandb: _Wandb | None = None


class _Evaluation(_Group):
    seed: int
    split: Literal["test", "train", "validation"]
    bank: Literal["use", "build"] | None
    nulls: bool = False
    timings: PositiveInt = 1
    metrics: dict[str, Object]


class _Place(_Group):
    root: str | None
    name: str | None
    hub_id: str | None


def _named(folder: str) -> str:
    if not folder:
        raise ValueError("a folder")
    return folder


Folder = Annotated[str, AfterValidator(_named)]  # an empty one would be the current folder


class _Oracles(_Group):
    folder: Folder
    count: PositiveInt
    add: PositiveInt | None = None
    nulls: NonNegativeInt | None = None


class _Command(_Group):
    trainer: _Trainer
    logger: _Logger | None = None
    evaluation: _Evaluation
    runs: Folder
    out: Folder | None
    force: bool


class _Train(_Command):
    kit: Content | list[Content] | None
    data: Object
    imbalance: Object
    model: Object
    generator: Object
    distribution: Object
    archive: Object
    training: Object
    weights: str | None
    seed: int


class _Unlearn(_Command):
    unlearner: Object
    kit: str | None
    forget: Classes
    next_kit: bool | None
    seed: int
    allow_custom: bool
    data: _Place
    oracles: _Oracles


class _Evaluate(_Command):
    weights: str | None
    kit: str | None
    forget: Classes
    population: str | list[str] | None
    keeps_proxies: bool | None
    nulls: list[str]
    allow_custom: bool
    data: _Place
    oracles: _Oracles


SCHEMAS: dict[str, type[_Command]] = {"train": _Train, "unlearn": _Unlearn, "evaluate": _Evaluate}


def _refuse_infinite(tree: Any, path: tuple[str, ...] = ()) -> None:
    """Raise `SettingError` at a number that is NaN or infinite: no setting may be one."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise SettingError(f"must be a finite number, got {tree}", key=".".join(path))
    for key, below in tree.items() if isinstance(tree, dict) else ():
        _refuse_infinite(below, (*path, str(key)))
    for k, below in enumerate(tree) if isinstance(tree, list) else ():
        _refuse_infinite(below, (*path, str(k)))


def check_settings(command: str, config: DictConfig) -> None:
    """Raise `SettingError` unless a command's settings fit its schema, and none is left `???`."""
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    _refuse_infinite(settings)
    try:
        SCHEMAS[command].model_validate(settings)
    except ValidationError as error:
        raise _sentence(error, settings, SCHEMAS[command]) from error


def _sentence(
    error: ValidationError, settings: dict[str, Any], schema: type[_Command]
) -> SettingError:
    """Return the error of the first key that does not fit."""
    errors = error.errors(include_url=False)
    found = []
    for one in errors:
        path, value = located(one["loc"], settings)
        found.append((".".join(path), value, one))
    key, value, first = found[0]
    if first["type"] == "extra_forbidden":
        return unknown_key(key, [*_keys(settings)])
    if first["type"] == "missing":
        return SettingError("is missing", key=".".join(map(str, first["loc"])))
    wanted = [expected(one["msg"]) for other, _, one in found if other == key]
    wanted += ["null"] if _may_be_null(key, settings, schema) else []
    choices = " or ".join(dict.fromkeys(wanted))
    return SettingError(f"must be {choices}, got {shown(value)}", key=key)


def _may_be_null(key: str, settings: dict[str, Any], schema: type[_Command]) -> bool:
    """Whether a schema finds no fault with a key that holds null."""
    changed = OmegaConf.create(settings)
    OmegaConf.update(changed, key, None)
    plain: Any = OmegaConf.to_container(changed)
    try:
        schema.model_validate(plain)
    except ValidationError as error:
        return all(located(one["loc"], plain)[0] != key.split(".") for one in error.errors())
    return True


def unknown_key(key: str, known: Sequence[str], command: str = "") -> SettingError:
    """Return the error of a key that does not exist, with its new name or the nearest key."""
    others = [name for name, schema in SCHEMAS.items() if key in schema.model_fields]
    if command and others and command not in others:
        return SettingError(f"is a setting of geniu {others[0]}, not of geniu {command}", key=key)
    leaf = key.rpartition(".")[2]
    renamed = checked.RENAMED  # settings of constructors
    removed = REMOVED | {f"unlearner.{name}": why for (_, name), why in checked.REMOVED.items()}
    if key in removed:
        return SettingError(f"was removed: {removed[key]}", key=key)
    if key in RENAMED:
        return SettingError(f"is now {RENAMED[key]}", key=key)
    if leaf in renamed and leaf != key:
        return SettingError(f"is now {key.removesuffix(leaf)}{renamed[leaf]}", key=key)
    known = [one for one in known if one != key]
    same = [one for one in known if one.endswith(f".{leaf}")]
    nearest = same[:1] or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return SettingError(f"is no setting{hint}", key=key)


def keys_of(command: str, words: Sequence[str]) -> list[str]:
    """Return the dotted keys of a command, composed with those of its words that choose a file."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    own = groups & {*SCHEMAS[command].model_fields, "experiment"}
    chosen = [word.partition(",")[0] for word in words if word.partition("=")[0] in own]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, overrides=chosen)
    return [*_keys(OmegaConf.to_container(config)), *sorted(groups)]


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    for name, below in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{name}"
        yield from _keys(below, f"{prefix}{name}.")
