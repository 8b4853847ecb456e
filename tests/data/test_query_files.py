"""Query files in every format, and what is wrong with some."""

import gzip
import json
from pathlib import Path

import pytest

from disret.command_line import UserError
from disret.data.query_files import (
    msmarco_queries,
    read_queries,
    training_queries,
    weighted_source,
)


def test_formats(tmp_path):
    texts = ["first query", "zweite Anfrage ü", "third"]
    tsv = tmp_path / "q.tsv"
    tsv.write_text("".join(f"{i}\t{t}\n" for i, t in enumerate(texts)))
    plain = tmp_path / "q.txt"
    plain.write_bytes(("\ufeff" + "\r\n".join(texts)).encode())
    lines = tmp_path / "q.jsonl.gz"
    lines.write_bytes(
        gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in texts).encode())
    )
    for file in (tsv, plain, lines):
        assert read_queries([file]) == texts
    assert read_queries([tsv, plain], limit=4) == [*texts, texts[0]]


def test_blank_lines_are_skipped_and_counted(tmp_path, capsys):
    file = tmp_path / "q.txt"
    file.write_text("one\n\n  \ntwo\n")
    assert read_queries([file]) == ["one", "two"]
    assert "skipped 2 blank lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.tsv", b"1\tgood\nno tab\n", r"q\.tsv, line 2: expected id<TAB>text"),
        ("q.tsv", b"1\ta\tb\n", r"line 1: .*3 columns"),
        ("q.tsv", b"1\t \n", "line 1"),
        ("q.jsonl", b'{"text": "good"}\n{"txt": "bad"}\n', r'q\.jsonl, line 2: .*"text"'),
        ("q.jsonl", b"{\n", "line 1"),
        ("q.jsonl", b'{"text": 3}\n', "not a text"),
        ("q.txt", b"good\n\xff\xfe\n", r"q\.txt, line 2: not UTF-8"),
        ("q.jsonl", b"[" * 100_000, "line 1: expected a JSON object"),
        ("q.jsonl", b'{"text": "half \\ud800"}', 'line 1: "text" is not a text'),
        ("q.txt", b"", "holds no queries"),
        ("q.txt", b"\n\n", "holds no queries"),
        ("q.txt.gz", b"not gzip", "not a whole gzip file"),
        ("q.txt.gz", gzip.compress(b"some text\n" * 99)[:-9], "not a whole gzip file"),
    ],
)
def test_bad_files(tmp_path, name, content, reason):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_queries([file])


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_queries([tmp_path / "none.tsv"])
    with pytest.raises(UserError, match="directory"):
        read_queries([tmp_path])


@pytest.mark.real
def test_msmarco_archive_of_the_mirror(real_mirror):
    train, dev = msmarco_queries(real_mirror)
    assert len(read_queries([train], limit=1000)) == 1000
    assert len(read_queries([dev])) == 6980


def test_a_weight_stands_behind_a_name(tmp_path):
    odd = tmp_path / "log@2"
    odd.write_text("one\n")
    assert weighted_source("log.tsv@2") == (Path("log.tsv"), 2.0)
    assert weighted_source("a/b@c.tsv@0.5") == (Path("a/b@c.tsv"), 0.5)
    assert weighted_source("a@b.tsv") == (Path("a@b.tsv"), 1.0)
    assert weighted_source(str(odd)) == (odd, 1.0)
    assert weighted_source("hub:org/name#question@3") == ("hub:org/name#question", 3.0)
    with pytest.raises(UserError, match="never shown"):
        weighted_source("log.tsv@0.0")


def test_sources_keep_their_weights(tmp_path):
    files = [tmp_path / name for name in ("a.txt", "b.txt", "held-out.txt")]
    for file in files:
        file.write_text("".join(f"{file.stem} {number}\n" for number in range(100)))
    texts, _, sources = training_queries(files[:2], files[2:], None, None, [2.0, 0.5])
    first, second = sources["training"]
    assert (first.count, first.weight) == (100, 2.0)
    # What no pass would show is not read.
    assert second.weight == 1
    assert 30 < second.count < 70
    assert texts[:100] == [f"a {number}" for number in range(100)]
    assert len(texts) == 100 + second.count
    assert set(texts[100:]) < {f"b {number}" for number in range(100)}
    again, *_ = training_queries(files[:2], files[2:], None, None, [2.0, 0.5])
    assert again == texts
    with pytest.raises(UserError, match=r"b\.txt@1e-05 leaves none"):
        training_queries(files[:2], files[2:], None, None, [2.0, 1e-5])
