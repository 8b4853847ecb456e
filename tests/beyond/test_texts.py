"""Sentences of dictionaries, documentation, manual pages and descriptions of packages."""

import csv
import gzip
import hashlib
import io
import lzma
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time

import pytest
from conftest import ROOT, load
from dataset_hub import DatasetHub, hub_environment
from local_server import FileServer

from disret.command_line import UserError

module = load("beyond/texts")
WORDNET, main, texts_of = module.WORDNET, module.main, module.texts_of

DICTIONARY = """
Absolution \\Ab`so*lu"tion\\, n. [F. absolution, L. absolutio.]
   1. An absolving, or setting free from guilt, sin, or penalty;
      forgiveness of an {offense}.
      [1913 Webster]
"""
PAGE = """<html><head><title>Not this title here</title><style>p { color: red }</style></head>
<body><h1>The heading says it</h1><p>A paragraph of <code>one</code>
sentence. And of another one.</p><pre>int main(void) { return 0; }</pre>
<ul><li>First of the items.<li>Second of the items.</ul>
<script>var never = "seen by anyone";</script></body></html>"""
MANUAL = """.TH TIME 1
.SH DESCRIPTION
The
.B time
command runs the \\fIspecified\\fP program \\- with arguments.
.\\" a comment that nobody reads
"""
PACKAGES = """Package: tool
Description-md5: 0123
Description-en: does what tools do
 This tool does it well. It is small
 and quick.
 .
 Another paragraph about it.
"""


def test_each_kind_of_file(tmp_path):
    (tmp_path / "d.dict.dz").write_bytes(gzip.compress(DICTIONARY.encode()))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text(PAGE)
    (tmp_path / "time.1.gz").write_bytes(gzip.compress(MANUAL.encode()))
    (tmp_path / "Translation-en.xz").write_bytes(lzma.compress(PACKAGES.encode()))
    (tmp_path / "notes.txt").write_text("Two words\n\nJust a line of text\n\nx = 3 + {4} * 5\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG of three words")
    assert set(texts_of([tmp_path])) == {
        "An absolving, or setting free from guilt, sin, or penalty; forgiveness of an offense.",
        "The heading says it",
        "A paragraph of one sentence.",
        "And of another one.",
        "First of the items.",
        "Second of the items.",
        "The time command runs the specified program - with arguments.",
        "does what tools do",
        "This tool does it well.",
        "It is small and quick.",
        "Another paragraph about it.",
        "Just a line of text",
    }


