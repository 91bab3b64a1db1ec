"""Base of all unlearning methods: settings, steps, batch norm, and the clock."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from geniu_lightning.errors import SettingError, TrainingDivergedError, UserError
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.fitting.optim import OptimizerFactory, Schedule, lr_schedule_of
from geniu_lightning.fitting.trainer import fit
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import NonNegativeInt, Positive, PositiveInt, checked
from geniu_lightning.unlearning.batches import Batches, UnlearnBatch
from geniu_lightning.unlearning.sources import Access, Sources

FrozenBatchNorm = Literal["frozen", "frozen_affine"]


class Clock:
    """Stopwatch that adds up spans and synchronises the device at each end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        """Start a span."""
        _synchronise()
        self._since = time.perf_counter()

    def stop(self) -> None:
        """End the span."""
        _synchronise()
        self.seconds += time.perf_counter() - self._since

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _synchronise() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@checked
class Unlearner(LightningModule):
    """A method: a copy of the kit's classifier, tuned or edited so that it forgets classes.

    A method declares `access`, sets `self.batches` in `prepare` and returns named losses from
    `loss_terms`; one that edits weights leaves `steps` at 0 and works in `finish`. The kit's own
    networks are never changed. Constructors of subclasses are checked against their annotations.

    `run` does it all. The direct way, with a trainer of one's own:

        unlearner.begin(kit, sources)
        trainer = Trainer(max_steps=unlearner.steps, max_epochs=-1, use_distributed_sampler=False)
        trainer.fit(unlearner)  # only if unlearner.steps
        classifier = unlearner.end()

    The clock measures `prepare`, the steps from first to last, and `finish`, not Lightning's own
    set-up. Defaults are the source's, or neutral; tuned values are in the method's yaml.

    Args:
        batch_norm: `frozen` uses and keeps the running statistics and tunes scale and shift,
            `frozen_affine` keeps these too, `train` uses and changes batch statistics: those of
            the first process's share, unless `trainer.sync_batchnorm` is set.
    """

    access: Access = Access.NONE  # of the class, or of an instance whose settings decide
    from_scratch: ClassVar[bool] = False  # trains as training did, in training's precision
    stored: int | None = None  # number of retained images stored, where not all of them
    prior_taken: float = 0.0  # tau by which the imbalance was removed from the logits, see KitInfo

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            checked(cls)

    def __init__(
        self,
        *,
        forget: Sequence[int],
        steps: NonNegativeInt = 0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule = "none",
        max_gradient_norm: Positive | None = None,
        batch_norm: Literal["frozen", "frozen_affine", "train"] = "frozen",
        seed: int = 0,
        log_every_n_steps: PositiveInt = 10,
    ) -> None:
        super().__init__()
        if not forget:
            raise SettingError("must name at least one class", key="forget")
        if steps and optimizer is None:
            raise SettingError(f"must be 0 without an optimizer, got {steps}", key="steps")
        if optimizer is not None and not steps:
            raise SettingError("must be at least 1 with an optimizer", key="steps")
        self.forget = tuple(sorted(set(forget)))
        self.steps = steps
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.max_gradient_norm = max_gradient_norm
        self.batch_norm = batch_norm
        self.seed = seed
        self.log_every_n_steps = log_every_n_steps
        self.clock = Clock()
        self.classifier: nn.Module = nn.Identity()
        self.batches: Batches | None = None
        self.guard = NonFiniteGuard("lower the method's learning rate, or bound its gradient")

    # ---- what a method fills in --------------------------------------------------------------

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Make copies of what the method needs. The base copies the classifier."""
        self.classifier = copy.deepcopy(kit.classifier).requires_grad_(True)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return named, weighted scalar losses; their sum is minimised."""
        raise UserError(f"{type(self).__name__} has no loss: set its steps to 0")

    def finish(self) -> None:
        """Edit weights after the last step. The base does nothing."""

    # ---- running it --------------------------------------------------------------------------

    def run(self, kit: Kit, sources: Sources, trainer: Callable[[int], Trainer]) -> nn.Module:
        """Unlearn, and return the classifier in evaluation mode without gradients.

        `trainer` makes a trainer for a number of steps; it is not called without steps.
        """
        self.begin(kit, sources)
        if self.steps:
            fit(trainer(self.steps), self)
        return self.end()

    def begin(self, kit: Kit, sources: Sources) -> None:
        """Prepare under the unlearning seed; what ran before in this process has no effect."""
        with self.clock:
            torch.manual_seed(stream("unlearn", self.seed))
            self.prepare(kit, sources)
            self._set_batch_norm()

    def end(self) -> nn.Module:
        """Finish, and return the classifier in evaluation mode without gradients."""
        self.guard.stop_if_bad()
        with self.clock:
            self.finish()
        if not all(p.isfinite().all() for p in self.classifier.parameters()):
            raise TrainingDivergedError(
                f"the weights stopped being finite numbers at the last step; {self.guard.remedy}"
            )
        return self.classifier.eval().requires_grad_(False)

    def _set_batch_norm(self) -> None:
        self.classifier.train(self.batch_norm == "train")
        if self.batch_norm == "frozen_affine":
            for layer in self.classifier.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.requires_grad_(False)

    # ---- Lightning's hooks -------------------------------------------------------------------

    def configure_optimizers(self) -> Any:  # Lightning's own union of six forms
        """Return the optimizer over the trainable parameters, and its schedule."""
        with self.clock:
            assert self.optimizer_factory is not None  # checked at construction
            trainable = [p for p in self.classifier.parameters() if p.requires_grad]
            optimizer = self.optimizer_factory(trainable)
            scheduler = self.lr_schedule(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the learning rate schedule."""
        return lr_schedule_of(optimizer, self.schedule, self.steps)

    def train_dataloader(self) -> Batches:
        """Return this process's share of the batches."""
        if self.batches is None:
            raise UserError(f"{type(self).__name__} has no batches: set its steps to 0")
        self.batches.shard(self.trainer.global_rank, self.trainer.world_size)
        return self.batches

    def on_train_start(self) -> None:
        """Start the clock; set the mode again, which Lightning may have changed."""
        self._set_batch_norm()
        if self.trainer.global_rank:  # random draws of the steps must differ among processes
            torch.manual_seed(stream("unlearn", self.seed, self.trainer.global_rank))
        self.clock.start()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self.clock.stop()

    def training_step(self, batch: UnlearnBatch, batch_idx: int) -> Tensor:
        """Return the sum of the losses."""
        step = self.global_step
        terms = self.loss_terms(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.guard.see(loss, step)
        if step % self.log_every_n_steps == 0 or step == self.steps - 1:
            self.guard.stop_if_bad()
            values = {f"unlearn/loss/{name}": float(term.detach()) for name, term in terms.items()}
            self.log("unlearn/loss", sum(values.values()), prog_bar=True, logger=False)
            for logger in self.loggers:
                logger.log_metrics(values, step=step)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Bound the gradient before the optimizer sees it."""
        if self.max_gradient_norm is not None:
            self.clip_gradients(optimizer, self.max_gradient_norm, "norm")
