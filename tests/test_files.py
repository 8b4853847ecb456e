"""Files that appear whole or not at all, and folders that are made once."""

import errno
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
    file_name,
    follow_umask,
    install,
    lock,
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
        left = partial.with_name(partial.name.replace(f"-{os.getpid()}-", f"-{process}-"))
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


def test_what_another_host_works_on_stays(tmp_path, monkeypatch):
    """Two containers may have one host's name, and the numbers of processes twice."""
    monkeypatch.setattr("disret.files._host", lambda: "other")
    at_work = left_by(2**22 + 1, tmp_path / "f")
    monkeypatch.undo()
    with whole_file(tmp_path / "f") as partial:
        assert at_work.exists()
        assert partial.name.split(".")[-2] != at_work.name.split(".")[-2]


def test_a_partial_file_is_new(tmp_path, monkeypatch):
    """A link of its name, if one could be foreseen, is not written through."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0")
    with whole_file(tmp_path / "t") as partial:
        foreseen = partial
    foreseen.symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError), whole_file(tmp_path / "t"):
        pass
    assert not (tmp_path / "victim").exists()


def test_what_is_linked_is_replaced_with_its_rights(tmp_path):
    for name in ("f", "d"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "d").mkdir(parents=True)
    (tmp_path / "disk" / "f").touch(mode=0o600)
    with whole_file(tmp_path / "f") as partial:
        partial.write_text("new")
    with whole_folder(tmp_path / "d") as partial:
        (partial / "new").touch()
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "d").is_symlink()
    assert (tmp_path / "disk" / "f").read_text() == "new"
    assert (tmp_path / "disk" / "f").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "disk").rglob("*")) == ["d", "f", "new"]


def test_a_pipe_or_a_device_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="is no regular file; name a file"):
            check_writable(path)
        with pytest.raises(UserError, match="is no regular file"), whole_file(path):
            pass
        assert path.exists()
        assert not path.is_file()


def test_what_is_whole_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    entered = False
    with lock(tmp_path / "f"):
        entered = True
    assert entered


def test_texts_with_nul_have_a_digest_of_their_own():
    assert len({text_sha256(texts) for texts in (["a\0b"], ["a", "b"], ["a", "", "b"])}) == 3


def test_long_names_of_models(tmp_path):
    names = ["a/" * 140 + end for end in ("one", "two")]
    assert len({file_name(name) for name in names}) == 2
    for name in names:
        (tmp_path / f"{file_name(name)}.flat.cos_sim.float32-float16").touch()
    assert file_name("models/student") == "models--student"


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
