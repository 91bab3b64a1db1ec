"""Which training images stand for each class where nothing numbers them: another's loader."""

import hashlib
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator
from geniu_lightning.training.exemplars import UNSEEN, ExemplarStrategy, entropy, keep_places

LOWEST = -1e9  # of what was seen


class Gallery:
    """Keeps the best images of each class that pass by, where a loader numbers none.

    What `Exemplars` does by index is done here on the images
    themselves, so the choice is as exact over an epoch, and what stands for a class is an image as
    it was read: augmented, if the loader augments. An image that comes twice counts once.

    Args:
        num_classes: Number of classes.
        per_class: Images to choose for each class. A class with fewer repeats them.
        exemplar_strategy: ``max_entropy``, ``min_entropy`` or ``random``.
        seed: Key of ``random``, which draws anew in each epoch.

    Attributes:
        chosen: Images that stand for each class, ``(K, per_class, C, H, W)``, once selected.

    Raises:
        UserError: If there is no such rule, or nothing to choose.
    """

    RULES: ClassVar[tuple[ExemplarStrategy, ...]] = ("max_entropy", "min_entropy", "random")

    def __init__(
        self,
        num_classes: int,
        per_class: int,
        exemplar_strategy: ExemplarStrategy = "max_entropy",
        seed: int = 0,
    ) -> None:
        if exemplar_strategy not in self.RULES:
            raise UserError(
                f"exemplar_strategy must be one of {', '.join(self.RULES)} where images have no numbers,"
                f" got {exemplar_strategy!r}"
            )
        if per_class < 1:
            raise UserError(f"per_class must be at least 1, got {per_class}")
        self.num_classes = num_classes
        self.per_class = per_class
        self.exemplar_strategy = exemplar_strategy
        self.seed = seed
        self.chosen: Tensor | None = None
        self._chosen_names: Tensor | None = None
        self._kept: _Kept | None = None

    @torch.no_grad()
    def observe(self, images: Tensor, labels: Tensor, logits: Tensor | None, *keys: int) -> None:
        """Keep those images of a batch that are better than what is there.

        Args:
            images: Shape ``(N, C, H, W)``.
            labels: int64, shape ``(N,)``.
            logits: Shape ``(N, K)``; ``None`` for ``random``, which needs none.
            *keys: Counters of the batch, such as step and rank.
        """
        if logits is None:
            rng = generator("exemplars", self.seed, *keys)
            scores = torch.rand(len(images), generator=rng).to(images.device)
        else:
            scores = entropy(logits) * (-1 if self.exemplar_strategy == "min_entropy" else 1)
            scores = scores.nan_to_num(nan=LOWEST)  # of a training that diverged: its own affair
        if self._kept is None:
            self._kept = _Kept.empty(self.num_classes, self.per_class, images)
        for k in labels.unique().tolist():
            better = (labels == k) & (scores > self._kept.scores[k, -1])
            if better.any():
                found = images[better]
                self._kept.put(k, scores[better], _names_of(found), found)

    def select(self) -> Tensor:
        """Choose at the end of an epoch, the same on every rank, and begin the next.

        Larger score first, then seen earlier. An image that was chosen before and is again keeps
        its place.

        Returns:
            The chosen images, shape ``(K, per_class, C, H, W)``.

        Raises:
            UserError: If a class had no image.
        """
        assert self._kept is not None  # an epoch has batches
        names, images = self._kept.merged().filled()
        if self._chosen_names is not None:
            kept = keep_places(self._chosen_names, names)
            rows = zip(names.tolist(), kept.tolist(), strict=True)
            places = [[row.index(name) for name in wanted] for row, wanted in rows]
            images = torch.stack([row[place] for row, place in zip(images, places, strict=True)])
            names = kept
        self._chosen_names, self.chosen, self._kept = names, images, None
        return images

    def to(self, device: torch.device) -> None:
        """Keep what is kept where the batches are."""
        if self.chosen is not None:
            self.chosen = self.chosen.to(device)
        if self._kept is not None:
            scores, names, images = self._kept
            self._kept = _Kept(scores.to(device), names, images.to(device))

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return what a resume needs: training images, few of each class, are part of it.

        With several ranks it is what this one saw since the epoch began.
        """
        kept = self._kept
        return {
            "chosen": self.chosen,
            "chosen_names": self._chosen_names,
            **{name: getattr(kept, name, None) for name in _Kept._fields},
        }

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Go on where ``state`` was taken."""
        names = state["chosen_names"]
        self.chosen, self._chosen_names = state["chosen"], None if names is None else names.cpu()
        scores, names, images = (state[name] for name in _Kept._fields)
        self._kept = None
        if scores is not None and names is not None and images is not None:
            self._kept = _Kept(scores, names.cpu(), images)


class _Kept(NamedTuple):
    """The best images of each class so far, best first; what is not filled yet scores UNSEEN."""

    scores: Tensor  # (K, per_class)
    names: Tensor  # (K, per_class), int64 on the CPU: equal for equal images
    images: Tensor  # (K, per_class, C, H, W)

    @classmethod
    def empty(cls, num_classes: int, per_class: int, images: Tensor) -> "_Kept":
        shape = (num_classes, per_class)
        return cls(
            torch.full(shape, UNSEEN, device=images.device),
            torch.full(shape, -1),
            images.new_zeros(*shape, *images.shape[1:]),
        )

    def put(self, k: int, scores: Tensor, names: Tensor, images: Tensor) -> None:
        """Sort candidates of a class in, in place."""
        per_class = self.scores.shape[1]
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
        best = torch.tensor(order[:per_class])
        self.names[k] = names[best]
        best = best.to(scores.device)
        self.scores[k], self.images[k] = scores[best], images[best]

    def merged(self) -> "_Kept":
        """Return the best of what all ranks kept, the same on each."""
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return self
        device = self.images.device
        columns = []
        for own in (self.scores, self.names.to(device), self.images):
            gathered = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(gathered, own.contiguous())
            columns.append(gathered)
        ranks = [
            _Kept(scores, names.cpu(), images)
            for scores, names, images in zip(*columns, strict=True)
        ]
        for other in ranks[1:]:
            for k in range(len(self.scores)):
                ranks[0].put(k, other.scores[k], other.names[k], other.images[k])
        return ranks[0]

    def filled(self) -> tuple[Tensor, Tensor]:
        """Return names and images of each class, repeated where it has too few.

        Raises:
            UserError: If it has none.
        """
        counts = (self.names != -1).sum(dim=1)
        if not counts.all():
            raise UserError(
                f"class {int(counts.argmin())} had no training image in the epoch, so nothing can"
                " stand for it"
            )
        places = torch.arange(self.names.shape[1]) % counts.unsqueeze(1)
        rows = torch.arange(len(self.names)).unsqueeze(1)
        return self.names[rows, places], self.images[rows, places]


def _names_of(images: Tensor) -> Tensor:
    """Return a number for each image that is equal for equal ones, int64, on the CPU."""
    flat = images.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    digests = [hashlib.sha256(image.tobytes()).digest() for image in flat]
    return torch.tensor([int.from_bytes(digest[:8], "big") >> 1 for digest in digests])
