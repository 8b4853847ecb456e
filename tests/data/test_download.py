"""Downloads against a real local server: broken, altered, resumed, mirrored, at once; archives
that are whole, damaged, or want to write elsewhere.
"""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from local_server import FileServer

from disret import paths
from disret.command_line import UserError
from disret.data import download
from disret.data.catalog import Archive
from disret.data.download import fetch, mirror_from, unpack

CONTENT = os.urandom(3_000_000)
PATH = "beir/things.zip"


@pytest.fixture
def server():
    server = FileServer()
    server.files["/things.zip"] = CONTENT
    yield server
    server.close()


@pytest.fixture
def archive(server):
    return Archive(PATH, f"{server.url}/things.zip", hashlib.md5(CONTENT).hexdigest())


def part():
    return paths.DOWNLOADS / f"{PATH}.part"


def test_downloads_once(server, archive):
    assert fetch(archive).read_bytes() == CONTENT
    assert fetch(archive).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert not part().exists()


def test_goes_on_after_a_broken_connection(server, archive):
    server.break_after = [1_000_000, 500_000]
    assert fetch(archive).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert len(server.ranges) == 3
    assert all(asked.startswith("bytes=") for asked in server.ranges[1:])


def test_goes_on_in_a_later_run(server, archive, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.break_after = [2_000_000]
    with pytest.raises(UserError, match="kept for the next try"):
        fetch(archive)
    kept = part().stat().st_size
    assert 0 < kept < len(CONTENT)
    assert fetch(archive).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={kept}-"


def test_a_whole_part_needs_no_bytes(server, archive):
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT)
    assert fetch(archive).read_bytes() == CONTENT


def test_server_without_ranges(server, archive):
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:1000])
    server.ignore_ranges = True
    assert fetch(archive).read_bytes() == CONTENT


def test_a_stale_part_is_not_kept(server, archive):
    part().parent.mkdir(parents=True)
    part().write_bytes(b"of another version" * 100)
    with pytest.raises(UserError, match="nothing was kept"):
        fetch(archive)
    assert fetch(archive).read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_altered_content_is_refused_and_removed(server, archive):
    server.files["/things.zip"] = b"altered"
    with pytest.raises(UserError, match=f"md5 .* expected {archive.digest}"):
        fetch(archive)
    assert not list(paths.DOWNLOADS.rglob("*.zip*[!k]"))  # nothing but the lock


def test_absent_file(archive):
    gone = Archive(PATH, archive.url.replace("things", "nothing"), archive.digest)
    with pytest.raises(UserError, match="404"):
        fetch(gone)


def test_unreachable_host_names_the_mirror_option(monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"cannot reach .* name a mirror, here or in DISRET_MIRROR"):
        fetch(Archive(PATH, "http://127.0.0.1:9/things.zip", "0" * 32))


def test_two_at_once_download_once(server, archive):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: fetch(archive).read_bytes(), range(4)))
    assert results == [CONTENT] * 4
    assert server.ranges == [None]


def write_mirror(folder, content, listed=None):
    (folder / "beir").mkdir(parents=True)
    (folder / PATH).write_bytes(content)
    if listed is not None:
        digest = hashlib.sha256(listed).hexdigest()
        (folder / "SHA256SUMS").write_text(f"{digest}  {PATH}\n")
    return str(folder)


def test_mirror_directory_with_checksums(tmp_path, archive):
    rebuilt = b"the same content, packed anew"  # its MD5 is not the table's
    mirror = write_mirror(tmp_path / "mirror", rebuilt, listed=rebuilt)
    assert fetch(archive, mirror).read_bytes() == rebuilt


def test_mirror_without_checksums_is_held_to_the_table(tmp_path, archive):
    with pytest.raises(UserError, match="md5"):
        fetch(archive, write_mirror(tmp_path / "other", b"something else"))
    assert fetch(archive, write_mirror(tmp_path / "same", CONTENT)).read_bytes() == CONTENT


def test_mirror_checksum_mismatch(tmp_path, archive):
    mirror = write_mirror(tmp_path / "mirror", b"altered", listed=b"original")
    with pytest.raises(UserError, match="sha256"):
        fetch(archive, mirror)


