"""Confusion matrices and grids of small images, read off the figures themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL.Image import open as open_image

from geniu_lightning.report import pictures


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, in order."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def recorded(self: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return drawn


def names_of(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


def test_confusion_shows_shares_of_the_true_class_and_counts(
    tmp_path: Path, figures: list[Figure]
) -> None:
    counts = torch.tensor([[8, 2, 0], [1, 0, 3], [0, 0, 0]])
    pictures.confusion(counts, ["a", "b", "c"], "after unlearning", tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    shares = axes.images[0].get_array().filled(-1)
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0.25, 0, 0.75], [0, 0, 0]], atol=1e-6)
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in axes.texts}
    assert {place: text.get_text() for place, text in cells.items()} == {
        **{(0, 0): "8", (0, 1): "2"},
        **{(1, 0): "1", (1, 2): "3"},
    }
    assert [cells[0, 0].get_color(), cells[0, 1].get_color()] == ["white", "black"]
    for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
        assert [label.get_text() for label in labels] == ["a", "b", "c"]
    assert (axes.get_title(), axes.get_ylabel()) == ("after unlearning", "true class")
    assert open_image(tmp_path / "confusion.png").format == "PNG"
    for classes, numbers in ((20, 20), (21, 0)):  # numbers that could not be read are left out
        pictures.confusion(
            5 * torch.eye(classes, dtype=torch.int64), names_of(classes), "", tmp_path / "c.png"
        )
        assert len(figures[-1].axes[0].texts) == numbers


def test_grid_shows_one_row_a_class(
    tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pyplot.get_fignums()
    for channels in (1, 3):
        images = torch.rand(3, 2, channels, 5, 6, generator=torch.Generator().manual_seed(0))
        pictures.grid(images.requires_grad_(), names_of(3), "proxies", tmp_path / "grid.png")
        cells = figures[-1].axes
        assert len(cells) == 6
        for number, axes in enumerate(cells):
            wanted = images[number // 2, number % 2].detach().numpy()
            wanted = wanted[0] if channels == 1 else wanted.transpose(1, 2, 0)
            np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), wanted)
            assert axes.images[0].get_clim() == (0, 1)
        assert [axes.get_ylabel() for axes in cells[::2]] == names_of(3)
    assert open_image(tmp_path / "grid.png").format == "PNG"
    pictures.grid(torch.zeros(1, 1, 1, 4, 4), ["a"], "", tmp_path / "one.png")
    assert len(figures[-1].axes) == 1
    monkeypatch.setattr(pictures, "MOST_CLASSES", 3)
    pictures.grid(torch.zeros(5, 4, 1, 4, 4), names_of(5), "", tmp_path / "many.png")
    assert len(figures[-1].axes) == 9
    assert pyplot.get_fignums() == before  # pyplot's own state is left alone
