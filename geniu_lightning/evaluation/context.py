"""What a metric may look at: models, images, proxies, and the outputs computed from them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Protocol, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.kit.networks import features_of, head_of, state_digest
from geniu_lightning.seeds import generator

CHUNK = 125  # bounds memory; larger ones are slower on a CPU
LARGEST_LOGIT = 1e4  # stands for infinity, so that a masked logit stays a finite number

Part = Literal["original", "oracles", "proxies", "fresh"]
T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Images of one split in a fixed order, without augmentation."""

    labels: Tensor  # int64, on the CPU, (N,)
    read: Callable[[Tensor], Tensor]  # normalised images at positions, on the models' device

    def positions_of(self, classes: tuple[int, ...]) -> Tensor:
        """Return the positions of images of some classes, int64."""
        return torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64)).nonzero().flatten()

    def at(self, positions: Tensor) -> "Split":
        """Return the images at some positions as a split of their own."""
        return Split(self.labels[positions], lambda places: self.read(positions[places]))


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on a split."""

    logits: Tensor  # float32, on the CPU, within ±10⁴, (N, K), in the order of the split
    features: Tensor  # penultimate ones, float32, on the CPU, (N, D)
    labels: Tensor  # int64, (N,)

    def of(self, classes: tuple[int, ...]) -> "Outputs":
        """Return the outputs on images of some classes."""
        return self.at(torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64)))

    def at(self, rows: Tensor) -> "Outputs":
        """Return the outputs at some positions, or where a mask is true."""
        return Outputs(self.logits[rows], self.features[rows], self.labels[rows])

    @property
    def log_probabilities(self) -> Tensor:
        """Log-softmax in float64, in nats, shape `(N, K)`."""
        return log_softmax(self.logits)


@dataclass(frozen=True)
class Proxies:
    """Synthetic images stored with the classifier, normalised, on its device, with labels (N,)."""

    images: Tensor
    labels: Tensor

    @property
    def split(self) -> Split:
        """The same images as a split."""
        return Split(self.labels.cpu(), lambda positions: self.images[positions])


class OutputStore(Protocol):
    """Stores outputs that many evaluations share, by network and split."""

    def get(self, network: nn.Module, split: str) -> Outputs | None: ...  # noqa: D102
    def put(self, network: nn.Module, split: str, outputs: Outputs) -> None: ...  # noqa: D102


class _Undeclared:
    """Takes the place of a part that a metric did not declare in `needs`."""

    def __init__(self, part: str) -> None:
        self.part = part

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"the metric looks at {self.part}, and its `needs` do not say so")

    __getattr__ = __call__ = __iter__ = __len__ = __bool__ = __getitem__ = _refuse


@dataclass(frozen=True)
class Context:
    """One comparison of a model with its oracles and with the original that it came from.

    All models are in evaluation mode and without gradients.
    """

    original: nn.Module
    unlearned: nn.Module  # the model that is evaluated; an oracle takes its place in turn
    forget: tuple[int, ...]  # empty where training itself is evaluated
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]  # training images
    splits: Mapping[str, Split]  # `test`, `train` and, where there is one, `validation`
    oracles: tuple[nn.Module, ...] = ()  # never the evaluated model
    # made by the evaluated model's method of models that never saw the class: of the first oracles,
    # one of each, unless a user brought them
    nulls: tuple[nn.Module, ...] = ()
    matched: bool = False  # whether oracles are made as the evaluated model was
    proxies: Proxies | None = None  # those stored with the unlearned model
    # makes an untrained network of the same kind from a seed, and moves no global random stream
    fresh: Callable[[int], nn.Module] | None = None
    seed: int = 0  # of all that a metric draws
    intact: bool = True  # whether the original came from training, not from an earlier request
    on_progress: Callable[[str], None] = lambda text: None  # receives the name of each step
    store: OutputStore | None = None
    _outputs: dict[tuple[int, str], tuple[nn.Module, Outputs]] = field(
        default_factory=dict, repr=False
    )
    _shared: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)
    _digests: dict[int, tuple[nn.Module, str]] = field(default_factory=dict, repr=False)

    @property
    def retained(self) -> tuple[int, ...]:
        """All classes but the forgotten ones."""
        return tuple(k for k in range(len(self.class_names)) if k not in self.forget)

    @property
    def device(self) -> torch.device:
        """The models' device."""
        return next(self.unlearned.parameters()).device

    def evaluating(self, network: nn.Module) -> "Context":
        """Return the same context for another model; an oracle is compared with the others."""
        others = tuple(oracle for oracle in self.oracles if oracle is not network)
        return replace(self, unlearned=network, oracles=others)

    def digest(self, network: nn.Module) -> str:
        """Return SHA-256 of a network's weights, computed once: no metric changes them."""
        if id(network) not in self._digests:
            self._digests[id(network)] = (network, state_digest(network))
        return self._digests[id(network)][1]

    def restricted_to(self, needs: frozenset[Part]) -> "Context":
        """Return a context in which the parts that a metric did not declare raise an error."""
        hidden: dict[str, Any] = {k: _Undeclared(k) for k in get_args(Part) if k not in needs}
        return replace(self, **hidden)

    def copy_of(self, network: nn.Module) -> nn.Module:
        """Return a trainable copy, in evaluation mode."""
        return copy.deepcopy(network).eval().requires_grad_(True)

    def generator(self, purpose: str, *keys: int) -> torch.Generator:
        """Return a generator of the evaluation's own, the same for every model."""
        return generator(f"evaluate {purpose}", self.seed, *keys)

    def outputs(self, network: nn.Module, split: str) -> Outputs:
        """Return a network's outputs on a split, computed once."""
        key = (id(network), split)
        if key not in self._outputs:
            found = self.store.get(network, split) if self.store is not None else None
            labels = self.splits[split].labels
            if found is None or not torch.equal(found.labels, labels):  # images were deleted since
                self.on_progress(f"reading {split} images")
                found = outputs_of(network, self.splits[split])
                if self.store is not None:
                    self.store.put(network, split, found)
            self._outputs[key] = (network, found)  # the reference keeps the id unique
        return self._outputs[key][1]

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return what does not depend on the evaluated model, made at the first call."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])


