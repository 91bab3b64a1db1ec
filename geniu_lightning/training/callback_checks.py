"""What `KitCallback` takes from a user's module, batches and trainer, and what it refuses."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.kit.networks import features_of, head_of, refuse_no_classifier
from geniu_lightning.models.frozen import frozen

TOLERANCE = 0.1  # by which augmentation may leave [0, 1]


def network_of(
    module: LightningModule, where: str | Callable[[LightningModule], nn.Module]
) -> nn.Module:
    """Return a module's classifier, found by attribute or function; refuse what is none."""
    try:
        network: Any = attrgetter(where)(module) if isinstance(where, str) else where(module)
    except AttributeError as error:
        raise UserError(
            f"{type(module).__name__} has no classifier to be found by {where!r} ({error}): pass"
            " KitCallback(classifier=...), an attribute's name or a function"
        ) from error
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    if not isinstance(network, nn.Module):
        raise UserError(f"the classifier is a {type(network).__name__} and no torch.nn.Module")
    return network


def spec_of(network: nn.Module, arguments: Mapping[str, Any]) -> NetworkSpec:
    """Return a network's class path and the arguments that it was constructed with."""
    kind = type(network)
    return NetworkSpec(f"{kind.__module__}.{kind.__qualname__}", dict(arguments))


def rebuilt(network: nn.Module, arguments: Mapping[str, Any], classes: int) -> nn.Module:
    """Return a new network of the classifier's class, as the loader of the kit builds it."""
    spec = spec_of(network, arguments)
    refuse_no_classifier(network, spec.target)
    rows = head_of(network).out_features
    if rows != classes:
        raise UserError(f"the head of {spec.target} has {rows} rows for {classes} class names")
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in network.parameters()):
        raise UserError(
            "KitCallback needs weights in 32 bits: train with precision=32-true or bf16-mixed"
        )
    if spec.target.startswith("__main__.") or "<locals>" in spec.target:
        raise UserError(
            f"{spec.target} cannot be imported by whoever loads the kit: move the class of the"
            " classifier into a module of its own"
        )
    try:
        with torch.random.fork_rng():
            built = spec.build_classifier()
    except KitError as error:
        raise UserError(
            f"the classifier cannot be rebuilt; pass KitCallback(arguments=...): {error}"
        ) from error
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (network, built)]
    wrong = [k for k in shapes[0] | shapes[1] if shapes[0].get(k) != shapes[1].get(k)]
    if wrong:
        raise UserError(
            f"{spec.target} built with {spec.arguments} is another network than the classifier, as"
            f" {wrong[0]} shows: pass KitCallback(arguments=...)"
        )
    return built


def refuse_strategy(trainer: Trainer) -> None:
    """Refuse a strategy that does not hold the whole classifier in every process."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(
            "KitCallback needs a whole classifier in every process, which"
            f" {type(trainer.strategy).__name__} does not hold: use one device or ddp"
        )


def batches_of(trainer: Trainer) -> int:
    """Return the batches of an epoch; refuse a loader that does not know them."""
    count = trainer.num_training_batches
    if not isinstance(count, int):
        raise UserError(
            "the training loader has no length, over which the kit's training is spread: set"
            " Trainer(limit_train_batches=...) to a number of batches"
        )
    return count


def epochs_of(trainer: Trainer, wanted: int | None) -> int:
    """Return the epochs of a fit; refuse a trainer that does not know them."""
    epochs = wanted or trainer.max_epochs
    if epochs is None or epochs < 1:
        raise UserError(
            "the trainer does not say how many epochs there will be, over which the kit's training"
            " is spread: pass KitCallback(epochs=...) or Trainer(max_epochs=...)"
        )
    return epochs


def refuse_unlike(network: nn.Module, images: Tensor, spec: ImageSpec) -> None:
    """Refuse images not normalised as the spec says, and a network other than head(features)."""
    pixels = spec.restore(images.float())
    least, most = float(pixels.min()), float(pixels.max())
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise UserError(
            f"images reach from {least:.2f} to {most:.2f} where mean {spec.mean} and deviation"
            f" {spec.std} are undone, and not from 0 to 1: give the spec the normalisation of your"
            " data"
        )
    with torch.no_grad(), frozen(network):
        composed = head_of(network)(features_of(network, images))
        if not torch.allclose(network(images), composed, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UserError(
                f"{type(network).__name__} does not answer with head(features(images)), on which"
                " unlearning relies"
            )