def test_mirror_address(server, archive):
    rebuilt = b"rebuilt"
    digest = hashlib.sha256(rebuilt).hexdigest()
    server.files[f"/m/{PATH}"] = rebuilt
    server.files["/m/SHA256SUMS"] = f"{digest} *./{PATH}\n".encode()
    assert fetch(archive, f"{server.url}/m").read_bytes() == rebuilt


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_kept_archive_is_checked_before_it_is_used(server, archive, is_noted, capsys):
    """Also one that somebody has put there: tar unpacks what is damaged."""
    path = fetch(archive)
    if not is_noted:
        path.with_name(f"{path.name}.sha256").unlink()
        assert fetch(archive) == path
        path.with_name(f"{path.name}.sha256").unlink()
    assert len(server.ranges) == 1
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert fetch(archive).read_bytes() == CONTENT
    assert len(server.ranges) == 2
    assert "is not what its checksum says; downloading it again" in capsys.readouterr().err


def test_mirror_from_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DISRET_MIRROR", str(tmp_path))
    assert mirror_from(None) == str(tmp_path)
    with pytest.raises(UserError, match="neither a directory"):
        mirror_from("no/such/place")


def test_a_full_disk_is_said(server, archive, home):
    """A real limit on file size stands in for a full disk: the write itself fails."""
    program = f"""
import resource, signal
from disret import command_line
from disret.data.catalog import Archive
from disret.data.download import fetch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
command_line.run(lambda: fetch(Archive({PATH!r}, {archive.url!r}, {archive.digest!r})))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 2
    assert "no room left to write" in result.stderr
    assert fetch(archive).read_bytes() == CONTENT  # going on with what there was room for


@pytest.mark.kill
def test_killed_download_resumes_to_the_same_file(server, archive, home):
    """A process killed in mid-transfer leaves a part that the next run completes."""
    server.break_after = [1_500_000] + [0] * 50
    program = (
        "from disret.data.catalog import Archive; from disret.data.download import fetch; "
        f"fetch(Archive({PATH!r}, {archive.url!r}, {archive.digest!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (part().exists() and part().stat().st_size >= 1_000_000):
        assert process.poll() is None
    process.kill()
    process.wait()
    server.break_after = []
    assert fetch(archive).read_bytes() == CONTENT
    assert server.ranges[-1].startswith("bytes=")


# --- Archives -------------------------------------------------------------------------------------


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
    hard = tarfile.TarInfo("hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "x"
    inner = tarfile.TarInfo("inner")  # which tarfile's own filter would let pass
    inner.type, inner.linkname = tarfile.SYMTYPE, "x"
    for bad in (link, hard, inner):
        members = (tarfile.TarInfo("x"), b"x"), (bad, b"")
        with pytest.raises(UserError, match="is no plain file"):
            unpack(tar_of(tmp_path / "a.tar.gz", *members), tmp_path / "tar")
        assert not (tmp_path / "tar" / bad.name).exists()
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


def test_archives_that_this_python_cannot_read(tmp_path):
    """Each raises an error of its own: with a password, of another compression, damaged inside."""
    content = bytearray(zip_of(tmp_path / "a.zip", {"x": "x" * 5000}).read_bytes())
    places = content.find(b"PK\x03\x04"), content.find(b"PK\x01\x02")
    changes = {"locked": ((6, 1), (8, 1)), "unknown": ((8, 99), (10, 99))}
    for name, fields in changes.items():
        changed = bytearray(content)
        for place, (offset, value) in zip(places, fields, strict=True):
            changed[place + offset] = value
        (tmp_path / f"{name}.zip").write_bytes(changed)
    for kind in ("bz2", "xz"):
        with tarfile.open(tmp_path / f"damaged.tar.{kind}", f"w:{kind}") as tar:
            tar.add(ROOT / "README.md", "README.md")
        whole = bytearray((tmp_path / f"damaged.tar.{kind}").read_bytes())
        whole[len(whole) // 2] ^= 0xFF
        (tmp_path / f"damaged.tar.{kind}").write_bytes(whole)
    for name in ("locked.zip", "unknown.zip", "damaged.tar.bz2", "damaged.tar.xz"):
        with pytest.raises(UserError, match=f"{name} cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / name.replace(".", "-"))
