"""What is drawn, read off the figures themselves."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from matplotlib.lines import Line2D
from matplotlib.text import Text

from geniu_lightning.report import figures, scatter
from geniu_lightning.report.curves import relearning
from geniu_lightning.report.document import NEW_NAMES
from geniu_lightning.report.figures import drawings
from geniu_lightning.report.load import find_training
from geniu_lightning.report.scatter import MARKERS, SEVERAL, price, tradeoff, verdict_of
from tests.report.examples import AREA, CURVE, STEPS, change, failed, kit, relearned, run, table


def labelled(figure: Figure) -> dict[str, Line2D]:
    """Return what was plotted, by label; of points with a spread the points."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    lines = [handle if isinstance(handle, Line2D) else handle[0] for handle in handles]
    return dict(zip(labels, lines, strict=True))


def plotted(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """Return the coordinates of what was plotted, by label."""
    return {
        label: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for label, line in labelled(figure).items()
    }


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_curves_are_means_over_seeds_with_oracles_and_original(tmp_path: Path) -> None:
    run(tmp_path / "d", "salun")
    assert relearning(table(tmp_path)) is None  # without an attack
    relearned(run(tmp_path / "a1", "geniu", 1), CURVE, AREA)
    relearned(run(tmp_path / "a2", "geniu", 2), [1.0] * 7, 1.0)
    relearned(run(tmp_path / "b", "finetune"), [0.0, 0.5, 1.0], 0.3, steps=(0, 10, 100))
    relearned(run(tmp_path / "c", "scrub"), [1.0] * 7, 0.3, steps=())  # of an older version
    figure = relearning(table(tmp_path))
    assert figure is not None
    curves = plotted(figure)
    assert curves["geniu"] == (list(STEPS), [0.5, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert curves["oracles"][1] == [0.0] * 6 + [0.125]
    assert curves["none (before)"][1] == [1.0] * 7
    assert curves.keys() == {"geniu", "oracles", "none (before)"}
    assert figure.get_supxlabel().endswith("steps: finetune, salun, scrub")
    assert figure.axes[0].get_xscale() == "symlog"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [*map(str, STEPS)]


def test_the_tradeoff_is_against_relearning_where_it_was_measured(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", retain=0.875)
    run(tmp_path / "b", "random_init", retain=0.1)
    figure = tradeoff(table(tmp_path))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_xlabel().startswith("A_f")
    assert plotted(figure)["forgotten"] == ([0.125], [0.875])
    # what is far below is named and does not press the others together
    assert figure.get_supxlabel() == "too low to be drawn, A_r: random_init 0.10"
    assert axes.get_ylim()[0] > 0.5
    across, along = (patch.get_extents() for patch in axes.patches)
    shaded = axes.transData.inverted().transform([(0, across.y0), (0, across.y1)])[:, 1]
    assert shaded == pytest.approx((0.8125, 0.9375))  # 0.875 ± 0.0625
    assert along.width == pytest.approx(0.0)  # of A_f, which no oracle has
    relearned(run(tmp_path / "c", "finetune", retain=0.75, verdict="suppressed"), CURVE, AREA)
    figure = tradeoff(table(tmp_path))
    assert figure is not None
    assert figure.axes[0].get_xlabel().startswith("relearned")
    assert plotted(figure)["suppressed"] == ([AREA], [0.75])
    assert "finetune" in texts(figure)
    assert "geniu" not in texts(figure)  # without an area it has no place here
    assert figure.get_supxlabel() == "not drawn, for lack of a number: random_init, geniu"


def test_a_verdict_that_not_all_runs_have_is_not_the_methods(tmp_path: Path) -> None:
    assert {*NEW_NAMES.values()} < MARKERS.keys()
    assert len({shape for shape, _ in MARKERS.values()}) == len(MARKERS)
    run(tmp_path / "a", "geniu", 1)
    run(tmp_path / "b", "geniu", 2, verdict=None)
    run(tmp_path / "c", "finetune", 1)
    failed(tmp_path / "d", "finetune", 2, "no memory")
    run(tmp_path / "e", "scrub", 1, verdict=None)
    run(tmp_path / "f", "salun", 1)
    found = {one.method: verdict_of(one) for one in table(tmp_path).rows}
    assert (found["geniu"], found["finetune"]) == (SEVERAL, SEVERAL)
    assert (found["scrub"], found["salun"]) == ("no verdict", "forgotten")
    figure = tradeoff(table(tmp_path))
    assert figure is not None
    shapes = {verdict: point.get_marker() for verdict, point in labelled(figure).items()}
    assert shapes[SEVERAL] == MARKERS[SEVERAL][0]


def test_names_lie_in_the_axes_and_not_on_each_other(tmp_path: Path) -> None:
    names = [f"method_number_{k}" for k in range(12)]
    for k, name in enumerate(names):
        run(tmp_path / name, name, retain=0.9 + 0.0005 * k)
    figure = tradeoff(table(tmp_path))
    assert figure is not None
    figure.savefig(io.BytesIO())  # where they are when all is done
    notes = [note for note in figure.axes[0].texts if note.get_text().startswith("method")]
    boxes = [Text.get_window_extent(note) for note in notes]
    assert len(boxes) == len(names)
    inside = figure.axes[0].get_window_extent()
    for k, one in enumerate(boxes):
        assert not one.count_overlaps(boxes[k + 1 :])
        assert inside.y0 <= one.y0
        assert one.y1 <= inside.y1


def test_more_names_than_can_be_read_are_left_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "MOST_LABELS", 6)
    for count, labelled_points in ((3, 3), (8, 0)):
        for k in range(count):
            run(tmp_path / str(count) / str(k), f"method{k}", retain=0.9 + k / 1000)
        figure = tradeoff(table(tmp_path / str(count)))
        assert figure is not None
        names = [text.get_text() for text in figure.axes[0].texts]
        assert sum(name.startswith("method") for name in names) == labelled_points


def test_a_title_and_a_note_of_many_words_fit(tmp_path: Path) -> None:
    relearned(run(tmp_path / "a", "geniu"), CURVE, AREA)
    for k in range(12):
        run(tmp_path / f"{k}", f"synthetic_embeddings_{k}")
    for folder in tmp_path.iterdir():
        change(folder, run__trained__data__name="name of a data set " * 6)
    for draw in (tradeoff, relearning):
        figure = draw(table(tmp_path))
        assert figure is not None
        figure.savefig(io.BytesIO())
        boxes = [
            text.get_window_extent()
            for text in (figure.axes[0].title, *figure.texts)
            if text.get_text()
        ]
        assert len(boxes) == 2
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_each_seed_has_a_dot_and_retraining_a_line(tmp_path: Path) -> None:
    for seed, seconds in ((1, 2.0), (2, 8.0)):
        run(tmp_path / f"{seed}", "geniu", seed, seconds=seconds)
    run(tmp_path / "b", "finetune", seconds=0.0)  # not on a logarithm
    failed(tmp_path / "c", "scrub", 1, "no memory")
    figure = figures.cost(table(tmp_path))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["geniu"]
    assert sorted(np.ravel([line.get_xdata() for line in axes.get_lines()[:1]])) == [2.0, 8.0]
    assert plotted(figure)["retraining one oracle"][0] == [16.0, 16.0]


def test_the_price_of_each_method_stands_at_its_seconds(tmp_path: Path) -> None:
    run(tmp_path / "no time", "logit_mask", seconds=0.0)
    assert price(table(tmp_path)) is None
    assert price(table(run(tmp_path / "far", "gradient_ascent", retain=0.2, seconds=3.0))) is None
    for name, seconds, retain, area in (("geniu", 2.0, 0.9, 0.8), ("regrow", 40.0, 0.95, 0.02)):
        folder = run(tmp_path / name, name, retain=retain, seconds=seconds)
        relearned(folder, [0.0] * 7, area)
    figure = price(table(tmp_path))
    assert figure is not None
    assert "too low to be drawn, A_r: gradient_ascent 0.20" in figure.get_supxlabel()
    assert "logit_mask" in figure.get_supxlabel()
    expected = ({(2.0, 0.9), (40.0, 0.95)}, {(2.0, 0.8), (40.0, 0.02)})
    for axes, values in zip(figure.axes, expected, strict=True):
        assert axes.get_xscale() == "log"
        points = {
            (float(np.ravel(x.get_xdata())[0]), float(np.ravel(x.get_ydata())[0]))
            for x in axes.get_lines()
        }
        assert values <= points
        names = {note.get_text() for note in axes.texts}
        assert {"geniu", "regrow"} <= names
        assert not names & {"gradient_ascent", "logit_mask"}


def test_proxies_are_those_of_the_first_kit_that_the_runs_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "KINDS", {})
    run(tmp_path / "runs" / "a", "geniu", seed=2)
    (tmp_path / "runs" / "a" / "proxies.png").write_bytes(b"of no training run")
    without = drawings(table(tmp_path / "runs"), find_training([tmp_path]))[-1]
    assert not without.png
    assert without.caption.startswith("No figure of proxies: the training run")
    for seed, shade in ((1, 0.25), (2, 0.75)):
        out = io.BytesIO()
        imsave(out, np.full((40, 60, 3), shade), format="png")
        kit(tmp_path / f"kit{seed}", seed, out.getvalue())
    change(run(tmp_path / "other" / "a", "geniu", seed=2), run__trained__data__flip=True)
    training = find_training([tmp_path])
    assert not drawings(table(tmp_path / "other"), training)[-1].png  # of other images
    found = drawings(table(tmp_path / "runs"), training)[-1]
    assert "training seed 2" in found.caption
    pixels = imread(io.BytesIO(found.png))[-40:, :60, :3]  # below the title, dot by dot
    assert np.allclose(pixels, 0.75, atol=0.01)


def test_the_same_runs_give_the_same_files_and_a_setting_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "KINDS", {"cost": figures.KINDS["cost"]})
    names = []
    for name in ("my_set", "my-set"):
        folder = run(tmp_path / name, "geniu")
        change(folder, run__trained__data__name=name, run__forget=list(range(100)))
        first, second = (drawings(table(tmp_path / name), []) for _ in range(2))
        assert first == second
        assert [bool(one.png) for one in first] == [True, False]
        names += [one.name for one in first]
    assert len(set(names)) == 4
    assert max(map(len, names)) < 120
    assert all(name.startswith("my-set-step-majority-0-ratio-0.1") for name in names)