@torch.no_grad()
def outputs_of(network: nn.Module, split: Split) -> Outputs:
    """Return the outputs of a network in evaluation mode on a split; `UserError` for NaN."""
    assert not network.training  # batch statistics of an evaluation batch would decide
    chunks = torch.arange(len(split.labels)).split(CHUNK)
    features = [features_of(network, split.read(positions)) for positions in chunks]
    logits = torch.cat([head_of(network)(part).float().cpu() for part in features])
    if logits.isnan().any():
        raise UserError("the model's logits are not numbers (NaN)")
    return Outputs(
        logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
        torch.cat(features).float().cpu(),
        split.labels,
    )


def gradient_sign(images: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the sign of the gradient of Σ score(images) with respect to the images."""
    leaf = images.detach().requires_grad_(True)
    # a network may work in place, which a leaf does not allow
    return torch.autograd.grad(score(leaf.clone()).sum(), leaf)[0].sign()


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities in float64 that keep confident images apart.

    log p_c = (z_c - z_t) - log1p(Σ_{j≠t} exp(z_j - z_t)) of finite logits `(N, K)`, t the largest.
    The usual form adds the 1 of the largest first, so that every image above about 37 nats of
    confidence ties at log 1.
    """
    largest, where = logits.double().max(dim=1, keepdim=True)
    beyond = logits.double() - largest
    return beyond - beyond.exp().scatter(1, where, 0.0).sum(dim=1, keepdim=True).log1p()


def entropy(log_probabilities: Tensor) -> Tensor:
    """Return -Σ_c p_c log p_c in nats, shape `(N,)`, of finite log-probabilities `(N, K)`."""
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def drawn(places: Tensor, count: int | None, generator: torch.Generator) -> Tensor:
    """Return at most `count` of some positions in random order; `None` takes all."""
    return places[torch.randperm(len(places), generator=generator)[:count]]
