from pathlib import Path

from geniu_lightning.tracking.history import FILE, History


def test_rows_outlive_the_process_and_those_made_again_are_forgotten(tmp_path: Path) -> None:
    first = History(tmp_path)
    assert (first.begin(0, "one"), first.last()) == ({}, -1)
    for step in range(4):
        first.add(step, {"a": float(step)})
    first.add(3, {"b": 1.0})  # more of a row
    second = History(tmp_path)  # as another process finds them, gone on from step 2
    assert second.last() == 3
    assert not second.begun
    assert second.begin(2, "two") == {0: {"a": 0.0}, 1: {"a": 1.0}}
    assert second.begun
    second.add(2, {"a": 7.0})
    assert History(tmp_path).told() == {"one": 3, "two": 2}
    assert History(tmp_path).begin(9, "three") == {0: {"a": 0.0}, 1: {"a": 1.0}, 2: {"a": 7.0}}


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    History(tmp_path).add(0, {"a": 1.0})
    with (tmp_path / FILE).open("a") as file:
        file.write('[1, {"a": 2.')
    assert History(tmp_path).begin(5, "two") == {0: {"a": 1.0}}
