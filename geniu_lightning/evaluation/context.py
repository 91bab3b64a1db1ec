"""What a metric may look at."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Protocol

import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.networks import features_of, head_of
from geniu_lightning.seeds import generator

CHUNK = 125  # bounds memory; larger ones are slower on a CPU
LARGEST_LOGIT = 1e4  # a mask of minus infinity is kept as a finite one

Part = Literal["original", "oracles", "proxies", "fresh"]


@dataclass(frozen=True)
class Split:
    """Images of one split, in an order that does not change, without augmentation.

    Attributes:
        labels: int64, on the CPU, shape ``(N,)``.
        read: Returns the normalised images at some positions, on the models' device.
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]

    def chunks(self) -> Iterator[Tensor]:
        """Go through all images in order."""
        for positions in torch.arange(len(self.labels)).split(CHUNK):
            yield self.read(positions)

    def positions_of(self, classes: tuple[int, ...]) -> Tensor:
        """Return where images of some classes are, int64."""
        return torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64)).nonzero().flatten()


@dataclass(frozen=True)
class Outputs:
    """What a model says of a split.

    Attributes:
        logits: float32, on the CPU, within ±10⁴, shape ``(N, K)``, in the order of the split.
        features: Penultimate ones, float32, on the CPU, shape ``(N, D)``.
        labels: int64, shape ``(N,)``.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor

    def of(self, classes: tuple[int, ...]) -> "Outputs":
        """Return the part of it that is about images of some classes."""
        mine = torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64))
        return Outputs(self.logits[mine], self.features[mine], self.labels[mine])

    @property
    def log_probabilities(self) -> Tensor:
        """Log-softmax in float64, in nats, shape ``(N, K)``."""
        return log_softmax(self.logits)


@dataclass(frozen=True)
class Proxies:
    """What is kept beside the classifier and stands for images of each class.

    Attributes:
        images: Normalised, on the models' device, shape ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``.
    """

    images: Tensor
    labels: Tensor


class OutputStore(Protocol):
    """Keeps outputs of models that many evaluations share."""

    def get(self, network: nn.Module, split: str) -> Outputs | None:
        """Return what is kept of a network on a split."""

    def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
        """Keep outputs, if the network is one that others will ask for too."""


class _Undeclared:
    """Stands for a part that a metric did not say it looks at."""

    def __init__(self, part: str) -> None:
        self.part = part

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"the metric looks at {self.part}, and its `needs` do not say so")

    __getattr__ = __call__ = __iter__ = __len__ = __bool__ = __getitem__ = _refuse


@dataclass(frozen=True)
class Context:
    """One comparison of a model with retrained ones, and with the original it came from.

    Args:
        original: Before unlearning, in evaluation mode, without gradients, as are all models here.
        unlearned: What is judged. Oracles take its place when they are judged themselves.
        forget: Forgotten classes; empty where training itself is evaluated.
        class_names: In the order of their indices.
        class_counts: Training images of each class.
        splits: ``test``, ``train`` and, where there is one, ``validation``.
        oracles: Models retrained without the forgotten classes; never the one that is judged.
        proxies: Those that the method keeps; ``None`` for a method that keeps none.
        fresh: Makes an untrained network of the same kind from a seed.
        seed: Evaluation seed: all that a metric draws.
        on_progress: Told what is going on.
        store: Keeps outputs over runs; ``None`` keeps them for this one.
    """

    original: nn.Module
    unlearned: nn.Module
    forget: tuple[int, ...]
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    splits: Mapping[str, Split]
    oracles: tuple[nn.Module, ...] = ()
    proxies: Proxies | None = None
    fresh: Callable[[int], nn.Module] | None = None
    seed: int = 0
    on_progress: Callable[[str], None] = lambda text: None
    store: OutputStore | None = None
    _outputs: dict[tuple[int, str], tuple[nn.Module, Outputs]] = field(
        default_factory=dict, repr=False
    )
    _shared: dict[tuple[object, ...], Outputs] = field(default_factory=dict, repr=False)

    @property
    def retained(self) -> tuple[int, ...]:
        """Classes that are kept."""
        return tuple(k for k in range(len(self.class_names)) if k not in self.forget)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.unlearned.parameters()).device

    def judging(self, network: nn.Module) -> "Context":
        """Return the same context about another model; an oracle is not its own yardstick."""
        others = tuple(oracle for oracle in self.oracles if oracle is not network)
        return replace(self, unlearned=network, oracles=others)

    def showing(self, needs: frozenset[Part]) -> "Context":
        """Return a context in which only some of the parts that a result may depend on are."""
        hidden: dict[str, Any] = {
            part: _Undeclared(part)
            for part in ("original", "oracles", "proxies", "fresh")
            if part not in needs
        }
        return replace(self, **hidden)

    def copy_of(self, network: nn.Module) -> nn.Module:
        """Return a copy that may be trained, with gradients, in evaluation mode."""
        return copy.deepcopy(network).eval().requires_grad_(True)

    def generator(self, purpose: str, *keys: int) -> torch.Generator:
        """Return a generator of the evaluation's own, the same for every model."""
        return generator(f"evaluate {purpose}", self.seed, *keys)

    def outputs(self, network: nn.Module, split: str) -> Outputs:
        """Return what a network says of a split, computed once."""
        key = (id(network), split)
        if key not in self._outputs:
            kept = self.store.get(network, split) if self.store is not None else None
            if kept is None:
                self.on_progress(f"reading {split} images")
                kept = outputs_of(network, self.splits[split])
                if self.store is not None:
                    self.store.put(network, split, kept)
            self._outputs[key] = (network, kept)  # held, so that its id stays its own
        return self._outputs[key][1]

    def once(self, key: tuple[object, ...], make: Callable[[], Outputs]) -> Outputs:
        """Return outputs that are the same whichever model is judged, made for the first."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]


@torch.no_grad()
def outputs_of(network: nn.Module, split: Split) -> Outputs:
    """Return what a network in evaluation mode says of a split, in 32 bits, on the CPU.

    Raises:
        UserError: If it answers with what are no numbers.
    """
    assert not network.training  # batch statistics of an evaluation batch would decide
    features = [features_of(network, images) for images in split.chunks()]
    logits = torch.cat([head_of(network)(part).float().cpu() for part in features])
    if logits.isnan().any():
        raise UserError("the model answers with what are no numbers (NaN)")
    return Outputs(
        logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
        torch.cat(features).float().cpu(),
        split.labels,
    )


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities in float64 that tell confident images apart.

    log p_c = (z_c - z_t) - log1p(Σ_{j≠t} exp(z_j - z_t)), t the largest. The usual form adds the
    1 of the largest first, and every image that is surer than about 37 nats would tie at log 1.

    Args:
        logits: Finite, shape ``(N, K)``.
    """
    largest, where = logits.double().max(dim=1, keepdim=True)
    beyond = logits.double() - largest
    return beyond - beyond.exp().scatter(1, where, 0.0).sum(dim=1, keepdim=True).log1p()
