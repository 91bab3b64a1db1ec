"""Pictures of a run: confusion matrices and grids of small images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tensors come from the caller
    from torch import Tensor

MOST_CLASSES = 20  # rows of a grid, and cells with numbers, that can still be read


def confusion(counts: "Tensor", names: Sequence[str], title: str, path: Path) -> None:
    """Draw the images of each true class (row) that are answered as each class, `(K, K)`."""
    from matplotlib.figure import Figure

    side = 0.45 * len(names)
    figure = Figure(figsize=(min(12.0, 2.5 + side), min(11.0, 2.2 + side)), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    shown = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= MOST_CLASSES:
        for row, column in counts.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(
            range(len(names)), names, rotation=45, ha="right", fontsize=8, parse_math=False
        )
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("answered")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes, fraction=0.046, label="share of the true class")
    figure.savefig(path, dpi=110, bbox_inches="tight")


def grid(images: "Tensor", names: Sequence[str], title: str, path: Path) -> None:
    """Draw images in [0, 1] of shape `(classes, per class, C, H, W)`, one row a class."""
    from matplotlib.figure import Figure

    images = images[:MOST_CLASSES, :MOST_CLASSES].detach().cpu()
    classes, count = images.shape[:2]
    size = (max(3.0, 0.6 * count + 1.2), 0.6 * classes + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(classes, count, squeeze=False)
    for k in range(classes):
        for j in range(count):
            cells[k, j].imshow(images[k, j].permute(1, 2, 0).squeeze(), vmin=0, vmax=1, cmap="gray")
            cells[k, j].set_xticks([])
            cells[k, j].set_yticks([])
        cells[k, 0].set_ylabel(
            names[k], rotation=0, ha="right", va="center", fontsize=8, parse_math=False
        )
    if classes < len(names):
        title = f"{title} of the first {classes} of {len(names)} classes"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, bbox_inches="tight")
