"""GENIU's training: a classifier, with prompts and a generator that will replace its data."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import Batch, IndexLoader
from geniu_lightning.errors import SettingError, TrainingDivergedError
from geniu_lightning.fitting.distributed import average_gradients
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.fitting.optim import lr_schedule_of
from geniu_lightning.kit.networks import head_of
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import stream
from geniu_lightning.training.codes import CodeNetworks, CodeTrainer
from geniu_lightning.training.exemplars import IndexedExemplars
from geniu_lightning.training.losses import CombinedLoss, ImageBatch, combined_loss
from geniu_lightning.training.proxies import ProxyTrainer, first_prompts
from geniu_lightning.training.schedule import TrainingSchedule
from geniu_lightning.training.settings import TrainingSettings


class GeniuModule(LightningModule):
    """Trains classifier, noise prompts and proxy generator by `losses.combined_loss`.

    The classifier takes a step on every batch, prompts and generator at the steps of their
    schedule, on exemplars that the epochs before chose.

    Args:
        classifier: Network with `features` and `head`; trained in place.
        generator: Turns prompts into images; `None` trains the classifier alone.
        exemplars: `None` without a generator; prompts are of the same classes.
        codes: Encoder, decoder and settings of latent codes; `None` trains none.
        finished: The classifier comes trained and rests: its epochs only yield the scores that
            exemplars are chosen by. With `when=after` alone.

    Source:
        GENIU, arXiv 2406.07885, sections 4.2 to 4.4.
    """

    def __init__(
        self,
        *,
        classifier: nn.Module,
        generator: nn.Module | None = None,
        exemplars: IndexedExemplars | None = None,
        codes: CodeNetworks | None = None,
        spec: ImageSpec,
        settings: TrainingSettings,
        steps_per_epoch: int,
        seed: int = 0,
        finished: bool = False,
    ) -> None:
        super().__init__()
        if finished and generator is not None and settings.when != "after":
            raise SettingError(
                "must be after (experiment=post_hoc) with a finished classifier, got"
                f" {settings.when!r}",
                key="when",
            )
        if (generator is None) != (exemplars is None):
            raise ValueError("generator and exemplars come together or not at all")
        self.save_hyperparameters(
            settings.plain() | {"seed": seed, "finished": finished}, logger=False
        )
        # three optimizers at their own pace; the sum of the terms is one loss all the same
        self.automatic_optimization = False
        self.update_schedule = TrainingSchedule(
            settings, steps_per_epoch, settings.epochs, with_generator=generator is not None
        )
        self.classifier: Any = classifier  # which has features and a head, by contract
        self.proxy_generator = generator
        self.exemplars = exemplars
        self.spec = spec
        self.settings = settings
        self.seed = seed
        self.finished = finished
        self.code_networks = codes
        self.proxy_trainer = self._trainer_of_proxies(generator, exemplars)
        self.code_trainer = self._trainer_of_codes(codes)
        self.guard = NonFiniteGuard(
            "the checkpoint before it is good: lower training.optimizer.lr, or bound the gradient"
            " by training.max_gradient_norm"
        )
        outputs = head_of(classifier).out_features
        self.train_accuracy, self.validation_accuracy = (
            MulticlassAccuracy(outputs, average="micro", validate_args=False) for _ in range(2)
        )

    def _trainer_of_proxies(
        self, generator: nn.Module | None, exemplars: IndexedExemplars | None
    ) -> ProxyTrainer | None:
        """Return what trains prompts and generator; the prompts become parameters of this module.

        So Lightning moves and saves them.
        """
        if generator is None or exemplars is None:
            return None
        classes, spec = exemplars.classes, self.spec
        shape = (len(classes), exemplars.per_class, spec.channels, spec.size)
        self.prompts = nn.Parameter(first_prompts(*shape, self.seed))
        how = (self.settings, self.update_schedule.updates, self.seed)
        return ProxyTrainer(generator, self.prompts, *how, classes=classes)

    def _trainer_of_codes(self, codes: CodeNetworks | None) -> CodeTrainer | None:
        """Return what trains encoder and decoder, with every batch of the classifier's epochs."""
        if codes is None:
            return None
        batches = self.update_schedule.steps_per_epoch * self.update_schedule.epochs
        normalise = self.spec.normalise
        return CodeTrainer(codes, self.classifier, normalise, batches, self.seed)

    @property
    def fits(self) -> bool:
        """Whether there is anything to train: not with a finished classifier alone."""
        contents = (self.proxy_generator, self.code_networks)
        return not self.finished or any(network is not None for network in contents)

    def features_of(self, images: Tensor) -> Tensor:
        """Return penultimate features; `CompileAndMemoryFormat` may compile it."""
        return cast(Tensor, self.classifier.features(images))

    def configure_optimizers(self) -> Any:  # Lightning's own union of six forms
        """Return those of the classifier, then of generator and prompts, which Lightning saves."""
        optimizer = self.settings.optimizer(self.classifier.parameters())
        steps = self.settings.epochs * self.update_schedule.steps_per_epoch
        lr_schedule = lr_schedule_of(optimizer, self.settings.schedule, steps)
        # named as `LearningRateMonitor` is to log them
        schedules = {"train/rate": lr_schedule}
        if self.proxy_trainer is not None:
            _, (generator, prompts) = self.proxy_trainer.configure_optimizers()
            schedules |= {"train/rate/generator": generator, "train/rate/prompts": prompts}
        if self.code_trainer is not None:
            schedules["train/rate/codes"] = self.code_trainer.configure_optimizers()
        optimizers = [schedule.optimizer for schedule in schedules.values()]
        return optimizers, [{"name": n, "scheduler": s} for n, s in schedules.items()]

    def on_fit_start(self) -> None:
        """Bring scores and exemplars to the device."""
        if self.exemplars is not None:
            self.exemplars.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Set the classifier's mode, and tell the loader its epoch."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, IndexLoader):
            # Lightning gives a loader its state back in the middle of an epoch, not between two
            loader.set_epoch(self.current_epoch)
        self.classifier.train(self._moves_classifier)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Step the classifier on a batch, and prompts and generator as their schedule says."""
        step = self.current_epoch * self.update_schedule.steps_per_epoch + batch_idx
        torch.manual_seed(stream("step", self.seed, step, self.global_rank))
        with self._without_ddp_reduction():
            losses = self._losses(batch, step)
            if self.code_trainer is not None and self._reads_images:
                images = self.spec.restore(batch.images)
                losses += self.code_trainer.train_step(step, images, self.manual_backward)
        for loss in losses:
            self.guard.see(loss.total, step)
        if self._moves_classifier:
            self._step_classifier()
        ends_epoch = batch_idx + 1 == self.update_schedule.steps_per_epoch
        if ends_epoch and self._choosing is not None:
            # here and not in the hook below, which a run resumed from this very step would miss
            self.guard.stop_if_bad()  # scores of broken logits choose nothing
            self._choosing.select()
        if (step + 1) % self.settings.log_every_n_steps == 0:
            terms = {name: term for loss in losses for name, term in loss.terms.items()}
            self._log(terms, step)

    def _losses(self, batch: Batch, step: int) -> list[CombinedLoss]:
        """Return the step's losses, their gradients computed, prompts and generator updated."""
        images = None
        if self._moves_classifier:
            images = self.classify(batch)
        elif self._reads_images:
            with torch.no_grad():
                self.classify(batch)  # for the scores alone
        if self.proxy_trainer is not None and self.exemplars is not None:
            return self.proxy_trainer.train_step(
                step, self.classifier, self.exemplars.images, images, self.manual_backward
            )
        if images is None:  # a finished classifier, beside which codes are trained
            return []
        loss = combined_loss(images=images)
        self.manual_backward(loss.total)
        return [loss]

    def classify(self, batch: Batch) -> ImageBatch:
        """Return the classifier's answers to a batch, scored for the choice of exemplars."""
        features = self.features_of(batch.images)
        logits = cast(Tensor, self.classifier.head(features)).float()
        if self._choosing is not None:
            self._choosing.observe(batch.indices, batch.labels, logits, features)
        self.train_accuracy.update(logits.detach(), batch.labels)
        return ImageBatch(logits, batch.labels, batch.weight)

    def _step_classifier(self) -> None:
        optimizer = _first(self.optimizers())
        parameters = list(self.classifier.parameters())
        average_gradients(parameters)
        if self.settings.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.max_gradient_norm)
        optimizer.step()  # through Lightning, which counts it; the steps of others are not counted
        optimizer.zero_grad()
        _first(self.lr_schedulers()).step()

    def _log(self, terms: dict[str, Tensor], step: int) -> None:
        self.guard.stop_if_bad()
        values = {f"train/loss/{name}": float(term.detach()) for name, term in terms.items()}
        total = sum(values.values())
        self.log("train/loss", total, prog_bar=True, logger=False)
        for logger in self.loggers:
            logger.log_metrics({**values, "train/loss": total}, step=step)

    def on_train_epoch_end(self) -> None:
        """Log the accuracies of the epoch."""
        self.guard.stop_if_bad()
        if self.train_accuracy.update_called:  # not where a run is resumed at the epoch's last step
            self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        if self.proxy_trainer is not None and self.current_epoch > 0:
            self.log("train/proxy_accuracy", self.proxy_accuracy(), prog_bar=True, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure accuracy on images that were held back from training."""
        self.validation_accuracy.update(self.classifier(batch.images), batch.labels)
        self.log("validation/accuracy", self.validation_accuracy, prog_bar=True, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the exemplars' numbers and scores; refuse to replace a good checkpoint by a bad."""
        self.guard.stop_if_bad()
        if not all(p.isfinite().all() for p in self.parameters()):
            raise TrainingDivergedError(
                f"a weight stopped being a finite number by step {self.global_step};"
                f" {self.guard.remedy}"
            )
        if self.exemplars is not None:
            checkpoint["exemplars"] = self.exemplars.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the exemplars' numbers and scores."""
        if self.exemplars is not None:
            self.exemplars.load_state_dict(checkpoint["exemplars"])

    @torch.no_grad()
    def proxy_accuracy(self) -> Tensor:
        """Return the share of proxies that the classifier assigns to their class, in [0, 1]."""
        assert self.proxy_trainer is not None  # called with a generator only
        with frozen(self.classifier):
            images = self.spec.normalise(self.proxy_trainer.proxies())
            found = self.classifier(images).argmax(dim=1)
        return cast(Tensor, found == self.proxy_trainer.labels).float().mean()

    @property
    def _reads_images(self) -> bool:
        """Whether this is one of the classifier's epochs, and not the one after them."""
        return self.current_epoch < self.update_schedule.epochs

    @property
    def _moves_classifier(self) -> bool:
        return self._reads_images and not self.finished

    @property
    def _choosing(self) -> IndexedExemplars | None:
        """The exemplars in an epoch that chooses them."""
        chooses = self.update_schedule.chooses_exemplars(self.current_epoch)
        return self.exemplars if chooses else None

    def _without_ddp_reduction(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging by itself: it cannot follow terms that come and go."""
        strategy = self.trainer.strategy
        return (
            strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()
        )


def _first(one_or_many: Any) -> Any:  # Lightning returns one thing or a list of them
    return one_or_many[0] if isinstance(one_or_many, list) else one_or_many
