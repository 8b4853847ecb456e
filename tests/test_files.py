"""Files that appear whole or not at all, and folders that are made once."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from disret.command_line import UserError
from disret.files import (
    check_free_space,
    check_writable,
    checksum,
    follow_umask,
    install,
    text_sha256,
    whole_file,
    whole_folder,
)


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


def left_by(process: int, path: Path) -> Path:
    """What a process would leave beside a file if it were killed."""
    with whole_file(path) as partial:
        partial.touch()
        left = partial.with_name(partial.name.replace(f"-{os.getpid()}.", f"-{process}."))
    left.touch()
    return left


def test_what_the_killed_have_left_is_removed(tmp_path):
    """Not where its number is somebody else's by now."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = tmp_path / "f"
    at_work = [left_by(child.pid, path), left_by(os.getppid(), path)]
    stale = [left_by(ended.pid, path), left_by(2**22 + 1, path)]  # no process has that number
    with whole_file(path) as partial:
        partial.touch()
    assert not [file for file in stale if file.exists()]
    assert all(file.exists() for file in at_work)
    child.communicate(b"\n")
    with whole_file(path) as partial:
        partial.touch()
    assert sorted(file.name for file in tmp_path.iterdir()) == [at_work[1].name, "f"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "new" / "folder" / "r.csv")
    with pytest.raises(UserError, match=r"needs about 1000000000\.0 GB"):
        check_free_space(tmp_path / "not" / "yet", 10**18, "this test")
    check_free_space(tmp_path, 1, "this test")


def test_a_folder_is_made_once(tmp_path):
    """Of two that want it, one fills it and the other waits; a failure leaves nothing."""
    filled = []

    def fill(partial):
        filled.append(partial)
        (partial / "x").touch()

    wanted = [threading.Thread(target=install, args=(tmp_path / "d", fill)) for _ in range(4)]
    for thread in wanted:
        thread.start()
    for thread in wanted:
        thread.join()
    assert len(filled) == 1
    assert (tmp_path / "d" / "x").exists()

    def fail(partial):
        (partial / "half").touch()
        raise UserError("broken")

    with pytest.raises(UserError):
        install(tmp_path / "e", fail)
    assert not (tmp_path / "e").exists()


def test_rights_follow_the_umask(tmp_path):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "model.safetensors"
    path.touch(mode=0o600)
    before = os.umask(0o027)
    try:
        follow_umask(tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_digests(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert checksum(tmp_path / "f").startswith("ba7816bf")
    assert checksum(tmp_path / "f", "md5").startswith("90015098")
    assert text_sha256(["ab", "c"]) != text_sha256(["a", "bc"])
    assert text_sha256(["a"], "x") != text_sha256(["a"], "y")
