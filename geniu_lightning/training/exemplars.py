"""Exemplars: the training images of each class that its proxies are to resemble."""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.distributed import rank, reduced, world_size
from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import PositiveInt, checked

ExemplarStrategy = Literal["max_entropy", "min_entropy", "random", "nearest_mean"]
UNSEEN = -torch.inf
LOWEST = -1e9  # score of logits that are no numbers, below all others


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax of logits `(N, K)`, in nats, shape `(N,)`.

    Example:
        >>> entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


@checked
class ExemplarSelector:
    """Chooses images of each class by a score of what passes through the classifier in an epoch.

    - `max_entropy`: the most uncertain images, right or wrong (the paper's).
    - `min_entropy`: the most certain ones.
    - `random`: drawn once, with the seed, among the images of the first epoch.
    - `nearest_mean`: those whose features lie nearest to the mean features of their class in the
      epoch before; in the first epoch, where there is no mean, the first images of each class.

    Scores are those of the classifier before it takes its step on a batch. The choice is exact over
    the epoch and equal on all processes. Among equal scores the image that comes first is chosen:
    by number, or, where images have none, by when it was read. An image that is chosen again keeps
    its place, so that no prompt is given another target without need.

    The two subclasses differ in what they store: scores by the images' numbers, or images.

    Args:
        num_classes: Number of classes.
        per_class: Images to choose for each class. A class with fewer repeats them.
        strategy: The rule above.
        seed: Key of `random`.

    Attributes:
        ids: Names of the chosen images, int64 `(K, per_class)`, on the CPU, once there are some.
        images: The chosen images in [0, 1], class by class, `(K * per_class, C, H, W)`.

    Source:
        GENIU, arXiv 2406.07885, section 4.4, for the highest entropy and one image a class. When
        the choice is made is not recovered; each epoch is our reading.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        per_class: PositiveInt,
        strategy: ExemplarStrategy = "max_entropy",
        seed: int = 0,
    ) -> None:
        self.num_classes = num_classes
        self.per_class = per_class
        self.strategy = strategy
        self.seed = seed
        self.ids: Tensor | None = None
        self.images: Tensor | None = None
        self.means: Tensor | None = None  # of features of each class, of the epoch before
        self._sums: Tensor | None = None  # of features of each class, and of ones

    def scores(self, labels: Tensor, logits: Tensor, features: Tensor) -> Tensor:
        """Return the scores of a batch, larger for what is rather chosen, shape `(N,)`."""
        if self.strategy == "nearest_mean":
            features = features.float()
            self._add_to_sums(labels, features)
            if self.means is None:
                return torch.zeros(len(labels), device=logits.device)
            scores = -(features - self.means[labels]).square().sum(dim=1)
        else:
            scores = entropy(logits)
            if self.strategy == "min_entropy":
                scores = -scores
        return scores.nan_to_num(nan=LOWEST)

    def _add_to_sums(self, labels: Tensor, features: Tensor) -> None:
        if self._sums is None:
            shape = (self.num_classes, features.shape[1] + 1)
            self._sums = torch.zeros(shape, device=features.device)
        counted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        self._sums.index_add_(0, labels, counted)

    def _place(self, best: Tensor) -> Tensor:
        """Take the epoch's best names in the places that they keep, and turn sums into means."""
        self.ids = best if self.ids is None else keep_places(self.ids, best)
        if self._sums is not None:
            sums = reduced(self._sums)
            self.means = sums[:, :-1] / sums[:, -1:].clamp(min=1)
            self._sums = None
        return self.ids

    def to(self, device: torch.device) -> None:
        """Move everything to where the batches are, so that no step waits for a transfer."""
        self.images, self.means, self._sums = (
            None if tensor is None else tensor.to(device)
            for tensor in (self.images, self.means, self._sums)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs; all processes call it and get what all of them saw."""
        sums = None if self._sums is None else reduced(self._sums)
        return {"ids": self.ids, "means": self.means, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.ids, self.means, self._sums = state["ids"], state["means"], state["sums"]
        if rank() > 0:
            self._sums = None  # the sums of all processes: one of them adds them again


class IndexedExemplars(ExemplarSelector):
    """Exemplars among numbered images: scores and numbers are stored, and no image.

    Args:
        labels: Class of each image of the data set, int64, shape `(N,)`.
        candidates: Numbers of the images that take part in training, int64.
        read: Returns images in [0, 1] by their numbers.
        **settings: Those of `ExemplarSelector`.
    """

    def __init__(
        self,
        labels: Tensor,
        candidates: Tensor,
        read: Callable[[Tensor], Tensor],
        **settings: Any,  # checked by the base
    ) -> None:
        super().__init__(**settings)
        self.labels = labels
        self.read = read
        self._scores = torch.full((len(labels),), UNSEEN)
        if self.strategy == "random":
            draws = torch.rand(len(candidates), generator=generator("exemplars", self.seed))
            self._scores[candidates] = draws

    @torch.no_grad()
    def observe(self, indices: Tensor, labels: Tensor, logits: Tensor, features: Tensor) -> None:
        """Note the scores of a batch.

        Args:
            indices: Numbers of the images, int64, shape `(N,)`.
            labels: int64, shape `(N,)`.
            logits: Shape `(N, K)`.
            features: Shape `(N, D)`.
        """
        if self.strategy != "random":
            scores = self.scores(labels, logits, features)
            self._scores[indices.to(self._scores.device)] = scores

    def select(self) -> None:
        """Choose at the end of an epoch, and begin the next.

        Raises:
            UserError: If a class has no image.
        """
        scores = _greatest(self._scores).cpu()
        best = []
        for k in range(self.num_classes):
            members = ((self.labels == k) & (scores > UNSEEN)).nonzero().flatten()
            order = scores[members].sort(descending=True, stable=True).indices
            best.append(members[order[: self.per_class]])
        ids = self._place(torch.stack([_repeated(row, k, self.per_class) for k, row in enumerate(best)]))
        if self.strategy != "random":
            self._scores.fill_(UNSEEN)
        self.images = self.read(ids.flatten()).to(self._scores.device)

    def to(self, device: torch.device) -> None:
        """Move to where the batches are; a resumed selector reads its images anew."""
        super().to(device)
        self._scores = self._scores.to(device)
        if self.ids is not None:
            self.images = self.read(self.ids.flatten()).to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs: numbers and scores, no image."""
        return super().state_dict() | {"scores": _greatest(self._scores).cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load_state_dict(state)
        self._scores = state["scores"].to(self._scores.device)


class StreamedExemplars(ExemplarSelector):
    """Exemplars among images that have no number: the best so far of each class are stored.

    An exemplar is an image as it was read, augmented if the loader augments. An image that comes
    twice counts once; images are the same whose pixels are.
    """

    def __init__(self, **settings: Any) -> None:  # checked by the base
        super().__init__(**settings)
        self._best: _Best | None = None

    @torch.no_grad()
    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor | None,
        features: Tensor | None,
        *keys: int,
    ) -> None:
        """Store those images of a batch that are better than the stored ones.

        Args:
            images: In [0, 1], shape `(N, C, H, W)`.
            labels: int64, shape `(N,)`.
            logits: Shape `(N, K)`; `None` for `random`.
            features: Shape `(N, D)`; `None` for `random`.
            *keys: Counters of the batch, such as step and rank: keys of `random`.
        """
        if self.strategy == "random":
            if self.ids is not None:
                return
            rng = generator("exemplars", self.seed, *keys)
            scores = torch.rand(len(images), generator=rng).to(images.device)
        else:
            assert logits is not None  # asked for by these strategies
            assert features is not None
            scores = self.scores(labels, logits, features)
        if self._best is None:
            self._best = _Best.empty(self.num_classes, self.per_class, images)
        for k in labels.unique().tolist():
            better = (labels == k) & (scores > self._best.scores[k, -1])
            if better.any():
                found = images[better]
                self._best.put(k, scores[better], _names_of(found), found)

    def select(self) -> None:
        """Choose at the end of an epoch, and begin the next.

        Raises:
            UserError: If a class had no image.
        """
        if self.strategy == "random" and self.ids is not None:
            return
        assert self._best is not None  # an epoch has batches
        best = self._best.merged()
        names = [row[row != -1] for row in best.names]
        ids = self._place(
            torch.stack([_repeated(row, k, self.per_class) for k, row in enumerate(names)])
        )
        places = [
            [own.index(name) for name in wanted]
            for own, wanted in zip(best.names.tolist(), ids.tolist(), strict=True)
        ]
        self.images = torch.cat(
            [row[place] for row, place in zip(best.images, places, strict=True)]
        )
        self._best = None

    def to(self, device: torch.device) -> None:
        """Move to where the batches are."""
        super().to(device)
        if self._best is not None:
            scores, names, images = self._best
            self._best = _Best(scores.to(device), names, images.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs: training images, few of each class, are part of it."""
        best = None if self._best is None else self._best.merged()
        stored = {name: getattr(best, name, None) for name in _Best._fields}
        return super().state_dict() | {"images": self.images, "best": stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load_state_dict(state)
        self.ids = None if self.ids is None else self.ids.cpu()
        self.images = state["images"]
        stored = state["best"]
        self._best = None
        if stored["scores"] is not None:
            self._best = _Best(stored["scores"], stored["names"].cpu(), stored["images"])


class _Best(NamedTuple):
    """The best images of each class so far, best first; a place not filled yet scores UNSEEN."""

    scores: Tensor  # (K, per_class)
    names: Tensor  # (K, per_class), int64 on the CPU: equal for equal images, -1 for none
    images: Tensor  # (K, per_class, C, H, W)

    @classmethod
    def empty(cls, num_classes: int, per_class: int, images: Tensor) -> "_Best":
        shape = (num_classes, per_class)
        return cls(
            torch.full(shape, UNSEEN, device=images.device),
            torch.full(shape, -1),
            images.new_zeros(*shape, *images.shape[1:]),
        )

    def put(self, k: int, scores: Tensor, names: Tensor, images: Tensor) -> None:
        """Sort candidates of a class in, in place."""
        scores = torch.cat([self.scores[k], scores])
        names = torch.cat([self.names[k], names])
        images = torch.cat([self.images[k], images])
        seen: set[int] = set()
        order = []
        for place in scores.sort(descending=True, stable=True).indices.tolist():
            name = int(names[place])
            if name == -1 or name not in seen:
                order.append(place)
                seen.add(name)
        best = torch.tensor(order[: self.scores.shape[1]])
        self.names[k] = names[best]
        best = best.to(scores.device)
        self.scores[k], self.images[k] = scores[best], images[best]

    def merged(self) -> "_Best":
        """Return the best of what all processes stored, the same on each."""
        if world_size() == 1:
            return self
        device = self.images.device
        columns = []
        for own in (self.scores, self.names.to(device), self.images):
            gathered = [torch.empty_like(own) for _ in range(world_size())]
            torch.distributed.all_gather(gathered, own.contiguous())
            columns.append(gathered)
        ranks = [
            _Best(scores, names.cpu(), images)
            for scores, names, images in zip(*columns, strict=True)
        ]
        for other in ranks[1:]:
            for k in range(len(self.scores)):
                ranks[0].put(k, other.scores[k], other.names[k], other.images[k])
        return ranks[0]


def keep_places(before: Tensor, now: Tensor) -> Tensor:
    """Reorder each row of `now` so that what stood in `before` stands where it stood."""
    rows = []
    for old, new in zip(before.tolist(), now.tolist(), strict=True):
        row: list[int | None] = [None] * len(new)
        rest = list(new)
        for place, index in enumerate(old):
            if index in rest:
                row[place] = index
                rest.remove(index)
        rows.append([rest.pop(0) if index is None else index for index in row])
    return torch.tensor(rows)


def _repeated(row: Tensor, k: int, count: int) -> Tensor:
    """Return the names of a class, as many times as it takes to fill its places."""
    if not len(row):
        raise UserError(f"class {k} has no training image that could be an exemplar of it")
    return row.repeat(-(-count // len(row)))[:count]


def _greatest(scores: Tensor) -> Tensor:
    return reduced(scores, torch.distributed.ReduceOp.MAX)


def _names_of(images: Tensor) -> Tensor:
    """Return a number for each image that is equal for equal ones, int64, on the CPU."""
    flat = images.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    digests = [hashlib.sha256(image.tobytes()).digest() for image in flat]
    return torch.tensor([int.from_bytes(digest[:8], "big") >> 1 for digest in digests])
