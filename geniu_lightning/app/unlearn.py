"""``unlearn.py``: from a kit to a classifier that has forgotten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.app.cli import entry, say
from geniu_lightning.app.runs import (
    RunFolder,
    folder_of,
    identity_of,
    kit_metadata,
    revision,
    write_json,
)
from geniu_lightning.data.classes import class_indices
from geniu_lightning.errors import DataNotFoundError, UserError

if TYPE_CHECKING:  # torch and Lightning take seconds: a refusal or a finished run needs neither
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger
    from torch import nn

    from geniu_lightning.app.assess import Assessment
    from geniu_lightning.data.module import ImageData
    from geniu_lightning.unlearning.base import Unlearner


def main() -> None:
    """Run the command."""
    entry("unlearn", unlearn, compare)


def unlearn(config: DictConfig, visited: list[Path]) -> float | None:
    """Carry out one configuration; return retain minus forget accuracy, for a sweeper."""
    if config.kit is None:
        raise UserError("name the kit to unlearn from: kit=FOLDER/kit.safetensors")
    path = Path(config.kit).expanduser()
    path = path / "kit.safetensors" if path.is_dir() else path
    metadata = kit_metadata(path)
    forget = _forgotten(config, metadata)
    identity = identity_of(config, forget=list(forget), kit_sha256=metadata.get("sha256"))
    method = str(config.unlearner.name)
    folder = folder_of(
        config,
        identity,
        "unlearn",
        path.resolve().parent.name,
        method,
        "forget" + "_".join(map(str, forget)),
    )
    if folder.path.resolve() == path.resolve().parent:
        raise UserError(f"{folder.path} is the folder of the kit itself; choose another out=")
    folder.description = {"run": _facts(identity, json.loads(metadata["geniu"]))}
    visited.append(folder.path)
    if folder.done and not config.force:
        say(f"already done: {folder.path} (force=true does it again)")
        return folder.objective
    with folder.claim(config.force):
        return _Unlearning(config, folder, path, forget).run()


def compare(folders: dict[Path, str]) -> None:
    """Print what the runs of a sweep found, and why one found nothing.

    Args:
        folders: Of the runs, and why each failed; empty where it ended well.
    """
    from geniu_lightning.app import terminal
    from geniu_lightning.report.runs import read

    rows: list[list[object]] = []
    for folder, failed in folders.items():
        run = None if failed else read(folder)
        if run is None:
            rows.append([folder.name, "-", "-", "-", failed])
            continue
        split = "test" if "accuracy.test.retain" in run.values else "validation"
        values = [run.values.get(f"accuracy.{split}.{side}", "-") for side in ("forget", "retain")]
        rows.append([run.method, *values, f"{run.values['cost.seconds']:.2f}", str(folder)])
    terminal.table("runs of this sweep", ["method", "A_f", "A_r", "time, s", ""], rows)
    count = sum(map(bool, folders.values()))
    if count:
        say(f"{count} of {len(rows)} failed; the same command tries these again")


def _facts(identity: dict[str, Any], kit: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is, and how its kit was trained."""
    trained = kit.get("settings", {}) | {"seed": kit.get("seed")}
    return identity | {"job": "unlearn", "revision": revision(), "trained": trained}


def _forgotten(config: DictConfig, metadata: dict[str, str]) -> tuple[int, ...]:
    """Return the classes to forget, having checked that the request makes sense."""
    try:
        names = json.loads(metadata["geniu"])["class_names"]
    except (ValueError, KeyError, TypeError):
        raise UserError("the kit's description cannot be read") from None
    wanted = config.forget if config.forget is not None else []
    if isinstance(wanted, str | int):
        wanted = [wanted]
    forget = class_indices(list(wanted), names)
    if not forget:
        raise UserError("say what to forget: forget=[0], forget=[3,5] or forget=[ship]")
    if len(forget) == len(names):
        raise UserError("all classes are to be forgotten: then there is nothing to retain")
    return forget


