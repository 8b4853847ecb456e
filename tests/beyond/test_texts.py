"""Sentences of dictionaries, documentation, manual pages and descriptions of packages."""

import gzip
import lzma
import time

import pytest
from conftest import load

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
