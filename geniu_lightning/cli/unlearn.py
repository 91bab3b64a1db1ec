"""``unlearn.py``: from a kit to a classifier that has forgotten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import entry, say
from geniu_lightning.cli.objective import objective_of, terms_of
from geniu_lightning.cli.sweeps import Note, apart, is_sweep, runs_apart
from geniu_lightning.errors import BusyError, DataNotFoundError, UserError
from geniu_lightning.files import now
from geniu_lightning.kit.header import KIT, description_of, forgotten, kit_metadata, kit_path
from geniu_lightning.runs.folder import (
    WEIGHTS,
    RunFolder,
    compared_with,
    folder_of,
    identity_of,
    revision,
    single_process,
)
from geniu_lightning.runs.oracles import FIRST_SEED, Bank
from geniu_lightning.settings.configs import CONF, built, methods_without_data, plain

if TYPE_CHECKING:  # torch and Lightning take seconds: a refusal or a finished run needs neither
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import Logger
    from torch import nn

    from geniu_lightning.data.module import ImageData
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.unlearning.base import Unlearner


def main() -> None:
    """Run the command."""
    entry("unlearn", unlearn, compare)


def unlearn(config: DictConfig, visited: list[Path]) -> float | None:
    """Carry out one configuration; return its objective, for a sweeper."""
    terms_of(config.objective or "")
    if config.next_kit is None:  # it takes longer than many a method, and a comparison needs none
        config.next_kit = not is_sweep()
    if config.kit is None:
        raise UserError("name the kit to unlearn from: kit=FOLDER/kit.safetensors")
    path = kit_path(config.kit)
    metadata = kit_metadata(path)
    kit = description_of(metadata)
    forget = forgotten(config.forget, kit)
    compares = config.evaluation.get("bank") or config.oracles.add
    bank = Bank(config, kit, forget) if compares else None
    if config.oracles.add:
        assert bank is not None  # as asked before
        seed = FIRST_SEED + config.oracles.add - 1
        visited.append(bank.run(seed).path)
        if runs_apart(config.trainer):
            apart("unlearn", config, bank.run(seed))
            return None
        try:
            add_oracle(config, path, forget, bank, seed)
        except BusyError as busy:  # the same sweep, started twice, divides the work
            say(f"left to the other: {busy}")
        return None
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
    trained = kit.get("settings", {}) | {"seed": kit.get("seed")}
    about = {"job": "unlearn", "revision": revision(), "trained": trained}
    if before := kit.get("forgotten"):
        about["forgotten_before"] = before
    folder.description = {"run": identity | about}
    visited.append(folder.path)
    lacks_kit = config.next_kit and kit.get("generator") and not (folder.path / KIT).is_file()
    anew = bool(config.force or (folder.done and lacks_kit))
    again = folder.done and not anew
    if again and (bank is None or compared_with(folder.path) == bank.expected()):
        say(f"already done: {folder.path} (force=true does it again)")
    elif runs_apart(config.trainer):
        apart("unlearn", config, folder)
    else:
        with folder.claim(anew):
            run = _Unlearning(config, folder, path, forget, bank)
            if not again:
                run.run()
            elif folder.leads:
                run.judge_again()
    split = config.evaluation.split
    usual = f"accuracy.{split}.retain - accuracy.{split}.forget"
    return objective_of(config, folder.path, usual) if folder.leads and folder.done else None


def compare(notes: list[Note]) -> None:
    """Print what the runs of a sweep found, and why one found nothing."""
    from geniu_lightning.cli import terminal

    terminal.sweep(notes, ["method", "A_f", "A_r", "time, s", "word"], _found)


def _found(folder: Path) -> list[object] | None:
    from geniu_lightning.report.runs import read

    run = read(folder)
    if run is None:  # an oracle: what it is measured against is not here
        return None
    values = run.found.values
    split = "test" if "accuracy.test.retain" in values else "validation"
    accuracies = [values.get(f"accuracy.{split}.{side}", "-") for side in ("forget", "retain")]
    return [run.method, *accuracies, f"{values['cost.seconds']:.2f}", run.word or "-"]


class _Unlearning:
    """One unlearning run."""

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        path: Path,
        forget: tuple[int, ...],
        bank: Bank | None,
    ) -> None:
        from geniu_lightning.cli.request import Request

        self.config = config
        self.folder = folder.path
        self.mark = folder
        self.bank = bank
        self.request = Request(config, path, forget)
        self.kit = self.request.kit

    def run(self) -> None:
        """Unlearn, write the weights, evaluate, and mark the folder as done."""
        from geniu_lightning.fitting.distributed import total_over_ranks
        from geniu_lightning.runs.cost import PeakMemory, cost_of
        from geniu_lightning.tracking import loggers as trackers
        from geniu_lightning.training.next_kit import all_forgotten

        # before anything takes long
        if self.config.next_kit:
            all_forgotten(self.kit, self.request.forget)
        if self.config.evaluation.metrics and "data" not in self.kit.info.settings:
            raise UserError(
                "the kit does not say which data it was trained on, so nothing can be measured: set"
                " evaluation=none"
            )
        loggers = self._loggers()
        whole = False
        with trackers.closing(loggers):
            unlearner = self._unlearner()
            with PeakMemory(self.request.device) as memory:
                classifier = self._unlearn(unlearner, loggers)
            data = self.request.data
            reads = total_over_ranks(sum(data.reads.values()) if data is not None else 0)
            if self.mark.leads:
                seconds = self._timings(unlearner.clock.seconds)
                cost = cost_of(unlearner, self.kit, self.request.path, seconds, reads)
                cost["peak_memory_bytes"] = (
                    {"absent": "this system does not tell a process its peak of memory"}
                    if memory.added is None
                    else memory.added
                )
                whole = self._hand_over(classifier, unlearner.prior_taken, cost, loggers)
        if whole:  # and wandb's file is written, too
            self.mark.finish()

    def _loggers(self) -> list[Logger]:
        from geniu_lightning.tracking import loggers as trackers

        tags = [self.config.unlearner.name, *self.request.tags(), f"seed {self.config.seed}"]
        facts = self.request.facts() | {"revision": revision()}
        return trackers.loggers_of(self.config, self.folder, "unlearn", facts, tags)

    def _unlearner(self) -> Unlearner:

        settings = plain(self.config.unlearner)
        settings.pop("name", None)
        forget, seed = self.request.forget, self.config.seed
        method: Unlearner = built(settings, "unlearner", forget=forget, seed=seed)
        return method

    def _timings(self, first: float) -> list[float]:
        """Return seconds of unlearning, done as often as the evaluation asks for."""
        from geniu_lightning.runs.cost import repeated

        def once(number: int) -> float:
            unlearner = self._unlearner()
            self._unlearn(unlearner, [], f"timing {number}")
            return unlearner.clock.seconds

        alone = single_process(self.config.trainer)  # the other processes have gone on
        return repeated(first, self.config.evaluation.get("timings", 1) if alone else 1, once)

    def _unlearn(
        self, unlearner: Unlearner, loggers: list[Logger], label: str = "unlearning"
    ) -> nn.Module:
        from geniu_lightning.cli import build
        from geniu_lightning.unlearning.sources import Sources

        def trainer(steps: int) -> Trainer:
            recorded = self.kit.info.settings.get("precision")
            return build.trainer_of(
                self.config.trainer,
                self.folder,
                label=label,
                precision=recorded if unlearner.from_scratch else None,
                loggers=loggers,
                callbacks=[],
                max_steps=steps,
                max_epochs=-1,
                enable_checkpointing=False,
            )

        def open_split(split: str, batch_size: int, seed: int | None, limit: int | None) -> Any:
            return data.loader(split, batch_size=batch_size, seed=seed, limit=limit, device=device)

        device = self.request.device
        if unlearner.access:
            data = self._data_for(unlearner)
        if self.mark.leads and label == "unlearning":
            method = self.config.unlearner.name
            names = ", ".join(self.request.names)
            say(f"forgetting {names} with {method}, which reads {unlearner.access}")
        sources = Sources(unlearner.access, self.request.forget, open_split)
        return unlearner.run(self.kit, sources, trainer)

    def _data_for(self, unlearner: Unlearner) -> ImageData:
        """Return the kit's images for a method that reads some.

        Raises:
            DataNotFoundError: If they are nowhere, with the methods that would work.
        """
        try:
            return self.request.images()
        except DataNotFoundError as error:
            always, with_proxies = methods_without_data()
            raise DataNotFoundError(
                f"{self.config.unlearner.name} reads {unlearner.access}, and {error}; methods that"
                f" read none are {', '.join(always)}, and with unlearner.source=proxies"
                f" {', '.join(with_proxies)}"
            ) from error

    def _hand_over(
        self,
        classifier: nn.Module,
        prior_taken: float,
        cost: dict[str, Any],
        loggers: list[Logger],
    ) -> bool:
        """Write the weights and the next kit, judge them, and return whether nothing is missing."""
        from geniu_lightning.kit.file import Kit

        info = dataclasses.replace(
            self.kit.info,
            generator=None,
            forgotten=self.request.forget,
            prior_taken=self.kit.info.prior_taken + prior_taken,
            revision=revision(),
        )
        Kit(classifier, info).save(self.folder / WEIGHTS)
        cost["ended"] = now()
        self.kit.to(self.request.device)
        after = None
        if self.config.next_kit and self.kit.prompts is not None:
            after, cost["next_kit_seconds"] = self._next_kit(classifier, prior_taken)
        return self._judge(classifier, after, cost, loggers)

    def _next_kit(self, classifier: nn.Module, prior_taken: float) -> tuple[Kit, float]:
        """Write the kit for the next request; return it and how long it took."""
        from geniu_lightning.training.next_kit import next_kit
        from geniu_lightning.unlearning.base import Clock

        say(f"growing the kit for the next request, without {', '.join(self.request.names)}")
        clock = Clock()
        with clock:
            classifier = classifier.to(self.request.device)
            forget, seed = self.request.forget, self.config.seed
            kit = next_kit(self.kit, classifier, forget, seed, prior_taken)
        kit.info = dataclasses.replace(kit.info, revision=revision())
        kit.save(self.folder / KIT)
        return kit, clock.seconds

    def judge_again(self) -> None:
        """Judge weights that are there, because there are other oracles than at first."""
        from geniu_lightning.kit.file import Kit
        from geniu_lightning.tracking import loggers as trackers

        say(f"judging {self.folder} anew: there are other oracles than when it was judged")
        cost = json.loads((self.folder / "metrics.json").read_text())["cost"]
        custom, after = self.config.allow_custom, None
        kit = Kit.load(self.folder / WEIGHTS, custom)
        if (self.folder / KIT).is_file():
            after = Kit.load(self.folder / KIT, custom).to(self.request.device)
        loggers = self._loggers()
        with trackers.closing(loggers):
            whole = self._judge(kit.classifier, after, cost, loggers)
        if whole:
            self.mark.finish()

    def _judge(
        self,
        classifier: nn.Module,
        after: Kit | None,
        cost: dict[str, Any],
        loggers: list[Logger],
    ) -> bool:
        """Evaluate, write what was found, and return whether nothing is missing.

        Args:
            classifier: What came of unlearning.
            after: The kit for the next request, which is then what is kept of the old one.
            cost: As ``metrics.json`` holds it.
            loggers: Are told.
        """
        from geniu_lightning.cli.judge import Judge
        from geniu_lightning.receipt import facts as receipt
        from geniu_lightning.tracking import loggers as trackers

        def train_oracle(bank: Bank, seed: int) -> None:
            add_oracle(self.config, self.request.path, self.request.forget, bank, seed)

        judge = Judge(self.request, self.bank, train_oracle)
        kept = after
        if kept is None and cost["reads_prompts"]:
            kept = self.kit
        result = judge.judge(classifier, kept)
        document = judge.document(result, self.mark.description | {"cost": cost})
        receipt.write(self.mark, self.request, result, document)
        judge.write(self.folder, result, document)  # the last: what is there counts as judged
        trackers.show(loggers, result.shown(self.request, cost))
        say(
            f"{cost['seconds']:.2f} s, {cost['steps']} steps,"
            f" {cost['training_images_read']:,} training images read"
        )
        say(f"weights: {self.folder / WEIGHTS}")
        return bool(result.metrics) or not self.config.evaluation.metrics


def add_oracle(
    config: DictConfig,
    path: Path,
    forget: tuple[int, ...],
    bank: Bank,
    seed: int,
) -> None:
    """Train one oracle of a bank, unless it is there.

    Raises:
        BusyError: If another process is at it.
    """
    folder = bank.run(seed)
    if folder.done:
        say(f"already there: {folder.path}")
        return
    from omegaconf import OmegaConf

    from geniu_lightning.cli import assess
    from geniu_lightning.kit.file import Kit

    job = OmegaConf.merge(
        OmegaConf.masked_copy(config, ["trainer", "data", "allow_custom"]),
        {
            "unlearner": OmegaConf.load(CONF / "unlearner" / "retrain.yaml"),
            "evaluation": {"metrics": {}, "split": "test", "bank": None},
            "logger": {"csv": {}},
            "seed": 0,
            "next_kit": False,
        },
    )
    job.unlearner.training_seed = seed
    assert isinstance(job, DictConfig)  # as mappings are merged
    with folder.claim(force=False):
        run = _Unlearning(job, folder, path, forget, None)
        run.run()
        if folder.leads:
            oracle = Kit.load(folder.path / WEIGHTS, config.allow_custom).to(run.request.device)
            assess.remember_outputs(bank.folder, oracle.classifier, run.request.images())


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()
