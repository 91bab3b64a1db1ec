"""Configuration to objects."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from geniu_lightning.cli.device import HALF
from geniu_lightning.cli.sweeps import device_of_a_job, threads_of_a_job
from geniu_lightning.cli.terminal import progress_of, quiet
from geniu_lightning.data.module import ImageData
from geniu_lightning.errors import UserError
from geniu_lightning.fitting.compile import CompileAndMemoryFormat
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.runs.folder import single_process
from geniu_lightning.settings.configs import built, plain

OURS = "geniu_lightning.data."


def data_of(
    settings: Mapping[str, Any],
    imbalance: Mapping[str, Any],
    on_decode: Callable[[str, int, int], None] | None = None,
    **more: Any,
) -> ImageData:
    """Return the images of a run.

    Raises:
        UserError: If a setting does not fit.
        DataNotFoundError: If the images are nowhere.
    """
    # kits record these settings without _convert_, and a setting must be plain to be checked
    bound = built({**imbalance, "_convert_": "all"}, "imbalance")
    data = cast(ImageData, built(dict(settings), "data", imbalance=bound, **more))
    data.prepare_data(on_decode)
    data.setup()
    return data


def recorded_data(
    settings: Mapping[str, Any], root: str | None, name: str | None, allow_custom: bool, **more: Any
) -> ImageData:
    """Return the images that a kit says it was trained on, wherever they lie now.

    Args:
        settings: The kit's record of its training.
        root: Folder of local sets, in place of the recorded one.
        name: Folder of the set below it, likewise.
        allow_custom: Also use classes from outside this package, which runs their code.
        **more: Further arguments of the data module.

    Raises:
        UserError: If the record names classes that may not be used, or is missing.
        DataNotFoundError: If the images are nowhere.
    """
    if "data" not in settings or "imbalance" not in settings:
        raise UserError("the kit does not say which data it was trained on")
    data = dict(settings["data"]) | {
        key: value for key, value in (("root", root), ("name", name)) if value is not None
    }
    if not allow_custom:
        _refuse_foreign_targets({"data": data, "imbalance": settings["imbalance"]})
    return data_of(data, settings["imbalance"], **more)


def _refuse_foreign_targets(node: Any, path: tuple[str, ...] = ()) -> None:
    """Refuse settings of a kit that would run code from outside our data modules."""
    if isinstance(node, list):
        for item in node:
            _refuse_foreign_targets(item, (*path, "item"))
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        target = str(node["_target_"])
        # one dotted step below our own modules: a path through them could reach anything
        inner = target.removeprefix(OURS).split(".")
        expected = path in (("data",), ("data", "source"), ("imbalance",))
        if not expected or not target.startswith(OURS) or len(inner) != 2:
            raise UserError(
                f"the kit's data come through {target}, which is not ours;"
                " pass allow_custom=true if you trust it"
            )
    for key, value in node.items():
        _refuse_foreign_targets(value, (*path, str(key)))


def network_spec(config: DictConfig | None, **fitted: Any) -> NetworkSpec | None:
    """Return a network's class and arguments, with those that the data decide."""
    if config is None or config.get("_target_") is None:
        return None
    arguments = plain(config)
    return NetworkSpec(arguments.pop("_target_"), arguments | fitted)


def trainer_of(
    config: DictConfig,
    folder: Path,
    *,
    label: str,
    precision: str | None = None,
    loggers: list[Logger],
    callbacks: list[Callback],
    **more: Any,  # further arguments of Lightning's trainer
) -> Trainer:
    """Return a Lightning trainer.

    Raises:
        UserError: If the devices cannot be had.
    """
    settings = plain(config)
    settings.pop("threads")
    settings.pop("checkpoint_every_n_steps")
    settings["precision"] = precision or settings["precision"]
    last = settings.pop("channels_last")
    speed = CompileAndMemoryFormat(
        channels_last=settings["precision"] == HALF if last == "auto" else last,
        compiled=settings.pop("compile"),
    )
    try:
        return cast(
            Trainer,
            built(
                settings,
                default_root_dir=str(folder),
                logger=loggers or False,
                callbacks=[*callbacks, speed, progress_of(label)],
                enable_progress_bar=True,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # our loader shares out its batches itself
                log_every_n_steps=1,
                **more,
            ),
        )
    except UserError as error:
        raise UserError(f"the trainer cannot be made of these settings: {error}") from error


def begin(config: DictConfig) -> None:
    """Prepare the process for a run.

    Raises:
        UserError: If the strategy is none that works.
    """
    quiet()
    _refuse_strategy(config.trainer.strategy)
    if single_process(config.trainer):  # a cluster may have numbered it among others
        cast(Any, rank_zero_only).rank = 0
    _set_threads(config.trainer.threads or threads_of_a_job())
    own = device_of_a_job(torch.cuda.device_count())
    if own is not None and config.trainer.devices == 1:
        config.trainer.devices = [own]


def _refuse_strategy(strategy: Any) -> None:  # a name, or what makes one
    """Let pass what keeps whole copies of the networks in processes that Lightning starts anew."""
    name = strategy if isinstance(strategy, str) else str(strategy.get("_target_"))
    if name not in ("auto", "ddp") and not name.endswith(".DDPStrategy"):
        raise UserError(
            f"trainer.strategy must be auto or ddp, got {name}: the networks are small, and what"
            " shards them (fsdp, deepspeed) or forks the process (ddp_fork, ddp_spawn) leaves no"
            " whole classifier behind for the kit and the evaluation"
        )


def _set_threads(threads: int | None) -> None:
    """Fix the number of threads of this process: on a CPU the same bits need the same number."""
    if threads is not None:
        # Lightning would set its own number in the processes of a distributed run
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
