"""A Lightning callback that trains a kit's prompts and generator during a user's own training."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from geniu_lightning.data.given import pair_of, refuse_misfits
from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import SettingError, TrainingDivergedError, UserError
from geniu_lightning.fitting.distributed import reduced
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import KitInfo, Name, NetworkSpec
from geniu_lightning.kit.networks import features_of, head_of
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import stream
from geniu_lightning.settings.checked import PositiveInt, checked
from geniu_lightning.training import callback_checks as checks
from geniu_lightning.training.proxies import ProxyTrainer, first_prompts
from geniu_lightning.training.schedule import TrainingSchedule
from geniu_lightning.training.settings import ProxySettings
from geniu_lightning.training.streamed_exemplars import StreamedExemplars

REMEDY = "lower the rates of generator_optimizer and prompt_optimizer"


@dataclass
class FitState:
    """What the callback holds while a trainer fits, and what of it a checkpoint holds."""

    proxies: ProxyTrainer
    exemplars: StreamedExemplars
    schedule: TrainingSchedule  # whose epoch 0 is `first_epoch`
    first_epoch: int  # of the trainer's, in which the callback began
    counts: Tensor  # training images of each class in the first epoch, int64, on the CPU
    step: int = 0  # batches so far
    guard: NonFiniteGuard = field(default_factory=lambda: NonFiniteGuard(REMEDY))
    latest: dict[str, Tensor] = field(default_factory=dict)  # terms of an update, to be logged

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain values; all processes call it."""
        return {
            "step": self.step,
            "first_epoch": self.first_epoch,
            "counts": self.counts,
            "proxies": self.proxies.state_dict(),
            "exemplars": self.exemplars.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.step, self.counts = state["step"], state["counts"].cpu()
        self.proxies.load_state_dict(state["proxies"], self.step)
        self.exemplars.load_state_dict(state["exemplars"])


@checked
class KitCallback(Callback):
    """Trains prompts and a generator along with a user's classifier, and writes them as a kit.

    Before the user's step on a batch, the classifier scores the images for the choice of exemplars,
    and prompts and generator are updated, as `GeniuModule` does both. The classifier's weights are,
    bit for bit, those of a training without the callback. The kit is written at the end of the fit.

    In the epochs that choose exemplars, each batch passes through the classifier once more, in
    evaluation mode and without gradients; `exemplar_strategy="random"` needs no such pass.
    Exemplars are images as the loader gives them, augmented where it augments. The user's
    checkpoints hold a few of each class, so that training can be resumed; the kit does not, and has
    no archive.

    Args:
        path: File of the kit, such as `runs/mine/kit.safetensors`.
        class_names: In the order of their labels.
        spec: Size, channels and normalisation of the images that the classifier reads.
        classifier: Attribute of the LightningModule that holds the network, dotted if it lies
            deeper, or a function from the module to it. The network has a method
            `features(images)`, a `torch.nn.Linear` named `head` with a row a class, and
            `forward(images) = head(features(images))`; its class is importable.
        arguments: What the network's class was constructed with, so that the kit can rebuild it.
        reader: Returns normalised images `(N, C, H, W)` and integer labels `(N,)` of a batch.
        epochs: Epochs of the fit; `None` takes the trainer's.
        generator: Network from prompts to images; `None` is our VAE of the images' form.
        settings: Goes into the kit's record, plain values; with a `training` of the form of
            `conf/training/default.yaml`, methods that retrain can follow it.
        **proxy_settings: Those of `ProxySettings`, all but `when`.

    Example:
        >>> KitCallback("kit.safetensors", ["cat", "dog"], ImageSpec.of(32, 3, 0.5, 0.5),
        ...             classifier="net", arguments={"width": 64})  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        class_names: Sequence[Name],
        spec: ImageSpec,
        *,
        classifier: str | Callable[[LightningModule], nn.Module] = "classifier",
        arguments: Mapping[str, Any] | None = None,
        reader: Callable[[Any], tuple[Tensor, Tensor]] = pair_of,
        epochs: PositiveInt | None = None,
        generator: NetworkSpec | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        log_every_n_steps: PositiveInt = 50,
        **proxy_settings: Any,  # checked by their own class
    ) -> None:
        if len(set(class_names)) != len(class_names):
            raise SettingError(f"must be different names, got {class_names!r}", key="class_names")
        self.path = Path(path).expanduser()
        self.class_names = tuple(class_names)
        self.spec = spec
        self.classifier = classifier
        self.arguments = dict(arguments or {})
        self.reader = reader
        self.epochs = epochs
        form = {"channels": spec.channels, "image_size": spec.size}
        self.generator_spec = generator or NetworkSpec("geniu_lightning.models.vae.VAE", form)
        self.seed = seed
        self.settings = dict(settings or {})
        self.proxy_settings = ProxySettings(when="during", **proxy_settings)
        self.log_every_n_steps = log_every_n_steps
        self._fit: FitState | None = None
        self._saved: dict[str, Any] | None = None

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a strategy that shards networks before it sets anything up."""
        if stage == "fit":
            checks.refuse_strategy(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a classifier that cannot be rebuilt."""
        network = checks.network_of(pl_module, self.classifier)
        checks.rebuilt(network, self.arguments, len(self.class_names))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on where a checkpoint was taken."""
        state, self._saved = self._saved, None
        settings, device, classes = self.proxy_settings, pl_module.device, len(self.class_names)
        first = state["first_epoch"] if state else trainer.current_epoch
        epochs = checks.epochs_of(trainer, self.epochs) - first
        schedule = TrainingSchedule(settings, checks.batches_of(trainer), epochs)
        with torch.random.fork_rng():
            torch.manual_seed(stream("init_generator", self.seed))
            generator = self.generator_spec.build().train().to(device)
        shape = (classes, settings.proxies_per_class, self.spec.channels, self.spec.size)
        prompts = nn.Parameter(first_prompts(*shape, self.seed).to(device))
        proxies = ProxyTrainer(generator, prompts, settings, schedule.updates, self.seed)
        proxies.configure_optimizers()
        exemplars = StreamedExemplars(
            num_classes=classes,
            per_class=settings.proxies_per_class,
            strategy=settings.exemplar_strategy,
            seed=self.seed,
        )
        counts = torch.zeros(classes, dtype=torch.long)
        self._fit = FitState(proxies, exemplars, schedule, first, counts)
        if state:
            for name, value in self._record().items():
                if (there := state["settings"].get(name)) != value:
                    raise UserError(
                        f"the checkpoint's KitCallback had another {name}: {there} and not {value}"
                    )
            self._fit.load_state_dict(state)
        exemplars.to(device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Score the batch's images, and make the updates of this step."""
        fit, device = self._running(), pl_module.device
        network = checks.network_of(pl_module, self.classifier)
        images, labels = self.reader(batch)
        refuse_misfits(images, labels, self.spec, len(self.class_names))
        images, labels = images.to(device), labels.to(device).long()
        epoch = trainer.current_epoch - fit.first_epoch
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            if fit.step == 0:
                checks.refuse_unlike(network, images, self.spec)
            if epoch == 0:
                counts = labels.cpu().bincount(minlength=len(fit.counts))
                fit.counts += reduced(counts.to(device)).cpu()
            if fit.schedule.chooses_exemplars(epoch):
                self._observe(fit, network, images, labels, trainer.global_rank)
            losses = fit.proxies.train_step(fit.step, network, fit.exemplars.images)
        for loss in losses:
            fit.guard.see(loss.total, fit.step)
            fit.latest = {name: term.detach() for name, term in loss.terms.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, and choose exemplars at the end of an epoch."""
        fit = self._running()
        fit.step += 1
        if fit.latest and fit.step % self.log_every_n_steps == 0:
            values = {f"kit/{name}": float(term) for name, term in fit.latest.items()}
            fit.latest = {}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
        chooses = fit.schedule.chooses_exemplars(trainer.current_epoch - fit.first_epoch)
        if chooses and batch_idx + 1 == fit.schedule.steps_per_epoch:
            # here and not in the hook of the epoch's end, which a run that is resumed from a
            # checkpoint of this very step would miss
            fit.exemplars.select()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the kit, or warn why there is none."""
        fit = self._running()
        reason = ""
        if fit.exemplars.images is None or fit.step <= fit.proxies.schedule.first_step:
            reason = "training ended before the second epoch, in which a generator begins"
        try:
            fit.guard.stop_if_bad()
        except TrainingDivergedError as error:
            reason = f"of prompts and generator {error}"
        if reason:
            rank_zero_warn(f"no kit was written to {self.path}: {reason}")
        elif trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.kit(pl_module).save(self.path)
            planned = fit.schedule.steps_per_epoch * fit.schedule.epochs
            if fit.step != planned:
                rank_zero_warn(
                    f"training took {fit.step} batches where {planned} were planned:"
                    " prompts and generator had fewer updates, or rested in the batches beyond"
                )
            rank_zero_info(f"kit: {self.path}")

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs, for the user's checkpoint."""
        if self._fit is None:
            return {}
        return {"settings": self._record(), **self._fit.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, once the fit begins."""
        self._saved = state_dict or None

    def kit(self, pl_module: LightningModule) -> Kit:
        """Return a kit with the module's classifier as it is now, on the CPU."""
        fit = self._running()
        network = checks.network_of(pl_module, self.classifier)
        classifier = checks.rebuilt(network, self.arguments, len(self.class_names))
        classifier.load_state_dict(network.state_dict())
        info = KitInfo(
            classifier=checks.spec_of(network, self.arguments),
            generator=self.generator_spec,
            class_names=self.class_names,
            spec=self.spec,
            class_counts=tuple(fit.counts.tolist()),
            data_fingerprint="",
            seed=self.seed,
            settings={"callback": self._record() | {"batches": fit.step}, **self.settings},
        )
        prompts = fit.proxies.prompts.detach().cpu().clone()
        generator = copy.deepcopy(fit.proxies.generator).cpu()
        return Kit(classifier, info, generator, prompts.unflatten(0, (len(self.class_names), -1)))

    def _running(self) -> FitState:
        if self._fit is None:
            raise UserError("a kit is trained while a trainer fits: there is none before")
        return self._fit

    def _observe(
        self, fit: FitState, network: nn.Module, images: Tensor, labels: Tensor, rank: int
    ) -> None:
        logits = features = None
        if self.proxy_settings.exemplar_strategy != "random":
            with torch.no_grad(), frozen(network):
                features = features_of(network, images).float()
                logits = head_of(network)(features).float()
            fit.guard.see(logits.sum(), fit.step)
        pixels = self.spec.restore(images.float()).clamp(0, 1)
        fit.exemplars.observe(pixels, labels, logits, features, fit.step, rank)

    def _record(self) -> dict[str, Any]:
        return self.proxy_settings.plain() | {"seed": self.seed}
