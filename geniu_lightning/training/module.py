"""Training: a classifier, and beside it prompts and generator that will stand for its data."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import Batch, IndexLoader
from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.fitting.distributed import average_gradients
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.fitting.optim import OptimizerFactory, Schedule, schedule_of
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import stream
from geniu_lightning.training.exemplars import Exemplars
from geniu_lightning.training.losses import ProxyTerms
from geniu_lightning.training.schedule import UpdateSchedule, When


class GeniuModule(LightningModule):
    """Couples classifier, noise prompts and generator in one combined loss.

    ``L = CE(f(x), y) + w_p CE(f(z), k) + w_r ‖g(z) − x*‖² + w_d KL(q(z) ‖ N(0, I))``

    The first term moves the classifier f only, the second the prompts z only (f fixed and in
    evaluation mode), the last two the generator g only (z detached). x* are training images that
    `Exemplars` chose in the epoch before, so generator and
    prompts start with the second epoch. Without a generator the first term stands alone.

    The work beside the classifier is spread evenly over its steps: one update of prompts and
    generator every ``every_n_steps``, each on a draw of ``prompt_batch`` prompts. On a small set
    that is too little, so the generator gets at least ``min_generator_steps`` updates, and the
    prompts an ``every_n_steps``-th of these, as far as there are classifier steps to go with.

    Args:
        classifier: Network with ``features`` and ``head``; trained in place.
        proxy_generator: Turns prompts into images; ``None`` trains the classifier alone.
        spec: Form of the images.
        exemplars: Chooses the exemplar_strategy; ``None`` without a generator.
        exemplar_images: Returns training images in [0, 1] by their indices.
        steps_per_epoch: Batches in an epoch.
        epochs: Epochs of the classifier.
        optimizer: Of the classifier.
        schedule: Of its learning rate.
        generator_optimizer: Of the generator.
        prompt_optimizer: Of the prompts.
        when: ``beside`` the classifier (the paper's) or ``after`` it, in one more epoch with the
            classifier frozen (the paper's post-hoc ablation).
        exemplars_until: Share of the classifier's epochs in which exemplars are chosen anew, in
            (0, 1]. What is uncertain changes from epoch to epoch, and a generator that is given
            other images to the end shows the mean of them.
        every_n_steps: Classifier steps for each update of prompts and generator.
        min_generator_steps: Generator steps in all, at least.
        prompt_batch: Prompts in an update.
        prompt_weight: w_p.
        reconstruction_weight: w_r; the squared error is summed over pixels.
        divergence_weight: w_d; the divergence is summed over latents, in nats.
        max_gradient_norm: Bound of the classifier's gradient; ``None`` leaves it.
        seed: Training seed.
        log_every_n_steps: Steps between two entries in the logs.
        finished: The classifier comes trained and rests: its epochs only read the scores that
            exemplars are chosen by. With ``after`` alone.

    Raises:
        UserError: If settings contradict each other.
        TrainingDivergedError: During training, if the loss is no finite number.

    Source:
        GENIU, arXiv 2406.07885, sections 4.2 to 4.4. Weights, optimisers and cadence are ours: the
        paper's are not recovered.
    """

    def __init__(
        self,
        *,
        classifier: nn.Module,
        proxy_generator: nn.Module | None,
        spec: ImageSpec,
        exemplars: Exemplars | None,
        exemplar_images: Callable[[Tensor], Tensor],
        steps_per_epoch: int,
        epochs: int,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        generator_optimizer: OptimizerFactory,
        prompt_optimizer: OptimizerFactory,
        when: When = "beside",
        exemplars_until: float = 0.5,
        every_n_steps: int = 4,
        min_generator_steps: int = 1000,
        prompt_batch: int = 20,
        prompt_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        divergence_weight: float = 0.1,
        max_gradient_norm: float | None = None,
        seed: int = 0,
        log_every_n_steps: int = 50,
        finished: bool = False,
    ) -> None:
        super().__init__()
        if finished and when != "after":
            raise UserError(
                "a finished classifier rests, so prompts and generator come after it:"
                f" training.when=after (experiment=post_hoc), not {when!r}"
            )
        # three optimizers at their own pace; the sum of the terms is one loss all the same
        self.automatic_optimization = False
        self.proxy_terms = ProxyTerms(
            per_class=exemplars.per_class if exemplars is not None else 1,
            prompt_batch=prompt_batch,
            prompt_weight=prompt_weight,
            reconstruction_weight=reconstruction_weight,
            divergence_weight=divergence_weight,
            seed=seed,
        )
        self.cadence = UpdateSchedule(
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            with_generator=proxy_generator is not None,
            when=when,
            exemplars_until=exemplars_until,
            every_n_steps=every_n_steps,
            min_generator_steps=min_generator_steps,
        )
        self.classifier: Any = classifier  # which has features and a head, by contract
        self.proxy_generator = proxy_generator
        self.spec = spec
        self.exemplars = exemplars
        self.exemplar_images = exemplar_images
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.generator_optimizer_factory = generator_optimizer
        self.prompt_optimizer_factory = prompt_optimizer
        self.max_gradient_norm = max_gradient_norm
        self.seed = seed
        self.finished = finished
        self.log_every_n_steps = log_every_n_steps
        if proxy_generator is not None:
            assert exemplars is not None  # the two come together
            self.prompts = nn.Parameter(
                self.proxy_terms.first_prompts(exemplars.num_classes, spec.channels, spec.size)
            )
        self._exemplars_now: Tensor | None = None
        self.watch = NonFiniteGuard(
            "what was saved before it is kept: lower training.optimizer.lr, or bound the gradient"
            " by training.max_gradient_norm"
        )
        self._right_and_seen = torch.zeros(2)

    # ---- the combined loss -------------------------------------------------------------------

    def classifier_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of a batch of real images, in nats; moves the classifier."""
        features = self.features_of(batch.images)
        logits = cast(Tensor, self.classifier.head(features)).float()
        if self.exemplars is not None and self.cadence.chooses_exemplars(self.current_epoch):
            self.exemplars.observe(batch.indices, batch.labels, logits, features)
        self._right_and_seen[0] += (logits.detach().argmax(dim=1) == batch.labels).sum()
        self._right_and_seen[1] += len(logits)
        return {"classifier": F.cross_entropy(logits, batch.labels) * batch.weight}

    def features_of(self, images: Tensor) -> Tensor:
        """Return penultimate features; `CompileAndMemoryFormat` may compile it."""
        return cast(Tensor, self.classifier.features(images))

    def prompt_terms(self, tick: int) -> dict[str, Tensor]:
        """Return the cross-entropy of a draw of prompts, weighted, in nats; moves the prompts."""
        return self.proxy_terms.of_prompts(self.classifier, self.prompts, tick)

    def generator_terms(self, tick: int, repetition: int) -> dict[str, Tensor]:
        """Return the terms of a draw of proxies, weighted; they move the generator."""
        assert self.proxy_generator is not None  # called with a generator only
        assert self._exemplars_now is not None
        return self.proxy_terms.of_generator(
            self.proxy_generator, self.prompts, self._exemplars_now, tick, repetition
        )

    # ---- Lightning's hooks -------------------------------------------------------------------

    def configure_optimizers(self) -> Any:  # Lightning's own union of six forms
        """Return the classifier's optimizer and schedule, and those of generator and prompts."""
        first = self.optimizer_factory(self.classifier.parameters())
        courses = [
            schedule_of(first, self.schedule, self.cadence.epochs * self.cadence.steps_per_epoch)
        ]
        optimizers = [first]
        if self.proxy_generator is not None:
            for factory, parameters, steps in (
                (
                    self.generator_optimizer_factory,
                    self.proxy_generator.parameters(),
                    self.cadence.generator_steps,
                ),
                (self.prompt_optimizer_factory, iter([self.prompts]), self.cadence.prompt_steps),
            ):
                optimizers.append(factory(parameters))
                courses.append(schedule_of(optimizers[-1], "cosine", steps))
        return optimizers, courses

    def on_fit_start(self) -> None:
        """Bring scores and exemplars to the device; a resumed run fetches its exemplars anew."""
        self._right_and_seen = self._right_and_seen.to(self.device)
        if self.exemplars is not None:
            self.exemplars.to(self.device)
            if self.exemplars.chosen is not None:
                self._fetch_exemplars(self.exemplars.chosen)

    def on_train_epoch_start(self) -> None:
        """Freeze the classifier where its epochs are over, and tell the loader its epoch."""
        loader = self.trainer.train_dataloader
        if isinstance(loader, IndexLoader):
            # Lightning gives a loader its state back in the middle of an epoch, not between two
            loader.set_epoch(self.current_epoch)
        self._right_and_seen = torch.zeros(2, device=self.device)
        self.classifier.train(self.current_epoch < self.cadence.epochs and not self.finished)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Step what is due: the classifier on a batch, generator and prompts on a draw."""
        tick = self.current_epoch * self.cadence.steps_per_epoch + batch_idx
        torch.manual_seed(stream("step", self.seed, tick, self.global_rank))
        with self._one_message_a_step():
            terms: dict[str, Tensor] = {}
            if self.current_epoch < self.cadence.epochs:
                if self.finished:
                    with torch.no_grad():
                        self.classifier_terms(batch)  # for the scores alone
                else:
                    terms = self.classifier_terms(batch)
            if self.cadence.due(tick, self.cadence.prompt_steps):
                terms |= self.prompt_terms(tick)
            due = self.cadence.due(tick, self.cadence.generator_steps)
            if due:
                terms |= self.generator_terms(tick, 0)
            self._update(terms, tick)
            for repetition in range(1, due):
                self._update(self.generator_terms(tick, repetition), tick)
        if batch_idx + 1 == self.cadence.steps_per_epoch and self.cadence.chooses_exemplars(
            self.current_epoch
        ):
            # here and not in the hook below, which a run resumed from this very step would miss
            self._choose_exemplars()
        if (tick + 1) % self.log_every_n_steps == 0:
            self._log(terms, tick)

    def on_train_epoch_end(self) -> None:
        """Say how training goes."""
        self.watch.stop_if_bad()
        if self._right_and_seen[1]:
            right, seen = self._right_and_seen
            self.log("train/accuracy", right / seen, prog_bar=True, sync_dist=True)
        if self.proxy_generator is not None and self.current_epoch > 0:
            self.log("train/proxy_accuracy", self.proxy_accuracy(), prog_bar=True, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure accuracy on images that were held back from training."""
        right = (self.classifier(batch.images).argmax(dim=1) == batch.labels).float().mean()
        self.log(
            "validation/accuracy",
            right,
            prog_bar=True,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(batch.labels),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the scores and indices of exemplars; refuse to replace a good state by a bad one.

        Raises:
            TrainingDivergedError: If the loss or a weight is no finite number.
        """
        self.watch.stop_if_bad()
        if not all(p.isfinite().all() for p in self.parameters()):
            raise TrainingDivergedError(
                f"a weight stopped being a finite number by step {self.global_step};"
                f" {self.watch.remedy}"
            )
        if self.exemplars is not None:
            checkpoint["exemplars"] = self.exemplars.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the scores and indices back."""
        if self.exemplars is not None:
            self.exemplars.load_state_dict(checkpoint["exemplars"])

    # ---- helpers -----------------------------------------------------------------------------

    @torch.no_grad()
    def proxies(self) -> Tensor:
        """Return the proxy of every prompt as the kit will decode it, in [0, 1]."""
        assert self.proxy_generator is not None  # called with a generator only
        with frozen(self.proxy_generator):
            return cast(Tensor, self.proxy_generator(self.prompts, sample=False).images)

    @torch.no_grad()
    def proxy_accuracy(self) -> Tensor:
        """Return the share of proxies that the classifier assigns to their class, in [0, 1]."""
        assert self.exemplars is not None  # called with a generator only
        with frozen(self.classifier):
            found = self.classifier(self.spec.normalise(self.proxies())).argmax(dim=1)
        labels = torch.arange(len(self.prompts), device=self.device) // self.exemplars.per_class
        return cast(Tensor, found == labels).float().mean()

    def _update(self, terms: dict[str, Tensor], tick: int) -> None:
        """Go down the sum of the terms with every optimizer that they reach."""
        if not terms:
            return
        loss = torch.stack(list(terms.values())).sum()
        self.watch.see(loss, tick)
        self.manual_backward(loss)
        optimizers, courses = _listed(self.optimizers()), _listed(self.lr_schedulers())
        for which, (optimizer, course) in enumerate(zip(optimizers, courses, strict=True)):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if all(p.grad is None for p in parameters):
                continue
            average_gradients(parameters)
            if which == 0 and self.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)
            # only the classifier's steps count as Lightning's, whatever else is stepped beside them
            (optimizer if which == 0 else optimizer.optimizer).step()
            optimizer.zero_grad()
            course.step()

    def _one_message_a_step(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging by itself: it cannot follow terms that come and go."""
        strategy = self.trainer.strategy
        return (
            strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()
        )

    def _choose_exemplars(self) -> None:
        if self.exemplars is not None:
            self.watch.stop_if_bad()  # scores of broken logits choose nothing
            self._fetch_exemplars(self.exemplars.select())

    def _fetch_exemplars(self, chosen: Tensor) -> None:
        self._exemplars_now = self.exemplar_images(chosen.flatten()).to(self.device)

    def _log(self, terms: dict[str, Tensor], tick: int) -> None:
        self.watch.stop_if_bad()
        values = {f"train/loss/{name}": float(term.detach()) for name, term in terms.items()}
        total = sum(values.values())
        self.log("train/loss", total, prog_bar=True, logger=False)
        rate = _listed(self.optimizers())[0].param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics({**values, "train/loss": total, "train/rate": rate}, step=tick)


def _listed(one_or_many: Any) -> list[Any]:  # Lightning returns one thing or a list of them
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]
