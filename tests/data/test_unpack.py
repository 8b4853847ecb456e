"""Archives that are whole, damaged, or want to write elsewhere."""

import contextlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from disret.command_line import UserError
from disret.data.unpack import unpack


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, text in members.items():
            zipped.writestr(name, text)
    return path


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_zip_and_tar_are_unpacked(tmp_path):
    unpack(zip_of(tmp_path / "a.zip", {"x/y.txt": "text"}), tmp_path / "zip")
    assert (tmp_path / "zip" / "x" / "y.txt").read_text() == "text"
    unpack(tar_of(tmp_path / "a.tar.gz", (tarfile.TarInfo("q.tsv"), b"1\tx")), tmp_path / "tar")
    assert (tmp_path / "tar" / "q.tsv").read_text() == "1\tx"


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "x/../../outside.txt"])
def test_nothing_lands_outside(tmp_path, name):
    (tmp_path / "inside").mkdir()
    archives = [
        zip_of(tmp_path / "a.zip", {"good.txt": "", name: "bad"}),
        tar_of(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"bad")),
    ]
    for archive in archives:
        with contextlib.suppress(UserError):
            unpack(archive, tmp_path / "inside")
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "a.zip", "a.tar.gz"}
    assert not Path("/outside.txt").exists()


def test_no_link_is_made(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tar_of(tmp_path / "a.tar.gz", (link, b"")), tmp_path / "tar")
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    unpack(tmp_path / "a.zip", tmp_path / "zip")
    assert not (tmp_path / "zip" / "link").is_symlink()


def test_damaged_archives_are_named(tmp_path):
    whole = tar_of(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), b"x" * 5000)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "not.zip").write_bytes(b"<html>")
    for name in ("cut.tar.gz", "not.zip"):
        with pytest.raises(UserError, match=f"{name} cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
