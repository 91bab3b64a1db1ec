"""A Lightning callback that grows a kit beside somebody else's training."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.fitting.guard import NonFiniteGuard
from geniu_lightning.fitting.optim import OptimizerFactory
from geniu_lightning.kit.file import Kit, KitInfo
from geniu_lightning.kit.networks import NetworkSpec
from geniu_lightning.models.frozen import frozen
from geniu_lightning.seeds import stream
from geniu_lightning.training import callback_checks as checks
from geniu_lightning.training.exemplars import ExemplarStrategy
from geniu_lightning.training.gallery import Gallery
from geniu_lightning.training.growth import Growth
from geniu_lightning.training.losses import ProxyTerms
from geniu_lightning.training.schedule import UpdateSchedule

GENERATOR_OPTIMIZER = partial(torch.optim.Adam, lr=0.001, fused=True)
PROMPT_OPTIMIZER = partial(torch.optim.Adam, lr=0.1)


class KitCallback(Callback):
    """Trains prompts and a generator beside a user's own classifier, and writes them as a kit.

    After each batch of the user's training, when the classifier has made its step, prompts and
    generator make those that are due, by the terms and the cadence of
    `GeniuModule`. The user's modules, optimizers, gradients,
    layer modes and random streams are left as they are, so the classifier's weights are, bit for
    bit, those of a training without the callback. The kit is written at the end of the fit.

    ZipBatches these steps, in the epochs in which exemplars are chosen, each batch passes through the
    classifier once more, in evaluation mode and without gradients; ``exemplar_strategy="random"`` does
    without. Exemplars are images as the loader gives them, augmented where it augments. The
    user's checkpoints hold them, a few of each class, so that training can be resumed; the kit
    does not.

    Args:
        path: File of the kit, such as ``runs/mine/kit.safetensors``.
        class_names: Names of the classes, in the order of their labels.
        spec: Size, channels and normalisation of the images that the classifier reads.
        classifier: Attribute of the LightningModule that holds the network, dotted if it lies
            deeper, or a function from the module to it. The network has a method
            ``features(images)``, a ``torch.nn.Linear`` named ``head`` with a row a class, and
            ``forward(images) = head(features(images))``; its class is importable.
        arguments: What the network's class was constructed with, so that the kit can rebuild it.
        reader: Returns normalised images ``(N, C, H, W)`` and integer labels ``(N,)`` of a batch.
        epochs: Epochs of the fit; ``None`` takes the trainer's.
        generator: Network from prompts to images; ``None`` is our VAE of the images' form.
        proxies_per_class: Prompts a class.
        exemplar_strategy: How exemplars are chosen: ``max_entropy``, ``min_entropy`` or ``random``.
        exemplars_until: Share of the epochs in which they are chosen anew, in (0, 1].
        every_n_steps: Batches for each update of prompts and generator.
        min_generator_steps: Updates of the generator in all, at least.
        prompt_batch: Prompts in an update.
        generator_optimizer: Of the generator; its rate falls along a cosine.
        prompt_optimizer: Of the prompts, likewise.
        prompt_weight: Weight of the prompts' cross-entropy.
        reconstruction_weight: Weight of the squared error, which is summed over pixels.
        divergence_weight: Weight of the divergence, which is summed over latents, in nats.
        seed: Of all that the callback draws.
        settings: Goes into the kit's record, plain values; with a ``training`` of the form of
            ``conf/training/default.yaml``, methods that retrain can follow it.
        log_every_n_steps: Batches between two entries in the trainer's logs.

    Raises:
        UserError: Before training, if the network, the trainer or a setting cannot work; at a batch
            whose images or labels do not fit.

    Example:
        >>> KitCallback("kit.safetensors", ["cat", "dog"], ImageSpec.of(32, 3, 0.5, 0.5),
        ...             classifier="net", arguments={"width": 64})  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        class_names: Sequence[str],
        spec: ImageSpec,
        *,
        classifier: str | Callable[[LightningModule], nn.Module] = "classifier",
        arguments: Mapping[str, Any] | None = None,
        reader: Callable[[Any], tuple[Tensor, Tensor]] = checks.pairs,
        epochs: int | None = None,
        generator: NetworkSpec | None = None,
        proxies_per_class: int = 10,
        exemplar_strategy: ExemplarStrategy = "max_entropy",
        exemplars_until: float = 0.5,
        every_n_steps: int = 4,
        min_generator_steps: int = 1000,
        prompt_batch: int = 20,
        generator_optimizer: OptimizerFactory = GENERATOR_OPTIMIZER,
        prompt_optimizer: OptimizerFactory = PROMPT_OPTIMIZER,
        prompt_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        divergence_weight: float = 0.1,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        log_every_n_steps: int = 50,
    ) -> None:
        if isinstance(class_names, str) or len(set(class_names)) != len(class_names):
            raise UserError(f"class_names must be different names, got {class_names!r}")
        self.path = Path(path).expanduser()
        self.class_names = tuple(map(str, class_names))
        self.spec = spec
        self.classifier = classifier
        self.arguments = dict(arguments or {})
        self.reader = reader
        self.epochs = epochs
        form = {"channels": spec.channels, "image_size": spec.size}
        self.generator_spec = generator or NetworkSpec("geniu_lightning.models.vae.VAE", form)
        self.exemplars_until = exemplars_until
        self.every_n_steps = every_n_steps
        self.min_generator_steps = min_generator_steps
        self.optimizers = (prompt_optimizer, generator_optimizer)
        self.seed = seed
        self.settings = dict(settings or {})
        self.exemplar_strategy: ExemplarStrategy = exemplar_strategy
        self.terms = ProxyTerms(
            per_class=proxies_per_class,
            prompt_batch=prompt_batch,
            prompt_weight=prompt_weight,
            reconstruction_weight=reconstruction_weight,
            divergence_weight=divergence_weight,
            seed=seed,
        )
        self.log_every_n_steps = log_every_n_steps
        self._growth: Growth | None = None
        self._latest: dict[str, Tensor] = {}  # terms of the last update that is not logged yet
        self._saved: dict[str, Any] | None = None
        self._start_over()

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a trainer that cannot work before it sets anything up.

        Raises:
            UserError: If the strategy shards networks.
        """
        if stage == "fit":
            checks.refuse_strategy(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a classifier that cannot work, now that the module has made it.

        Raises:
            UserError: If it is none, or cannot be rebuilt.
        """
        checks.rebuilt(self._network(pl_module), self.arguments, len(self.class_names))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on where a checkpoint was taken.

        Raises:
            UserError: If the epochs or their batches are not known or too few, or the checkpoint
                was written by a callback with other settings.
        """
        state = self._saved
        first = state["first_epoch"] if state else trainer.current_epoch
        cadence = UpdateSchedule(
            steps_per_epoch=checks.batches_of(trainer),
            epochs=checks.epochs_of(trainer, self.epochs) - first,
            with_generator=True,
            exemplars_until=self.exemplars_until,
            every_n_steps=self.every_n_steps,
            min_generator_steps=self.min_generator_steps,
        )
        with torch.random.fork_rng():
            torch.manual_seed(stream("init_generator", self.seed))
            generator = self.generator_spec.build().train().to(pl_module.device)
        size, channels, classes = self.spec.size, self.spec.channels, len(self.class_names)
        prompts = self.terms.first_prompts(classes, channels, size).to(pl_module.device)
        self._start_over()
        self._growth = Growth(
            terms=self.terms,
            cadence=cadence,
            first_epoch=first,
            generator=generator,
            prompts=nn.Parameter(prompts),
            optimizers=self.optimizers,
            num_classes=classes,
        )
        if state:
            self._restore(state, self._growth)
        self.gallery.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the batch, and make the steps that are due.

        Raises:
            UserError: If images or labels do not fit, or a class had no image in an epoch that
                chooses exemplars.
        """
        growth, network = self._grown(), self._network(pl_module)
        images, labels = self.reader(batch)
        checks.refuse_batch(images, labels, self.spec, len(self.class_names))
        images, labels = images.to(pl_module.device), labels.to(pl_module.device).long()
        epoch = trainer.current_epoch - growth.first_epoch
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            if growth.tick == 0:
                checks.refuse_unlike(network, images, self.spec)
            if epoch == 0:
                growth.counts += labels.cpu().bincount(minlength=len(growth.counts))
            if growth.cadence.chooses_exemplars(epoch):
                self._observe(network, images, labels, growth.tick, trainer.global_rank)
            chosen = self.gallery.chosen
            updates = growth.step(network, None if chosen is None else chosen.flatten(0, 1))
        for terms in updates:
            self.watch.see(torch.stack(list(terms.values())).sum(), growth.tick)
            self._latest = {name: term.detach() for name, term in terms.items()}
        if self._latest and (growth.tick + 1) % self.log_every_n_steps == 0:
            values = {f"kit/{name}": float(term) for name, term in self._latest.items()}
            self._latest = {}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
        growth.tick += 1
        if batch_idx + 1 == growth.cadence.steps_per_epoch:
            # here and not in the hook of the epoch's end, which a run that is resumed from a
            # checkpoint of this very step would miss
            if epoch == 0:
                growth.merge_counts()
            if growth.cadence.chooses_exemplars(epoch):
                self.gallery.select()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the kit; where there can be none, say so and leave the user's training alone."""
        growth = self._grown()
        reason = ""
        if self.gallery.chosen is None or growth.tick <= growth.cadence.first_tick:
            reason = "training ended before the second epoch, in which a generator begins"
        try:
            self.watch.stop_if_bad()
        except TrainingDivergedError as error:
            reason = f"of prompts and generator {error}"
        if reason:
            rank_zero_warn(f"no kit was written to {self.path}: {reason}")
        elif trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.kit(pl_module).save(self.path)
            due = growth.cadence.steps_per_epoch * growth.cadence.epochs
            if growth.tick < due:
                rank_zero_warn(
                    f"training ended after {growth.tick} of {due} batches, so prompts and generator"
                    " of the kit had fewer steps than were meant for them"
                )
            if growth.tick > due:
                rank_zero_warn(
                    f"training went on for {growth.tick - due} batches after the {due} that the"
                    " callback was told of, in which prompts and generator rested"
                )
            rank_zero_info(f"kit: {self.path}")

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs, for the user's checkpoint."""
        if self._growth is None:
            return {}
        return {
            "settings": self._record(),
            "gallery": self.gallery.state_dict(),
            **self._growth.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken, once the fit begins."""
        self._saved = state_dict or None

    # ---- what else a user may ask for --------------------------------------------------------

    def kit(self, pl_module: LightningModule) -> Kit:
        """Return a kit of what has grown and the module's classifier as it is now, on the CPU.

        Raises:
            UserError: If nothing has grown yet.
        """
        growth = self._grown()
        network = self._network(pl_module)
        classifier = checks.rebuilt(network, self.arguments, len(self.class_names))
        classifier.load_state_dict(network.state_dict())
        info = KitInfo(
            classifier=checks.spec_of(network, self.arguments),
            generator=self.generator_spec,
            class_names=self.class_names,
            spec=self.spec,
            class_counts=tuple(growth.counts.tolist()),
            data_fingerprint="",
            seed=self.seed,
            settings={"callback": self._record() | {"batches": growth.tick}, **self.settings},
        )
        shape = (len(self.class_names), self.terms.per_class, *growth.prompts.shape[1:])
        prompts = growth.prompts.detach().cpu().clone().view(shape)
        return Kit(classifier, info, copy.deepcopy(growth.generator).cpu(), prompts)

    # ---- helpers -----------------------------------------------------------------------------

    def _start_over(self) -> None:
        self.gallery = Gallery(
            len(self.class_names), self.terms.per_class, self.exemplar_strategy, self.seed
        )
        self.watch = NonFiniteGuard("lower the rates of generator_optimizer and prompt_optimizer")
        self._saved = None
        self._latest = {}

    def _grown(self) -> Growth:
        if self._growth is None:
            raise UserError("the kit grows while a trainer fits: there is none before")
        return self._growth

    def _network(self, module: LightningModule) -> nn.Module:
        return checks.network_of(module, self.classifier)

    def _observe(
        self, network: nn.Module, images: Tensor, labels: Tensor, tick: int, rank: int
    ) -> None:
        logits = None
        if self.exemplar_strategy != "random":
            with torch.no_grad(), frozen(network):
                logits = network(images).float()
            self.watch.see(logits.sum(), tick)
        pixels = self.spec.restore(images.float()).clamp(0, 1)
        self.gallery.observe(pixels, labels, logits, tick, rank)

    def _record(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            "proxies_per_class": self.terms.per_class,
            "exemplar_strategy": self.exemplar_strategy,
            "exemplars_until": self.exemplars_until,
            "every_n_steps": self.every_n_steps,
            "min_generator_steps": self.min_generator_steps,
            "prompt_batch": self.terms.prompt_batch,
            "prompt_weight": self.terms.prompt_weight,
            "reconstruction_weight": self.terms.reconstruction_weight,
            "divergence_weight": self.terms.divergence_weight,
            "seed": self.seed,
        }

    def _restore(self, state: dict[str, Any], growth: Growth) -> None:
        there, own = state["settings"], self._record()
        other = [name for name in own if there.get(name) != own[name]]
        if other:
            raise UserError(
                f"the checkpoint's KitCallback had another {other[0]}: {there.get(other[0])} and"
                f" not {own[other[0]]}"
            )
        self.gallery.load_state_dict(state["gallery"])
        growth.load_state_dict(state)
