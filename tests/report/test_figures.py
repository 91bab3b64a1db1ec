"""What is drawn, read off the figures themselves."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from matplotlib.lines import Line2D

from geniu_lightning.report import figures, tradeoff
from geniu_lightning.report.figures import curves_of, drawn
from geniu_lightning.report.runs import find, trained
from geniu_lightning.report.tables import Table, tables
from tests.report.examples import (
    AREA,
    CURVE,
    STEPS,
    failed,
    kit,
    relearned,
    run,
    trained_with,
    unlearned_with,
)


def table(folder: Path) -> Table:
    (found,) = tables(find([folder]))
    return found


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """What was plotted, by label; of points with a spread the points."""
    return {
        label: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for label, line in labelled(figure).items()
    }


def labelled(figure: Figure) -> dict[str, Line2D]:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    return {
        label: handle if isinstance(handle, Line2D) else handle[0]
        for handle, label in zip(handles, labels, strict=True)
    }


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


# ---- figures ---------------------------------------------------------------------------------


def test_curves_are_means_over_seeds_beside_oracles_and_original(tmp_path: Path) -> None:
    relearned(run(tmp_path / "a1", "geniu", 1), CURVE, AREA)
    whole = [1.0] * 7
    relearned(run(tmp_path / "a2", "geniu", 2), whole, 1.0)
    relearned(run(tmp_path / "b", "finetune"), [0.0, 0.5, 1.0], 0.3, steps=(0, 10, 100))
    relearned(run(tmp_path / "c", "scrub"), whole, 0.3, steps=())  # of a version that left them out
    run(tmp_path / "d", "salun")
    figure = figures.relearning(table(tmp_path))
    assert figure is not None
    plotted = lines(figure)
    assert plotted["geniu"] == (list(STEPS), [0.5, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert plotted["oracles"][1] == [0.0] * 6 + [0.125]
    assert plotted["none (before)"][1] == [1.0] * 7
    assert plotted.keys() == {"geniu", "oracles", "none (before)"}
    assert figure.get_supxlabel().endswith("steps: finetune, salun, scrub")
    assert figure.axes[0].get_xscale() == "symlog"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [*map(str, STEPS)]


def test_without_an_attack_there_are_no_curves(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu")
    assert curves_of(table(tmp_path)) is None
    assert figures.relearning(table(tmp_path)) is None


def test_the_tradeoff_is_against_relearning_where_it_was_measured(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", retain=0.875)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    assert figure.axes[0].get_xlabel().startswith("A_f")
    assert lines(figure)["forgets"] == ([0.125], [0.875])
    relearned(run(tmp_path / "b", "finetune", retain=0.75, word="hides"), CURVE, AREA)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    assert figure.axes[0].get_xlabel().startswith("relearned")
    assert lines(figure)["hides"] == ([AREA], [0.75])
    assert "finetune" in texts(figure)
    assert "geniu (best)" not in texts(figure)  # without an area it has no place here
    assert figure.get_supxlabel() == "not drawn, for lack of a number: geniu (best)"


def test_a_word_has_its_own_shape_and_the_oracles_their_band(tmp_path: Path) -> None:
    for seed, word in ((1, "hides"), (2, "scars")):
        run(tmp_path / f"{seed}", "geniu", seed, word=word)
    run(tmp_path / "c", "finetune", word="keeps", retain=0.8)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    shapes = {word: point.get_marker() for word, point in labelled(figure).items()}
    assert shapes["several words"] != shapes["keeps"]
    assert len({shape for shape, _ in tradeoff.MARKERS.values()}) == len(tradeoff.MARKERS)
    across, along = (patch.get_extents() for patch in figure.axes[0].patches)
    to_data = figure.axes[0].transData.inverted()
    low, high = to_data.transform([(0, across.y0), (0, across.y1)])[:, 1]
    assert (low, high) == pytest.approx((0.8125, 0.9375))  # 0.875 ± 0.0625
    assert along.width == pytest.approx(0.0)  # of A_f, which no oracle has


def test_a_word_that_not_all_runs_have_is_no_words_own(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", 1)
    run(tmp_path / "b", "geniu", 2, word=None)
    run(tmp_path / "c", "finetune", 1)
    failed(tmp_path / "d", "finetune", 2, "no memory")
    run(tmp_path / "e", "scrub", 1, word=None)
    run(tmp_path / "f", "salun", 1)
    words = {one.row.method: tradeoff.word_of(one) for one in table(tmp_path).lines}
    assert (words["geniu"], words["finetune"]) == ("several words", "several words")
    assert (words["scrub"], words["salun"]) == ("no word", "forgets")


def test_what_is_far_below_is_named_and_does_not_press_the_others(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", retain=0.9)
    run(tmp_path / "b", "random_init", retain=0.1)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    assert figure.get_supxlabel() == "too low to be drawn, A_r: random_init 0.10"
    assert figure.axes[0].get_ylim()[0] > 0.5


def test_names_do_not_lie_on_each_other(tmp_path: Path) -> None:
    names = [f"method_number_{k}" for k in range(12)]
    for k, name in enumerate(names):
        run(tmp_path / name, name, retain=0.9 + 0.0005 * k)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    figure.savefig(io.BytesIO())  # where they are when all is done
    from matplotlib.text import Text

    notes = [note for note in figure.axes[0].texts if note.get_text().startswith("method")]
    boxes = [Text.get_window_extent(note) for note in notes]
    assert len(boxes) == len(names)
    for k, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[k + 1 :])


def test_a_title_and_a_note_of_many_words_fit(tmp_path: Path) -> None:
    relearned(run(tmp_path / "a", "geniu"), CURVE, AREA)
    for k in range(12):
        run(tmp_path / f"{k}", f"synthetic_embeddings_{k}")
    for folder in tmp_path.iterdir():
        trained_with(folder, data__name="name of a data set " * 6)
    for draw in (tradeoff.tradeoff, figures.relearning):
        figure = draw(table(tmp_path))
        assert figure is not None
        figure.savefig(io.BytesIO())
        texts = [figure.axes[0].title, *figure.texts]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert len(boxes) == 2
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_a_name_that_has_room_stands_at_its_point(tmp_path: Path) -> None:
    run(tmp_path / "a", "geniu", retain=0.9)
    relearned(tmp_path / "a", CURVE, AREA)
    relearned(run(tmp_path / "b", "finetune", retain=0.8), [0.0] * 7, 0.0)
    figure = tradeoff.tradeoff(table(tmp_path))
    assert figure is not None
    assert len(figure.axes[0].texts) == 3  # the original too
    for note in figure.axes[0].texts:
        assert math.hypot(*note.get_position()) == pytest.approx(8), note.get_text()


def test_each_seed_has_a_dot_beside_the_seconds_of_retraining(tmp_path: Path) -> None:
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
    assert lines(figure)["retraining one oracle"][0] == [16.0, 16.0]


def test_proxies_are_those_of_the_first_kit_that_the_runs_began_with(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "a", "geniu", seed=2)
    (tmp_path / "runs" / "a" / "proxies.png").write_bytes(b"of no training run")
    without = drawn(table(tmp_path / "runs"), trained([tmp_path]))[-1]
    assert not without.png
    assert without.caption.startswith("No figure of proxies: the training run")
    for seed, shade in ((1, 0.25), (2, 0.75)):
        out = io.BytesIO()
        imsave(out, np.full((40, 60, 3), shade), format="png")
        kit(tmp_path / f"kit{seed}", seed, out.getvalue())
    trained_with(run(tmp_path / "other" / "a", "geniu", seed=2), data__flip=True)
    assert not drawn(table(tmp_path / "other"), trained([tmp_path]))[-1].png  # of other images
    found = drawn(table(tmp_path / "runs"), trained([tmp_path]))[-1]
    assert "training seed 2" in found.caption
    pixels = imread(io.BytesIO(found.png))[-40:, :60, :3]  # below the title, dot by dot
    assert np.allclose(pixels, 0.75, atol=0.01)


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    relearned(run(tmp_path / "a", "geniu"), CURVE, AREA)
    first, second = (drawn(table(tmp_path), []) for _ in range(2))
    assert first == second
    assert [bool(one.png) for one in first] == [True, True, True, True, False]


def test_settings_have_files_of_their_own_whose_names_are_short_enough(tmp_path: Path) -> None:
    names = []
    for k, name in enumerate(("my_set", "my-set")):
        folder = trained_with(run(tmp_path / name, "geniu"), data__name=name)
        unlearned_with(folder, forget=list(range(100)))
        names += [one.name for one in drawn(table(tmp_path / name), [])]
        assert len(set(names)) == 5 * (k + 1)
    assert max(map(len, names)) < 120
    assert all(name.startswith("my-set-step-majority-0-ratio-0.1") for name in names)


def test_the_price_of_each_method_stands_at_its_seconds(tmp_path: Path) -> None:
    for name, seconds, kept, area in (("geniu", 2.0, 0.9, 0.8), ("regrow", 40.0, 0.95, 0.02)):
        at = run(tmp_path / name, name, retain=kept, seconds=seconds)
        relearned(at, [0.0] * 7, area)
    run(tmp_path / "far", "gradient_ascent", retain=0.2, seconds=3.0)
    run(tmp_path / "no time", "logit_mask", seconds=0.0)
    figure = figures.price(table(tmp_path))
    assert figure is not None
    kept, back = figure.axes
    assert "too low to be drawn, A_r: gradient_ascent 0.20" in figure.get_supxlabel()
    assert "logit_mask" in figure.get_supxlabel()
    for axes, values in ((kept, {(2.0, 0.9), (40.0, 0.95)}), (back, {(2.0, 0.8), (40.0, 0.02)})):
        assert axes.get_xscale() == "log"
        found = {
            (float(np.ravel(x.get_xdata())[0]), float(np.ravel(x.get_ydata())[0]))
            for x in axes.get_lines()
        }
        assert values <= found
        names = {note.get_text() for note in axes.texts}
        assert {"geniu", "regrow (best)"} <= names
        assert not names & {"gradient_ascent", "logit_mask"}


def test_without_seconds_there_is_no_price(tmp_path: Path) -> None:
    run(tmp_path / "a", "logit_mask", seconds=0.0)
    assert figures.price(table(tmp_path)) is None
