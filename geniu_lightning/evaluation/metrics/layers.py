"""Recovery of a class from the features behind each part of a network."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.probing import (
    CLOSE_COSINES,
    RECALLS,
    cosines,
    fitted_positions,
    recalls,
    summary,
    unit,
)
from geniu_lightning.evaluation.context import CHUNK, Context, Split
from geniu_lightning.evaluation.metric import Absent, Metric, Values
from geniu_lightning.kit.networks import features_of, parts_of

GRID = 4  # places a side of a pooled map


class Layers(Metric):
    """Nearest class mean by cosine behind each part of the network, the first (`1`) to the last.

    As `Prototype` with all images, on the output of a part (`parts_of`) in place of penultimate
    features: a map `(N, C, H, W)` averaged down to at most 4 × 4 places, tokens `(N, T, D)` to one.
    Early parts separate classes that look different, in oracles too.

    Source:
        Ours; of intermediate layers after Alain and Bengio, arXiv 1610.01644.
    """

    infos = RECALLS

    def images_processed(self, context: Context) -> int:
        """Return the images that it reads."""
        fit = fitted_positions(context)
        return 0 if isinstance(fit, Absent) else len(fit) + len(context.splits["test"].labels)

    def __call__(self, context: Context) -> Values:
        """Measure the unlearned model."""
        network, count = context.unlearned, len(parts_of(context.unlearned))
        fit = fitted_positions(context)
        if isinstance(fit, Absent):
            return {f"{part + 1}.{name}": fit for part in range(count) for name in RECALLS}
        sums = class_sums(network, context.splits["train"], fit, len(context.class_names))
        scores: list[list[Tensor]] = [[] for _ in range(count)]
        test = context.splits["test"]
        for behind, _ in features_by_part(network, test, torch.arange(len(test.labels))):
            for part, features in behind.items():
                scores[part].append(cosines(features, sums[part]))
        rows = {part + 1: _row(own, test.labels, context) for part, own in enumerate(scores)}
        return {f"{part}.{name}": v for part, row in rows.items() for name, v in row.items()}


def class_sums(network: nn.Module, split: Split, rows: Tensor, classes: int) -> dict[int, Tensor]:
    """Return sums of unit features of each class, `(K, D)`; cosines need no division."""
    sums: dict[int, Tensor] = {}
    for behind, labels in features_by_part(network, split, rows):
        members = F.one_hot(labels, classes).double()
        for part, features in behind.items():
            sums[part] = sums.get(part, 0) + members.T @ unit(features)
    return sums


def _row(scores: list[Tensor], labels: Tensor, context: Context) -> Values:
    if not scores:
        return dict.fromkeys(RECALLS, Absent("the network does not run this part as a module"))
    together = torch.cat(scores)
    if not together.isfinite().all():
        return dict.fromkeys(RECALLS, Absent("features are not all finite numbers"))
    return summary(recalls(together, labels, CLOSE_COSINES), context)


@torch.no_grad()
def features_by_part(
    network: nn.Module, split: Split, rows: Tensor
) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
    """Yield the features behind each part of a network and the labels, a chunk of images at a time.

    Features `(N, D)`, float32, on the CPU, by the number of the part, for all parts that the
    network runs as modules; of the images at the positions `rows`.
    """
    seen: dict[int, Tensor] = {}

    def note(part: int) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                # a copy: the next part may work in place
                seen[part] = pooled(output).to("cpu", torch.float32, copy=True)

        return hook

    hooks = [part.register_forward_hook(note(k)) for k, part in enumerate(parts_of(network))]
    try:
        for chunk in rows.split(CHUNK):
            seen.clear()
            features_of(network, split.read(chunk))
            yield dict(seen), split.labels[chunk]
    finally:
        for hook in hooks:
            hook.remove()


def pooled(output: Tensor) -> Tensor:
    """Return a map `(N, C, H, W)`, tokens `(N, T, D)` or features as one row an image, `(N, D)`."""
    if output.dim() == 4:
        height, width = output.shape[2:]
        output = F.adaptive_avg_pool2d(output, (min(GRID, height), min(GRID, width)))
    elif output.dim() == 3:
        output = output.mean(dim=1)
    return output.flatten(1)