class _Unlearning:
    """One unlearning run."""

    def __init__(
        self, config: DictConfig, folder: RunFolder, path: Path, forget: tuple[int, ...]
    ) -> None:
        from geniu_lightning.app import build
        from geniu_lightning.kit import Kit

        build.begin(config)
        self.config = config
        self.folder = folder.path
        self.mark = folder
        self.forget = forget
        self.kit = Kit.load(path, config.allow_custom).to(build.device_of(config.trainer))
        held = self.kit.info.settings.get("data", {}).get("validation")
        if config.evaluation.metrics and config.evaluation.split == "validation" and not held:
            raise UserError(
                "evaluation=validation needs a kit whose training held images back: train it with"
                " data.validation=0.2"
            )
        self.data: ImageData | None = None

    def run(self) -> float | None:
        """Unlearn, write the weights, evaluate, and mark the folder as done."""
        from geniu_lightning.app import trackers
        from geniu_lightning.optim import total_over_ranks

        method = self.config.unlearner.name
        names = [self.kit.info.class_names[k] for k in self.forget]
        facts = self.mark.identity | {"revision": revision(), "forget_names": names}
        facts["trained"] = self.kit.info.settings
        tags = [method, *(f"forget {name}" for name in names)]
        loggers = trackers.loggers_of(self.config.logger, self.folder, "unlearn", facts, tags)
        failed = True
        try:
            unlearner = self._unlearner()
            classifier = self._unlearn(unlearner, loggers)
            reads = total_over_ranks(sum(self.data.reads.values()) if self.data is not None else 0)
            value = None
            if self.mark.leads:
                value = self._hand_over(unlearner, classifier, reads, loggers)
            failed = False
            return value
        finally:
            trackers.close(loggers, failed)

    def _unlearner(self) -> Unlearner:
        from geniu_lightning.app import build

        settings = build.plain(self.config.unlearner)
        for not_the_methods in ("name", "search"):
            settings.pop(not_the_methods, None)
        method: Unlearner = build.built(settings, forget=self.forget, seed=self.config.seed)
        return method

    def _unlearn(self, unlearner: Unlearner, loggers: list[Logger]) -> nn.Module:
        from geniu_lightning.app import build
        from geniu_lightning.unlearning.sources import Sources

        def trainer(steps: int) -> Trainer:
            recorded = self.kit.info.settings.get("precision")
            return build.trainer_of(
                self.config.trainer,
                self.folder,
                label="unlearning",
                precision=recorded if unlearner.from_scratch else None,
                loggers=loggers,
                callbacks=[],
                max_steps=steps,
                max_epochs=-1,
                enable_checkpointing=False,
            )

        def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> Any:
            return data.loader(split, batch_size=batch_size, seed=seed, limit=limit, device=device)

        device = build.device_of(self.config.trainer)

        if unlearner.access:
            data = self._data_for(unlearner)
        if self.mark.leads:
            names = ", ".join(self.kit.info.class_names[k] for k in self.forget)
            say(
                f"forgetting {names} with {self.config.unlearner.name}, which reads"
                f" {unlearner.access}"
            )
        return unlearner.run(self.kit, Sources(unlearner.access, self.forget, open_split), trainer)

    def _data_for(self, unlearner: Unlearner) -> ImageData:
        """Return the kit's images for a method that reads some.

        Raises:
            DataNotFoundError: If they are nowhere, with the methods that would work.
        """
        from geniu_lightning.app import methods

        try:
            return self._open_data()
        except DataNotFoundError as error:
            always, with_proxies = methods.without_data()
            raise DataNotFoundError(
                f"{self.config.unlearner.name} reads {unlearner.access}, and {error}; methods that"
                f" read none are {', '.join(always)}, and with unlearner.source=proxies"
                f" {', '.join(with_proxies)}"
            ) from error

    def _open_data(self) -> ImageData:
        """Return the kit's images, opened once and only when something asks for them.

        Raises:
            DataNotFoundError: If they are nowhere.
        """
        from geniu_lightning.app import build, terminal

        if self.data is None:
            self.data = build.recorded_data(
                self.kit.info.settings,
                self.config.data.root,
                self.config.data.name,
                self.config.allow_custom,
                on_decode=terminal.decoding_progress(),
            )
            if self.data.fingerprint != self.kit.info.data_fingerprint:
                raise DataNotFoundError(
                    "the images found are not those that the kit was trained on (their fingerprint"
                    f" is {self.data.fingerprint[:12]}…, the kit's"
                    f" {self.kit.info.data_fingerprint[:12]}…); set data.root and data.name"
                )
            self.data.set_forget(self.forget)
            self.data.place(build.device_of(self.config.trainer))
        return self.data

    def _hand_over(
        self, unlearner: Unlearner, classifier: nn.Module, reads: int, loggers: list[Logger]
    ) -> float | None:
        """Write what the run leaves, and say what it is."""
        from geniu_lightning.app import assess, build, trackers
        from geniu_lightning.kit import Kit

        info = dataclasses.replace(
            self.kit.info, generator=None, forgotten=self.forget, revision=revision()
        )
        weights = self.folder / "unlearned.safetensors"
        Kit(classifier, info).save(weights)
        self.kit.to(build.device_of(self.config.trainer))
        result, reason = self._assess(classifier)
        steps = unlearner.steps
        cost = {
            "seconds": unlearner.clock.seconds,
            "steps": steps,
            "training_images_read": reads,
            "access": str(unlearner.access),
        }
        document = {
            "version": assess.VERSION,
            "word": None,
            "word_reason": "no oracles were read, and accuracy cannot tell forgetting from hiding",
            **self.mark.description,
            "cost": cost,
            "metrics": result.metrics or {"accuracy": {"absent": reason}},
        }
        write_json(self.folder / "metrics.json", document)
        trackers.log_pictures(loggers, self._draw(result))
        numbers = assess.flat(result.metrics)
        trackers.log_summary(loggers, numbers | {"cost.seconds": unlearner.clock.seconds})
        self._report(result, reason, cost)
        objective = self._objective(numbers)
        if result.metrics or not self.config.evaluation.metrics:
            self.mark.finish(objective)
        say(f"weights: {weights}")
        return objective

    def _objective(self, numbers: dict[str, float]) -> float | None:
        """Return retain minus forget accuracy on the split that the evaluation names."""
        split = self.config.evaluation.split
        retain, forget = (numbers.get(f"accuracy.{split}.{side}") for side in ("retain", "forget"))
        return None if retain is None or forget is None else retain - forget

    def _assess(self, classifier: nn.Module) -> tuple[Assessment, str]:
        from geniu_lightning.app import assess

        if not self.config.evaluation.metrics:
            return assess.Assessment({}), "evaluation=none"
        try:
            data = self._open_data()
        except DataNotFoundError as error:
            say(f"evaluation is left out, until the same command finds the images: {error}")
            return assess.Assessment({}), str(error)
        return assess.assess(self.config.evaluation, self.kit, classifier, data, self.forget), ""

    def _draw(self, result: Assessment) -> dict[str, Path]:
        from geniu_lightning import pictures

        drawn = {}
        for when, counts in (
            ("before", result.confusion_before),
            ("after", result.confusion_after),
        ):
            if counts is not None:
                drawn[f"confusion_{when}"] = self.folder / f"confusion_{when}.png"
                pictures.confusion(
                    counts,
                    self.kit.info.class_names,
                    f"{when} unlearning, {self.config.evaluation.split}",
                    drawn[f"confusion_{when}"],
                )
        return drawn

    def _report(self, result: Assessment, reason: str, cost: dict[str, Any]) -> None:
        from geniu_lightning.app import terminal

        if result.before is not None and result.after is not None:
            rows = [
                [name, "forget" if k in self.forget else "", before, after]
                for k, (name, before, after) in enumerate(
                    zip(self.kit.info.class_names, result.before, result.after, strict=True)
                )
            ]
            terminal.table(
                f"{self.config.evaluation.split} accuracy", ["class", "", "before", "after"], rows
            )
        say(
            f"{cost['seconds']:.2f} s, {cost['steps']} steps,"
            f" {cost['training_images_read']:,} training images read"
        )
