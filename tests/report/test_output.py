"""Which files are written over, and that all are written or none."""

from pathlib import Path

import pytest

from geniu_lightning.cli.report import main
from geniu_lightning.errors import UserError
from geniu_lightning.report.output import MARK, write
from tests.report.examples import run


def test_own_files_are_replaced_and_others_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "runs" / "a", "geniu")
    out = tmp_path / "new" / "folder"
    command = [str(tmp_path / "runs"), "--html", str(out / "page.html")]
    command += ["--csv", str(out / "all.csv"), "--figures", str(out / "figures")]
    assert main(command) == 0
    contents = [(path, path.read_bytes()) for path in sorted(out.rglob("*")) if path.is_file()]
    assert len(contents) == 5  # page, numbers, and the figures of trade-off, price and cost
    for path, content in contents:
        write([(other, b"new" + content) for other, content in contents], force=False)
        assert path.read_bytes() == b"new" + content
        write(contents, force=False)
        path.write_text("mine")
        with pytest.raises(UserError, match=f"{path.name} exists, and not from this command"):
            write([(other, b"new") for other, _ in contents], force=False)
        assert path.read_text() == "mine"
        assert all(other.read_bytes() == old for other, old in contents if other != path)
        write(contents, force=True)
        assert path.read_bytes() == content
    (out / "all.csv").write_text("mine")
    capsys.readouterr()
    assert main([*command[:1], *command[3:5]]) == 2
    assert main([*command[:1], *command[3:5], "--force"]) == 0
    assert capsys.readouterr().err.endswith(f"wrote {out / 'all.csv'}\n")


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_no_file_is_new_where_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(MARK)
    usual = getattr(Path, step)

    def filling(self: Path, content: object) -> object:
        if "b" in self.name:
            raise OSError("no space left")
        return usual(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, filling)
        with pytest.raises(UserError, match="no space left"):
            write([(path, b"new") for path in paths], force=False)
    assert sorted(tmp_path.iterdir()) == paths
    assert [path.read_text() for path in paths] == [MARK] * 2


def test_one_file_for_two_forms_and_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(run(tmp_path / "runs", "geniu"))
    out, same = tmp_path / "all", tmp_path / "runs" / ".." / "all"
    with pytest.raises(UserError, match=f"{out} is named for 2 files"):
        write([(out, b""), (same, b"")], force=True)
    assert not out.exists()
    assert main([runs, "--csv", str(tmp_path), "--force"]) == 2
    assert "cannot be written: it is a folder" in capsys.readouterr().err
