"""``train.py``: from images to a kit."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from geniu_lightning.cli.command import entry, say
from geniu_lightning.cli.device import device_of
from geniu_lightning.cli.objective import objective_of, terms_of
from geniu_lightning.cli.sweeps import Note, apart, runs_apart
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.files import sha256_of, write_json
from geniu_lightning.kit.header import KIT
from geniu_lightning.runs.folder import RunFolder, folder_of, identity_of, revision
from geniu_lightning.settings.configs import built, plain

if TYPE_CHECKING:  # torch and Lightning take seconds: a refusal or a finished run needs neither
    from pytorch_lightning.loggers import Logger

    from geniu_lightning.data.module import ImageData
    from geniu_lightning.kit.file import Kit
    from geniu_lightning.training.module import GeniuModule
    from geniu_lightning.training.settings import TrainingSettings


def main() -> None:
    """Run the command."""
    entry("train", train, compare)


def train(config: DictConfig, visited: list[Path]) -> float | None:
    """Carry out one configuration; return its objective, for a sweeper."""
    if config.evaluation.get("bank"):
        raise UserError(
            "nothing is forgotten in training, so there is nothing to compare with oracles:"
            " train.py takes evaluation=accuracy, validation or none"
        )
    terms_of(config.objective or "")
    weights = None if config.weights is None else Path(config.weights).expanduser()
    identity = identity_of(config)
    if weights is not None:
        _refuse_weights(config, weights)
        identity["weights_sha256"] = sha256_of(weights)
    imbalance = config.imbalance.get("_target_", "none").rpartition(".")[2]
    imbalance += str(config.imbalance.get("ratio", config.imbalance.get("factor", "")))
    network = str(config.model.get("_target_", "network")).rpartition(".")[2]
    folder = folder_of(
        config, identity, "train", config.data.name, imbalance, network, f"seed{config.seed}"
    )
    visited.append(folder.path)
    if folder.done and not config.force:
        say(f"already done: {folder.path} (force=true does it again)")
    elif runs_apart(config.trainer):
        apart("train", config, folder)
    else:
        with folder.claim(config.force):
            _Training(config, folder).run()
    usual = f"accuracy.{config.evaluation.split}.retain"
    return objective_of(config, folder.path, usual) if folder.leads and folder.done else None


def _refuse_weights(config: DictConfig, weights: Path) -> None:
    """Let pass weights that a kit can be made for."""
    if not weights.is_file():
        raise UserError(f"there are no weights at {weights}")
    if config.generator.get("_target_") is None:
        raise UserError("weights= are finished: there is nothing to train with generator=none")
    if config.training.when != "after":
        raise UserError("weights= are finished, so the kit is made after them: experiment=post_hoc")


def compare(notes: list[Note]) -> None:
    """Print what the training runs of a sweep reached, and why one failed."""
    from geniu_lightning.cli import terminal

    terminal.sweep(notes, ["", "accuracy", "worst class"], _reached)


def _reached(folder: Path) -> list[object]:
    measured = json.loads((folder / "metrics.json").read_text())["metrics"]
    found: dict[str, Any] = next(iter(measured.get("accuracy", {}).values()), {})
    names = ("retain", "worst_retained")
    return [folder.name, *(found.get(name, {}).get("value", "-") for name in names)]


class _Training:
    """One training run."""

    def __init__(self, config: DictConfig, folder: RunFolder) -> None:
        from geniu_lightning.cli import build, terminal

        build.begin(config)
        self.config = config
        self.folder = folder.path
        self.mark = folder
        self.data: ImageData = build.data_of(
            plain(config.data),
            plain(config.imbalance),
            batch_size=config.training.batch_size,
            seed=config.seed,
            on_decode=terminal.decoding_progress(),
        )

    def run(self) -> None:
        """Train, write the kit, evaluate, and mark the folder as done."""
        from geniu_lightning.cli import build
        from geniu_lightning.fitting.guard import fit
        from geniu_lightning.runs.cost import StepClock
        from geniu_lightning.tracking import loggers as trackers

        module = self._module()
        facts = {"revision": revision(), "data_fingerprint": self.data.fingerprint}
        tags = [self.config.data.name, f"seed {self.config.seed}"]
        loggers = trackers.loggers_of(
            plain(self.config.get("logger")), self.folder, "train", plain(self.config) | facts, tags
        )
        with trackers.closing(loggers):
            clock = StepClock()
            trainer = build.trainer_of(
                self.config.trainer,
                self.folder,
                label="training",
                loggers=loggers,
                callbacks=[*self._checkpoints(), clock],
                max_epochs=module.update_schedule.max_epochs,
                limit_val_batches=1.0 if len(self.data.indices("validation")) else 0,
            )
            fit(trainer, module, self.data, ckpt_path=self._resume_point())
            if self.mark.leads:
                self._hand_over(module, loggers, clock.cost())
        if self.mark.leads:  # now that all is written, wandb's file too
            self.mark.finish()

    def _module(self) -> GeniuModule:
        import torch

        from geniu_lightning.cli import build
        from geniu_lightning.kit.networks import state_digest
        from geniu_lightning.kit.weights import classifier_from
        from geniu_lightning.seeds import stream
        from geniu_lightning.training.exemplars import IndexedExemplars
        from geniu_lightning.training.module import GeniuModule

        config, data = self.config, self.data
        classes = len(data.names)
        classifier_spec = build.network_spec(
            config.model, channels=data.spec.channels, num_classes=classes
        )
        if classifier_spec is None:
            raise UserError("model._target_ must name a network")
        self.classifier_spec = classifier_spec
        self.generator_spec = build.network_spec(
            config.generator, channels=data.spec.channels, image_size=data.spec.size
        )
        with torch.random.fork_rng():
            torch.manual_seed(stream("init", config.seed))
            classifier = classifier_spec.build_classifier()
            self.began = {"initial_sha256": state_digest(classifier)}
            torch.manual_seed(stream("init_generator", config.seed))
            generator = self.generator_spec.build() if self.generator_spec else None
        settings: TrainingSettings = built(config.training, "training")
        if config.weights is not None:
            weights = Path(config.weights).expanduser()
            classifier = classifier_from(weights, classifier_spec, allow_custom=True)
            classifier.requires_grad_(True)
            # what those began with is not told
            self.began = {"weights_sha256": self.mark.identity["weights_sha256"]}
            # one epoch, that reads the scores which exemplars are chosen by
            settings = dataclasses.replace(settings, epochs=1)
        exemplars = None
        if generator is not None:
            exemplars = IndexedExemplars(
                data.all_labels,
                data.indices("train"),
                data.exemplars,
                num_classes=classes,
                per_class=settings.proxies_per_class,
                strategy=settings.exemplar_strategy,
                seed=config.seed,
            )
        try:
            return GeniuModule(
                classifier=classifier,
                generator=generator,
                exemplars=exemplars,
                spec=data.spec,
                settings=settings,
                steps_per_epoch=-(-len(data.indices("train")) // settings.batch_size),
                seed=config.seed,
                finished=config.weights is not None,
            )
        except SettingError as error:
            raise error.below("training") from error

    def _checkpoints(self) -> list[Any]:
        from pytorch_lightning.callbacks import ModelCheckpoint

        every = self.config.trainer.checkpoint_every_n_steps
        # a new file each time, the old one deleted after: killed in between, one of them is whole
        return [
            ModelCheckpoint(
                self.folder / "checkpoints",
                filename="{epoch}-{step}",
                monitor=None,
                save_top_k=1,
                **({"every_n_train_steps": every} if every else {"every_n_epochs": 1}),
            )
        ]

    def _resume_point(self) -> str | None:
        found = sorted(
            (self.folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime
        )
        whole = [path for path in found if zipfile.is_zipfile(path)]
        if not whole:
            return None
        if self.mark.leads:
            say(f"going on from {whole[-1]}")
        return str(whole[-1])

    def _hand_over(self, module: GeniuModule, loggers: list[Logger], cost: dict[str, Any]) -> None:
        """Write what the run leaves, and say what it is."""
        from geniu_lightning.cli import results, terminal
        from geniu_lightning.cli.evaluate import evaluate_model
        from geniu_lightning.report import pictures
        from geniu_lightning.tracking import charts
        from geniu_lightning.tracking import loggers as trackers

        kit = self._kit(module)
        kit.save(self.folder / KIT)
        drawn: dict[str, Path] = {}
        if kit.prompts is not None:  # but no exemplar: training images stay where they were
            drawn["proxies"] = self.folder / "proxies.png"
            proxies = kit.proxies().images.view(*kit.prompts.shape)
            pictures.grid(proxies, self.data.names, "proxies", drawn["proxies"])
        result = evaluate_model(
            self.config.evaluation,
            kit.to(device_of(self.config.trainer)),
            kit.classifier,
            self.data,
            forget=(),
        )
        cost = {"training_images": len(self.data.indices("train")), **cost}
        document = {
            "version": results.VERSION,
            "verdict": None,
            "reason": "nothing was unlearned",
            "run": self.mark.identity | {"job": "train", "revision": revision()},
            "cost": cost,
            "metrics": result.metrics,
        }
        write_json(self.folder / "metrics.json", document)
        split = self.config.evaluation.split
        if result.confusions:
            pictures.confusion(
                result.confusions["after"],
                self.data.names,
                f"original, {split}",
                self.folder / "confusion.png",
            )
        shown = charts.Shown(
            charts.numbers_of(result.metrics, cost),
            classes=self.data.names,
            split=split,
            accuracies={} if result.before is None else {"before": result.before},
            confusions=(
                {} if result.confusion_before is None else {"before": result.confusion_before}
            ),
            metrics=result.metrics,
            steps=result.steps,
            pictures=drawn,
        )
        trackers.show(loggers, shown)
        terminal.table(
            f"trained on {self.data.name}",
            *results.class_table(result, kit, self.data, split),
        )
        say(f"kit: {self.folder / KIT}")

    def _kit(self, module: GeniuModule) -> Kit:
        from geniu_lightning.kit.file import Kit, KitInfo

        info = KitInfo(
            classifier=self.classifier_spec,
            generator=self.generator_spec,
            class_names=self.data.names,
            spec=self.data.spec,
            class_counts=tuple(self.data.class_counts),
            data_fingerprint=self.data.fingerprint,
            seed=self.config.seed,
            settings={
                "data": {**plain(self.config.data), "cache_folder": None},
                **{k: plain(self.config[k]) for k in ("imbalance", "model", "training")},
                "precision": str(self.config.trainer.precision),
                **self.began,
            },
            revision=revision(),
        )
        prompts = None
        if module.exemplars is not None:
            shape = (len(self.data.names), module.exemplars.per_class, *module.prompts.shape[1:])
            prompts = module.prompts.detach().view(shape)
        return Kit(module.classifier, info, module.proxy_generator, prompts).to(
            device_of(self.config.trainer)
        )


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()
