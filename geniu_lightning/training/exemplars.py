"""Exemplars: the training images of each class that its proxies are to resemble."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.distributed import rank, reduced
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

    Scores are those of the classifier before its step on a batch. The choice is exact over the
    epoch and equal on all processes. Equal scores are ordered by the images' numbers, or, without
    numbers, by when images were read, the first process's first. An image that is chosen again
    keeps its place and prompt.

    Args:
        per_class: Images to choose for each class. A class with fewer repeats them.
        seed: Key of `random`.

    Attributes:
        classes: Those that exemplars are chosen of.
        ids: Names of the chosen images, int64 `(classes, per_class)`, on the CPU, once there are
            some.
        images: The chosen images in [0, 1], class by class, `(classes * per_class, C, H, W)`.

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
        self.classes: Sequence[int] = range(num_classes)
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
            if self._sums is None:
                shape = (self.num_classes, features.shape[1] + 1)
                self._sums = torch.zeros(shape, device=features.device)
            counted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
            self._sums.index_add_(0, labels, counted)
            if self.means is None:
                return torch.zeros(len(labels), device=logits.device)
            scores = -(features - self.means[labels]).square().sum(dim=1)
        else:
            scores = entropy(logits)
            if self.strategy == "min_entropy":
                scores = -scores
        return scores.nan_to_num(nan=LOWEST)

    def _place(self, best: list[Tensor]) -> Tensor:
        """Take the epoch's best names of each class, and turn sums into means."""
        rows = []
        for k, row in zip(self.classes, best, strict=True):
            if not len(row):
                raise UserError(f"class {k} has no training image that could be an exemplar of it")
            rows.append(row.repeat(-(-self.per_class // len(row)))[: self.per_class])
        ids = torch.stack(rows)
        self.ids = ids if self.ids is None else _keep_places(self.ids, ids)
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
        self.ids, self.means = state["ids"], state["means"]
        # the sums of all processes: one of them adds them again
        self._sums = state["sums"] if rank() == 0 else None


class IndexedExemplars(ExemplarSelector):
    """Exemplars among numbered images: scores and numbers are stored, and no image.

    Args:
        labels: Class of each image of the data set, int64, shape `(N,)`.
        candidates: Numbers of the images that take part in training, int64.
        read: Returns images in [0, 1] by their numbers.
        classes: Those that exemplars are chosen of; `None` is all.
    """

    def __init__(
        self,
        labels: Tensor,
        candidates: Tensor,
        read: Callable[[Tensor], Tensor],
        classes: Sequence[int] | None = None,
        **settings: Any,  # checked by the base
    ) -> None:
        super().__init__(**settings)
        if classes is not None:
            self.classes = classes
        self.labels = labels
        self.read = read
        self._scores = torch.full((len(labels),), UNSEEN)
        if self.strategy == "random":
            draws = torch.rand(len(candidates), generator=generator("exemplars", self.seed))
            self._scores[candidates] = draws

    @torch.no_grad()
    def observe(self, indices: Tensor, labels: Tensor, logits: Tensor, features: Tensor) -> None:
        """Note the scores of a batch of images `indices` by logits `(N, K)`, features `(N, D)`."""
        if self.strategy != "random":
            scores = self.scores(labels, logits, features)
            self._scores[indices.to(self._scores.device)] = scores

    def select(self) -> None:
        """Choose at the end of an epoch, and begin the next."""
        scores = self._scores_of_all().cpu()
        best = []
        for k in self.classes:
            members = ((self.labels == k) & (scores > UNSEEN)).nonzero().flatten()
            order = scores[members].sort(descending=True, stable=True).indices
            best.append(members[order[: self.per_class]])
        ids = self._place(best)
        if self.strategy != "random":
            self._scores.fill_(UNSEEN)
        self.images = self.read(ids.flatten()).to(self._scores.device)

    def _scores_of_all(self) -> Tensor:
        return reduced(self._scores, torch.distributed.ReduceOp.MAX)

    def to(self, device: torch.device) -> None:
        """Move to where the batches are; a resumed selector reads its images anew."""
        super().to(device)
        self._scores = self._scores.to(device)
        if self.ids is not None:
            self.images = self.read(self.ids.flatten()).to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs: numbers and scores, no image."""
        return super().state_dict() | {"scores": self._scores_of_all().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load_state_dict(state)
        self._scores = state["scores"].to(self._scores.device)


def _keep_places(before: Tensor, now: Tensor) -> Tensor:
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