def test_texts_come_once_and_in_the_same_order(tmp_path):
    lines = [f"line {word} of some" for word in ("one", "two", "three", "four", "five", "six")]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n\n".join(lines))
    found = texts_of([tmp_path])
    assert sorted(found) == sorted(lines)
    assert texts_of([tmp_path / "a.txt", tmp_path]) == found


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"word", "no sentences in"),
        ("a.png", b"three words there", "no sentences in"),
    ],
)
def test_what_has_no_text(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        texts_of([tmp_path])


def test_a_path_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        texts_of([tmp_path / "nowhere"])


def test_the_command_writes_a_line_each(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("one line of text\n\nanother line of text\n")
    monkeypatch.setattr(
        "sys.argv", ["texts.py", str(tmp_path), str(tmp_path / "out" / "prose.txt")]
    )
    main()
    assert "2 texts" in capsys.readouterr().out
    lines = (tmp_path / "out" / "prose.txt").read_text().splitlines()
    assert sorted(lines) == ["another line of text", "one line of text"]


# --- WordNet --------------------------------------------------------------------------------------

LICENCE = "  1 This line is of the licence.\n"
SYNSET = (
    "00001740 03 a 02 quick(a) 0 very_fast 0 001 & 00002098 a 0101 | moving at speed; "
    '"she took a quick look around"; "be quick"  \n'
)


def write(folder, line=SYNSET):
    for name in WORDNET:
        (folder / name).write_text(LICENCE + (line if name == "data.adj" else ""))
    return folder


def test_words_definition_and_examples(tmp_path):
    assert sorted(texts_of([write(tmp_path)])) == [
        "quick",
        "quick, very fast: moving at speed",
        "she took a quick look around",
        "very fast",
    ]


def test_a_part_of_wordnet_is_missing(tmp_path):
    (write(tmp_path) / "data.verb").unlink()
    with pytest.raises(UserError, match=r"no file .*data\.verb"):
        texts_of([tmp_path])


def test_wordnet_beside_prose(tmp_path):
    folder = tmp_path / "wordnet"
    folder.mkdir()
    (tmp_path / "a.txt").write_text("one line of text")
    found = texts_of([write(folder), tmp_path / "a.txt"])
    assert len(found) == 5
    assert {"quick", "one line of text"} <= set(found)


@pytest.mark.parametrize("text", ["<" * 99_000, "[" * 99_000, "\\ " * 99_000, "{ " * 99_000])
def test_what_is_never_closed_takes_no_longer(tmp_path, text):
    """Of each mark the end was looked for to the end of the file."""
    path = tmp_path / "a.dict"
    path.write_text(f"{text}\n\nA sentence that stands after it.\n")
    start = time.process_time()
    texts_of([path])
    assert time.process_time() - start < 5  # it took minutes


# --- Packages, and the mix ------------------------------------------------------------------------


def deb(**files: bytes) -> bytes:
    """A package as deb(5) describes it; what is no file has no content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("./usr/share/linked.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    made = b"!<arch>\n"
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    for name, content in parts.items():
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made


def test_a_package_is_read_where_it_is(tmp_path):
    base = sqlite3.connect(tmp_path / "GO.sqlite")
    base.execute("create table go_term (term text, definition text)")
    base.execute("insert into go_term values ('ageing', 'Growing old.')")
    base.commit()
    content = {
        "notes.txt": b"Just a line of text",
        "GO.sqlite": (tmp_path / "GO.sqlite").read_bytes(),
        "data.adj": (LICENCE + SYNSET).encode(),
    }
    (tmp_path / "a.deb").write_bytes(deb(**content))
    found = set(texts_of([tmp_path / "a.deb"]))
    assert {"Just a line of text", "ageing", "ageing: Growing old.", "quick"} <= found
    (tmp_path / "a.deb").write_bytes(b"no archive")
    with pytest.raises(UserError, match="is no Debian package"):
        texts_of([tmp_path / "a.deb"])


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is of Debian")
def test_a_package_that_dpkg_made(tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: notes\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: none\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "notes.txt").write_text("Just a line of text")
    made = tmp_path / "notes.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--build", tree, made], check=True, capture_output=True)
    assert texts_of([made]) == ["Just a line of text"]


class Debian(FileServer):
    """An archive with the package `notes`, and descriptions."""

    def __init__(self) -> None:
        super().__init__()
        self.package = deb(**{"notes.txt": b"Just a line of text\n\nAnd a second line"})
        self.publish()

    def publish(self) -> None:
        entry = f"Package: notes\nFilename: pool/notes.deb\nSHA256: {sha256(self.package)}\n"
        listed = lzma.compress(f"{entry}\nPackage: without\nSize: 3\n".encode())
        described = lzma.compress(PACKAGES.encode())
        lines = "".join(f" {sha256(content)} {len(content)} {path}\n" for path, content in (
            (module.PACKAGES, listed), (module.DESCRIPTIONS, described)))  # fmt: skip
        base = f"/dists/{module.SUITE}"
        self.files = {
            f"{base}/InRelease": f"Origin: Debian\nSHA256:\n{lines}".encode(),
            f"{base}/{module.PACKAGES}": listed,
            f"{base}/{module.DESCRIPTIONS}": described,
            "/pool/notes.deb": self.package,
        }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def debian():
    server = Debian()
    yield server
    server.close()


@pytest.fixture
def general(tmp_path, home, debian):
    """Run `general` in a process of its own; its end, its output, and the folder."""
    table = tmp_path / "table.csv"
    table.write_text(
        "kind,source,most,licence\nnotes,debian:notes,1,GPL\n"
        "descriptions,debian:descriptions,9,of the packages\n"
        "questions,hub:someone/set#question,2,CC BY 4.0\n"
    )
    command = (
        "import sys; from pathlib import Path; from disret.command_line import run; import texts;"
        f"texts.TABLE = Path({str(table)!r});"
        f"sys.argv[1:] = ['general', 'out', '--debian', '{debian.url}']; run(texts.main)"
    )

    def call(hub: str):
        environment = hub_environment(tmp_path, hub)
        environment["PYTHONPATH"] += f":{ROOT / 'beyond'}"
        return subprocess.run([sys.executable, "-c", command], env=environment, cwd=tmp_path,
                              capture_output=True, text=True, check=False)  # fmt: skip

    return call


def test_the_mix_takes_what_is_reached_and_says_its_licences(general, debian, tmp_path):
    hub = DatasetHub()
    hub.add_split("train", {"question": ["what is it", "who are you", "why"]})
    run = general(hub.url)
    hub.close()
    assert run.returncode == 0, run.stderr
    assert "descriptions: 4 texts of debian:descriptions (of the packages)" in run.stdout
    assert run.stdout.endswith("out: 7 texts\n")
    assert len((tmp_path / "out" / "notes.txt").read_text().splitlines()) == 1
    assert (tmp_path / "out" / "questions.txt").read_text() == "what is it\nwho are you\n"
    with (tmp_path / "out" / "sources.csv").open() as file:
        assert [(row["kind"], row["licence"], row["texts"]) for row in csv.DictReader(file)] == [
            ("notes", "GPL", "1"), ("descriptions", "of the packages", "4"),
            ("questions", "CC BY 4.0", "2")]  # fmt: skip

    debian.files["/pool/notes.deb"] = debian.package[:-1] + b"x"  # of what is kept, no matter
    alone = general("http://127.0.0.1:9")
    assert alone.returncode == 0, alone.stderr
    assert "no texts from hub: no answer from" in alone.stderr
    assert alone.stdout.endswith("out: 5 texts\n")


def test_a_package_that_was_altered_is_left_out(general, debian, tmp_path):
    debian.files["/pool/notes.deb"] = debian.package[:-1] + b"x"
    run = general("http://127.0.0.1:9")
    assert run.returncode == 0, run.stderr
    assert "no notes: " in run.stderr
    assert "expected" in run.stderr
    assert not (tmp_path / "out" / "notes.txt").exists()
    debian.files.clear()
    nothing = general("http://127.0.0.1:9")
    assert nothing.returncode == 2
    assert "neither the hub nor Debian's archive is reached" in nothing.stderr
