"""What every unlearning method shares: declared access, batches, steps, and the clock."""

import copy
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.fitting.guard import NonFiniteGuard, fit
from geniu_lightning.fitting.optim import OptimizerFactory, Schedule, lr_schedule_of
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.sources import Access, Batches, Sources, UnlearnBatch

BatchNorm = Literal["frozen", "frozen_affine", "train"]


class Clock:
    """Adds up seconds between starts and stops, the device at rest at each."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Go on."""
        _settle()
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Pause."""
        assert self._since is not None  # stop follows start
        _settle()
        self.seconds += time.perf_counter() - self._since
        self._since = None

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _settle() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Unlearner(LightningModule):
    """Base of all methods: a copy of the kit's classifier, tuned so that it forgets classes.

    A method declares ``access``, sets ``self.batches`` in `prepare` and returns named terms
    from `loss_terms`; one that edits weights leaves ``steps`` at 0 and does so in
    `finish`. The kit's own networks are never touched.

    The clock runs while inputs are in memory and weights are not final: through
    `prepare`, from the first to the last step, through `finish`. Loading the kit and
    Lightning's own set-up stand outside.

    The defaults of a method's class are its source's, or neutral; those found by tuning stand in
    its yaml.

    Args:
        forget: Forgotten classes, by index.
        steps: Updates.
        optimizer: Factory; ``None`` for a method without updates.
        schedule: Course of the learning rate.
        max_gradient_norm: Bound of the gradient before the optimizer sees it; ``None`` leaves it.
        batch_norm: ``frozen`` uses and keeps the running statistics and tunes scale and shift,
            ``frozen_affine`` keeps these too, ``train`` uses and changes batch statistics: those of
            the first process's share, unless ``trainer.sync_batchnorm`` is set.
        seed: Unlearning seed.

    Raises:
        UserError: If a setting is out of range.
    """

    access: Access = Access.NONE  # of the class, or of one whose settings decide
    from_scratch: ClassVar[bool] = False  # trains as training did, in training's precision
    stored: int | None = None  # retained images that had to be kept, where not all of them
    prior_taken: float = 0.0  # tau by which the imbalance was taken out of the answers, see KitInfo

    def __init__(
        self,
        *,
        forget: tuple[int, ...],
        steps: int = 0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule = "none",
        max_gradient_norm: float | None = None,
        batch_norm: BatchNorm = "frozen",
        seed: int = 0,
        log_every_n_steps: int = 10,
    ) -> None:
        super().__init__()
        if not forget:
            raise UserError("there is no class to forget")
        if not isinstance(steps, int) or steps < 0 or (steps and optimizer is None):
            raise UserError(
                "unlearner.steps must be a whole number of at least 0, and with steps there must"
                f" be an optimizer; got {steps} steps"
            )
        if optimizer is not None:
            try:
                optimizer([nn.Parameter(torch.zeros(1))])
            except (TypeError, ValueError) as error:
                raise UserError(f"unlearner.optimizer cannot be made: {error}") from error
        if schedule not in get_args(Schedule):
            raise UserError(
                f"unlearner.schedule must be one of {', '.join(get_args(Schedule))},"
                f" got {schedule!r}"
            )
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise UserError(f"unlearner.max_gradient_norm must be above 0, got {max_gradient_norm}")
        if log_every_n_steps < 1:
            raise UserError(
                f"unlearner.log_every_n_steps must be at least 1, got {log_every_n_steps}"
            )
        if batch_norm not in get_args(BatchNorm):
            raise UserError(
                f"unlearner.batch_norm must be one of {', '.join(get_args(BatchNorm))},"
                f" got {batch_norm!r}"
            )
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
        self.watch = NonFiniteGuard("lower the method's learning rate, or bound its gradient")

    # ---- what a method fills in --------------------------------------------------------------

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Make copies of what the method needs. The base copies the classifier."""
        self.classifier = copy.deepcopy(kit.classifier).requires_grad_(True)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return named, already weighted terms, each a scalar; their sum goes down."""
        raise UserError(f"{type(self).__name__} has no loss: set its steps to 0")

    def finish(self) -> None:
        """Edit weights, or clean up after the last step. The base does nothing."""

    # ---- running it --------------------------------------------------------------------------

    def run(self, kit: Kit, sources: Sources, trainer: Callable[[int], Trainer]) -> nn.Module:
        """Unlearn, and return the classifier in evaluation mode without gradients.

        Args:
            kit: What training left; unchanged afterwards.
            sources: Real images as far as ``access`` goes.
            trainer: Makes a trainer for a number of steps.

        Raises:
            AccessError: If the method reads what it did not declare.
            TrainingDivergedError: If loss or weights stop being finite numbers.
        """
        with self.clock:
            torch.manual_seed(stream("unlearn", self.seed))
            self.prepare(kit, sources)
            self._set_batch_norm()
        if self.steps:
            fit(trainer(self.steps), self)
            self.watch.stop_if_bad()
        with self.clock:
            self.finish()
        if not all(p.isfinite().all() for p in self.classifier.parameters()):
            raise TrainingDivergedError(
                f"the weights stopped being finite numbers at the last step; {self.watch.remedy}"
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
        """Return the optimizer over what may move, and its schedule."""
        with self.clock:
            assert self.optimizer_factory is not None  # checked at construction
            moving = [p for p in self.classifier.parameters() if p.requires_grad]
            optimizer = self.optimizer_factory(moving)
            course = self.course(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": course, "interval": "step"},
        }

    def course(self, optimizer: Optimizer) -> LRScheduler:
        """Return the course of the learning rate."""
        return lr_schedule_of(optimizer, self.schedule, self.steps)

    def train_dataloader(self) -> Batches:
        """Return this rank's share of the batches."""
        if self.batches is None:
            raise UserError(f"{type(self).__name__} has no batches: set its steps to 0")
        self.batches.shard(self.trainer.global_rank, self.trainer.world_size)
        return self.batches

    def on_train_start(self) -> None:
        """Start the clock; make sure that Lightning left the mode as it was asked for."""
        self._set_batch_norm()
        if self.trainer.global_rank:  # what is drawn in the steps is not to repeat on every rank
            torch.manual_seed(stream("unlearn", self.seed, self.trainer.global_rank))
        self.clock.start()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self.clock.stop()

    def training_step(self, batch: UnlearnBatch, batch_idx: int) -> Tensor:
        """Return the sum of the terms."""
        step = self.global_step
        terms = self.loss_terms(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.watch.see(loss, step)
        if step % self.log_every_n_steps == 0 or step == self.steps - 1:
            self.watch.stop_if_bad()
            values = {f"unlearn/loss/{name}": float(term.detach()) for name, term in terms.items()}
            self.log("unlearn/loss", sum(values.values()), prog_bar=True, logger=False)
            for logger in self.loggers:
                logger.log_metrics(values, step=step)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Bound the gradient before the optimizer remembers it."""
        if self.max_gradient_norm is not None:
            self.clip_gradients(optimizer, self.max_gradient_norm, "norm")
