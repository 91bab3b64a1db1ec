"""Which training images stand for each class: exact over an epoch, the same on every rank."""

from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator

ExemplarStrategy = Literal["max_entropy", "min_entropy", "random", "nearest_mean"]
UNSEEN = -torch.inf


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax of logits ``(N, K)``, in nats, shape ``(N,)``.

    Example:
        >>> entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


class Exemplars:
    """Chooses ``per_class`` training images of each class by a score of the passing batches.

    Every image's score is written down once an epoch, when it passes through the classifier
    anyway, so the choice is exact over the epoch and costs no second pass. What is kept are
    scores and indices, never an image.

    - ``max_entropy``: the most uncertain images, right or wrong (the paper's).
    - ``min_entropy``: the most certain ones.
    - ``random``: drawn once, with the seed.
    - ``nearest_mean``: those whose features lie nearest to the mean features of their class in the
      epoch before; in the first epoch, where there is no mean, the first images of each class.

    Args:
        labels: Class of each training image, int64, shape ``(N,)``.
        candidates: Indices that take part in training, int64.
        num_classes: Number of classes.
        per_class: Images to choose for each class. A class with fewer repeats them.
        exemplar_strategy: The rule above.
        seed: Key of ``random``.

    Raises:
        UserError: If there is no such rule.

    Source:
        GENIU, arXiv 2406.07885, section 4.4, for the highest entropy and one image a class. When
        the choice is made is not recovered; each epoch is our reading.
    """

    def __init__(
        self,
        labels: Tensor,
        candidates: Tensor,
        num_classes: int,
        per_class: int,
        exemplar_strategy: ExemplarStrategy = "max_entropy",
        seed: int = 0,
    ) -> None:
        if exemplar_strategy not in get_args(ExemplarStrategy):
            raise UserError(
                f"training.exemplar_strategy must be one of {', '.join(get_args(ExemplarStrategy))},"
                f" got {exemplar_strategy!r}"
            )
        self.labels = labels
        self.num_classes = num_classes
        self.per_class = per_class
        self.exemplar_strategy = exemplar_strategy
        self.chosen: Tensor | None = None
        self.scores = torch.full((len(labels),), UNSEEN)
        self.means: Tensor | None = None
        self._sums: Tensor | None = None
        if exemplar_strategy == "random":
            draws = torch.rand(len(candidates), generator=generator("exemplars", seed))
            self.scores[candidates] = draws

    def to(self, device: torch.device) -> None:
        """Keep the scores where the batches are, so that writing them waits for nothing."""
        self.scores = self.scores.to(device)
        if self._sums is not None:
            self._sums = self._sums.to(device)
        if self.means is not None:
            self.means = self.means.to(device)

    @torch.no_grad()
    def observe(self, indices: Tensor, labels: Tensor, logits: Tensor, features: Tensor) -> None:
        """Write down the scores of a batch.

        Args:
            indices: Positions in the data set, int64, shape ``(N,)``.
            labels: int64, shape ``(N,)``.
            logits: Shape ``(N, K)``, as they were for the training step.
            features: Shape ``(N, D)``, likewise.
        """
        if self.exemplar_strategy == "random":
            return
        if self.exemplar_strategy == "nearest_mean":
            self._add_to_sums(labels, features.float())
            if self.means is None:
                scores = torch.zeros(len(labels), device=logits.device)
            else:
                scores = -(features.float() - self.means[labels]).square().sum(dim=1)
        else:
            scores = entropy(logits)
            if self.exemplar_strategy == "min_entropy":
                scores = -scores
        self.scores[indices.to(self.scores.device)] = scores

    def _add_to_sums(self, labels: Tensor, features: Tensor) -> None:
        if self._sums is None:
            shape = (self.num_classes, features.shape[1] + 1)
            self._sums = torch.zeros(shape, device=features.device)
        counted = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        self._sums.index_add_(0, labels, counted)

    def select(self) -> Tensor:
        """Choose at the end of an epoch, and begin the next.

        Larger score first, then smaller index. An image that was chosen before and is again keeps
        its place, so that a prompt is not given another image without need.

        Returns:
            Positions in the data set, int64, shape ``(K, per_class)``.
        """
        self.scores, self._sums = self._merged()
        scores = self.scores.cpu()
        best = []
        for k in range(self.num_classes):
            members = ((self.labels == k) & (scores > UNSEEN)).nonzero().flatten()
            order = scores[members].sort(descending=True, stable=True).indices
            top = members[order[: self.per_class]]
            repeats = -(-self.per_class // max(1, len(top)))
            best.append(top.repeat(repeats)[: self.per_class])
        if any(len(row) < self.per_class for row in best):
            raise UserError("a class has no training image, so nothing can stand for it")
        chosen = torch.stack(best)
        self.chosen = chosen if self.chosen is None else keep_places(self.chosen, chosen)
        if self.exemplar_strategy != "random":
            self.scores.fill_(UNSEEN)
        if self._sums is not None:
            self.means = self._sums[:, :-1] / self._sums[:, -1:].clamp(min=1)
            self._sums = None
        return self.chosen

    def _merged(self) -> tuple[Tensor, Tensor | None]:
        """Return the scores and sums of all ranks together; those of this one stay as they are."""
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return self.scores, self._sums
        scores, sums = self.scores.clone(), self._sums
        torch.distributed.all_reduce(scores, torch.distributed.ReduceOp.MAX)
        if sums is not None:
            sums = sums.clone()
            torch.distributed.all_reduce(sums)
        return scores, sums

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return what an exact resume needs: scores of the running epoch, indices, means.

        With several ranks it is what all of them saw, and all have to call it.
        """
        scores, sums = self._merged()
        return {"scores": scores.cpu(), "chosen": self.chosen, "means": self.means, "sums": sums}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on where ``state`` was taken."""
        scores = state["scores"]
        assert scores is not None  # it is never written without
        self.scores = scores.to(self.scores.device)
        self.chosen, self.means, self._sums = state["chosen"], state["means"], state["sums"]
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            self._sums = None  # they are everybody's: only one rank may add them again


def keep_places(before: Tensor, now: Tensor) -> Tensor:
    """Reorder each row of ``now`` so that what stood in ``before`` stands where it stood."""
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
