"""Exemplars where a loader does not number its images: the best of each class are stored."""

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniu_lightning.fitting.distributed import world_size
from geniu_lightning.seeds import generator
from geniu_lightning.training.exemplars import UNSEEN, ExemplarSelector


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

        Images `(N, C, H, W)` are in [0, 1]. Logits `(N, K)` and features `(N, D)` are `None` for
        `random`, whose keys are counters of the batch, such as step and rank.
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
        """Choose at the end of an epoch, and begin the next."""
        if self.strategy == "random" and self.ids is not None:
            return
        assert self._best is not None  # an epoch has batches
        best = self._best.merged()
        names = best.names.cpu()
        ids = self._place([row[row != -1] for row in names])
        chosen = zip(best.images, names.tolist(), ids.tolist(), strict=True)
        self.images = torch.cat(
            [images[[row.index(name) for name in wanted]] for images, row, wanted in chosen]
        )
        self._best = None

    def to(self, device: torch.device) -> None:
        """Move to where the batches are."""
        super().to(device)
        if self._best is not None:
            self._best = _Best(*(tensor.to(device) for tensor in self._best))

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
        self._best = None if state["best"]["scores"] is None else _Best(**state["best"])


class _Best(NamedTuple):
    """The best images of each class so far, best first; a place not filled yet scores UNSEEN."""

    scores: Tensor  # (K, per_class)
    names: Tensor  # (K, per_class), int64: equal for equal images, -1 for none
    images: Tensor  # (K, per_class, C, H, W)

    @classmethod
    def empty(cls, num_classes: int, per_class: int, images: Tensor) -> "_Best":
        shape = (num_classes, per_class)
        return cls(
            torch.full(shape, UNSEEN, device=images.device),
            torch.full(shape, -1, device=images.device),
            images.new_zeros(*shape, *images.shape[1:]),
        )

    def put(self, k: int, *candidates: Tensor) -> None:
        """Sort scores, names and images of a class in, in place."""
        scores, names, images = (
            torch.cat([own[k], more]) for own, more in zip(self, candidates, strict=True)
        )
        name_of = names.tolist()
        seen: set[int] = set()
        best = []
        for place in scores.sort(descending=True, stable=True).indices.tolist():
            if name_of[place] == -1 or name_of[place] not in seen:
                best.append(place)
                seen.add(name_of[place])
        chosen = best[: self.scores.shape[1]]
        for own, all_of in zip(self, (scores, names, images), strict=True):
            own[k] = all_of[chosen]

    def merged(self) -> "_Best":
        """Return the best of what all processes stored, the same on each."""
        if world_size() == 1:
            return self
        columns = []
        for own in self:
            gathered = [torch.empty_like(own) for _ in range(world_size())]
            torch.distributed.all_gather(gathered, own.contiguous())
            columns.append(gathered)
        first, *others = (_Best(*tensors) for tensors in zip(*columns, strict=True))
        for other in others:
            for k, candidates in enumerate(zip(*other, strict=True)):
                first.put(k, *candidates)
        return first


def _names_of(images: Tensor) -> Tensor:
    """Return a number for each image that is equal for equal ones, int64, on its device."""
    flat = images.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    digests = [hashlib.sha256(image.tobytes()).digest() for image in flat]
    names = [int.from_bytes(digest[:8], "big") >> 1 for digest in digests]
    return torch.tensor(names, device=images.device)
