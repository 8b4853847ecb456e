"""How scripts end: status, sentence, traceback on request, and the time of --help."""

import errno
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from disret import terminal
from disret.files import check_free_space, check_writable, whole_file, whole_folder
from disret.terminal import UserError

SCRIPTS = ("distill", "benchmark", "ispeed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_does_not_wait_for_torch(name):
    code = f"import sys; sys.argv=['{name}.py','--help']; import {name}\n"
    code += f"try: {name}.parse_args()\nexcept SystemExit: pass\n"
    code += (
        "heavy = {'torch','transformers','faiss','beir','pandas','datasets'} & set(sys.modules)\n"
    )
    code += "sys.exit(str(heavy) if heavy else 0)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert b"usage:" in result.stdout


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("what to do"), 2, "what to do"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "no room left"),
        (RuntimeError("write failed: No space left on device (os error 28)"), 2, "no room left"),
        (ZeroDivisionError("by zero"), 1, "unexpected ZeroDivisionError"),
    ],
)
def test_endings(monkeypatch, capsys, error, status, sentence):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as end:
        terminal.run(main)
    assert end.value.code == status
    assert sentence in capsys.readouterr().err


def test_debug_shows_the_traceback(script, tmp_path):
    plain = script("benchmark", "--datasets", "nothing")
    assert plain.status == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in script("benchmark", "--datasets", "nothing", "--debug").err


def test_unfinished_files_and_folders_leave_the_old(tmp_path):
    (tmp_path / "f").write_text("old")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "f") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "d") as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "f").read_text() == "old"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d", "f", "old"]
    with whole_folder(tmp_path / "d") as partial:
        (partial / "new").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d", "f", "new"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "new" / "folder" / "r.csv")
    with pytest.raises(UserError, match=r"needs about 1000000000\.0 GB"):
        check_free_space(tmp_path / "not" / "yet", 10**18, "this test")
    check_free_space(tmp_path, 1, "this test")


def test_help_is_quick():
    """A generous bound that importing torch (seconds) cannot meet; see --help's imports above."""
    start = time.perf_counter()
    subprocess.run([sys.executable, ROOT / "distill.py", "--help"], capture_output=True, check=True)
    assert time.perf_counter() - start < 2
