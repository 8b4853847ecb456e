"""Queries of files in every format and of a local hub, and what is wrong with some.

Of the hub, a process of its own reads them, as its libraries look at its address on import.
"""

import gzip
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from dataset_hub import DatasetHub, hub_environment

from disret.command_line import UserError
from disret.data.queries import (
    held_out,
    msmarco_queries,
    query_source,
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
    assert "2 blank lines are skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.tsv", b"1\tgood\nno tab\n", r"q\.tsv, line 2: 1 columns, not 2"),
        ("q.tsv", b"1\ta\tb\n", r"say which column has the texts"),
        ("q.tsv", b"1\t \n", "holds no queries"),
        ("q.jsonl", b'{"text": "good"}\n{"txt": "bad"}\n', r"q\.jsonl, line 2: there is no 'text'"),
        ("q.jsonl", b"{\n", "line 1"),
        ("q.jsonl", b'{"text": 3}\n', "no text"),
        ("q.txt", b"good\n\xff\xfe\n", r"q\.txt, line 2: not UTF-8"),
        ("q.jsonl", b'{"text": "half \\ud800"}', "line 1: .* is no text"),
        ("q.txt", b"", r"q\.txt is empty"),
        ("q.txt.gz", b"", r"q\.txt\.gz is empty"),
        ("q.txt", b"\n\n", "holds no queries"),
        ("q.txt.gz", b"not gzip", "not a whole gzip file"),
        ("q.txt.gz", gzip.compress(b"some text\n" * 99, mtime=0)[:-9], "not a whole gzip file"),
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
    assert weighted_source("log.tsv@2") == ("log.tsv", 2.0)
    assert weighted_source("a/b@c.tsv@0.5") == ("a/b@c.tsv", 0.5)
    assert weighted_source("a@b.tsv") == ("a@b.tsv", 1.0)
    assert weighted_source(str(odd)) == (str(odd), 1.0)
    assert weighted_source("hub:org/name#question@3") == ("hub:org/name#question", 3.0)
    with pytest.raises(UserError, match="up to 1000 times a pass, and not 0"):
        weighted_source("log.tsv@0.0")
    with pytest.raises(UserError, match="up to 1000 times a pass"):
        weighted_source("log.tsv@1000000000")


def test_sources_keep_their_weights(tmp_path):
    files = [tmp_path / name for name in ("a.txt", "b.txt", "held-out.txt")]
    for file in files:
        file.write_text("".join(f"{file.stem} {number}\n" for number in range(100)))
    names = [(files[0], 2.0), (files[1], 0.5)]
    texts, _, sources = training_queries(names, files[2:])
    first, second = sources["training"]
    assert (first.count, first.weight) == (100, 2.0)
    # What no pass would show is not read.
    assert second.weight == 1
    assert 30 < second.count < 70
    assert texts[:100] == [f"a {number}" for number in range(100)]
    assert len(texts) == 100 + second.count
    assert set(texts[100:]) < {f"b {number}" for number in range(100)}
    again, *_ = training_queries(names, files[2:])
    assert again == texts
    with pytest.raises(UserError, match=r"b\.txt@1e-05 leaves none"):
        training_queries([(files[0], 2.0), (files[1], 1e-5)], files[2:])


def test_what_is_validated_on_is_not_trained_on(tmp_path):
    """Nor with other spaces or in other case, as logs repeat it."""
    texts = [f"Query {number} of Many" for number in range(1000)]
    log, others = tmp_path / "log.txt", tmp_path / "valid.txt"
    spaced = [text.replace(" ", "  ") for text in texts]
    log.write_text("\n".join([*texts, *map(str.upper, texts), *spaced]))
    train, valid, _ = training_queries([(log, 1.0)], [])
    plain = [{" ".join(text.casefold().split()) for text in part} for part in (train, valid)]
    assert valid
    assert plain[0].isdisjoint(plain[1])
    others.write_text("QUERY 3  of many\nanother\n")
    assert training_queries([(log, 1.0)], [others])[1] == ["another"]


def test_held_out_texts_follow_their_content_and_not_their_order():
    texts = [f"query {number}" for number in range(10_000)]
    out = held_out(texts)
    assert 150 < out.sum() < 250
    assert (held_out(texts[::-1])[::-1] == out).all()
    assert (held_out(texts[:5000]) == out[:5000]).all()
    assert (held_out(texts * 2) == np.tile(out, 2)).all()
    few = held_out(texts, most=20)
    assert few.sum() == 20
    assert not (few & ~out).any()


def test_one_text_at_least_is_held_out_and_not_all():
    for share in (0, 1):
        assert held_out(["a", "b"], share).sum() == 1
    assert held_out(["a", "b", "c"], share=1).sum() == 2
    for alike in (["a"], ["a", "a"]):
        with pytest.raises(UserError, match="one text is too few"):
            held_out(alike)


# --- The hub --------------------------------------------------------------------------------------

READ = """
import json, sys
from disret.command_line import UserError
from disret.data.queries import training_queries
limit, *names = json.loads(sys.argv[1])
for name in names:
    try:
        names = [(part, 1.0) for part in name.split()]
        queries, valid, sources = training_queries(names, [sys.argv[2]], limit)
        print(json.dumps([queries, [list(source) for source in sources["training"]]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def hub():
    server = DatasetHub()
    yield server
    server.close()


@pytest.fixture
def read(hub, tmp_path, valid_queries):
    """Texts and sources of each name, or what is said of it, and at last standard error."""

    def call(*names, limit=None):
        command = [sys.executable, "-c", READ, json.dumps([limit, *names]), str(valid_queries)]
        environment = hub_environment(tmp_path, hub.url)
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return [*map(json.loads, run.stdout.splitlines()), run.stderr]

    return call


def copies(home):
    return sorted((home / "downloads" / "queries").glob("*.txt"))


def test_a_column_is_read_once(hub, read, home):
    texts = [" one\n\ttwo ", "three", None, " \n", "one two", "zwölf\u2028Äpfel", "three"]
    hub.add_split("train", {"question": texts, "answer": ["a"] * 7, "id": list(range(7))})
    hub.add_split("dev", {"question": ["four"]}, config="small")
    hub.about = {"tags": ["license:cc-by-4.0"]}
    name = "hub:someone/set#question"
    first, small, _ = read(name, f"hub:someone/set/small:dev#question {name}")
    wanted = ["one two", "three", "zwölf Äpfel"]
    assert first == [wanted, [[name, 3, "a" * 40, "cc-by-4.0", 1.0, None]]]
    assert small[0] == ["four", *wanted]
    assert [count for _, count, *_ in small[1]] == [1, 3]

    hub.files.clear()  # but for what is known of it
    again, _ = read(name)
    assert again == first
    for path in copies(home):
        path.write_text("damaged")
    without, _ = read(name)
    assert without.startswith(f"{name} cannot be read: ")
    hub.add_split("train", {"question": ["new"]})
    hub.revision = "b" * 40
    newer, _ = read(name)
    assert newer == [["new"], [[name, 1, "b" * 40, "cc-by-4.0", 1.0, None]]]


def test_one_column_of_all_rows_is_copied_whatever_the_limit(hub, read, home):
    chance = random.Random(0)
    shards = [
        {"q": [f"query {shard} {n}" for n in range(3000)],
         "wide": [chance.randbytes(8000 if shard == 1 else 1) for _ in range(3000)]}
        for shard in range(3)
    ]  # fmt: skip
    hub.add_split("train", *shards)
    name = "hub:someone/set#q"
    found, _ = read(name, limit=5)
    assert found[0] == shards[0]["q"][:5]
    assert found[1][0][1] == 5
    wide = "default/train-1.parquet"
    assert 0 < hub.sent[wide] < 0.6 * len(hub.files[wide])  # without the other column
    assert len(copies(home)) == 1
    hub.files.clear()
    found, _ = read(name)
    assert found[0] == [text for shard in shards for text in shard["q"]]


def test_sources_follow_each_other_up_to_a_limit(hub, read, queries):
    hub.add_split("train", {"q": ["a", "b", "a", "c"]})
    names = ["hub:someone/set#q", str(queries), "hub:someone/set#q"]
    (found, sources), (_, all_sources), _ = read(" ".join(names[:2]), " ".join(names), limit=203)
    assert found[:4] == ["a", "b", "c", "what is number 0 of 0"]
    assert [source[:2] for source in sources] == [[names[0], 3], [names[1], 200]]
    assert sources[1][2:4] == [None, None]
    assert all_sources[2][1] == 0


def test_json_lines_and_a_licence_among_the_tags(hub, read):
    records = [{"q": "a", "other": 1}, {"q": "b", "other": 2}]
    hub.files["train.jsonl"] = "\n".join(map(json.dumps, records)).encode()
    hub.about = {"tags": ["task:x", "license:mit", "license:apache-2.0"]}
    found, wrong, _ = read("hub:someone/set#q", "hub:someone/set#other")
    assert found == [["a", "b"], [["hub:someone/set#q", 2, "a" * 40, "mit, apache-2.0", 1.0, None]]]
    assert wrong == (
        "hub:someone/set#other: write a column of texts after a #; there are: q (string), "
        "other (int64)."
    )


def test_what_is_wrong_is_said_before_anything_is_read(hub, read, home):
    hub.add_split("train", {"q": ["a"], "title": ["b"], "id": [1]})
    hub.add_split("train", {"q": [], "id": []}, config="none")
    hub.add_split("train", {"q": [None, " "]}, config="empty")
    there = "write a column of texts after a #; there are: q (string), title (string), id (int64)."
    cases = {
        "hub:someone/set#query": there,
        "hub:someone/set#id": there,
        "hub:someone/set": there,
        "hub:someone/set:test#q": "Bad split: test",
        "hub:someone/set/large#q": "'large' not found",
        "hub:someone/none#q": "no such data set, or it is not open to you.",
        "hub:someone/set/none#q": "write a column of texts",
        "hub:someone/set#q none.tsv": "there is no file none.tsv.",
        "hub:someone/set#q hub:someone/none#q": "no such data set",
    }
    *said, _ = read(*cases)
    for name, sentence, reason in zip(cases, said, cases.values(), strict=True):
        assert isinstance(sentence, str), name
        assert sentence.startswith(name.split()[-1]) or "none.tsv" in name
        assert reason in sentence
    assert not copies(home)
    empty, _ = read("hub:someone/set/empty#q")
    assert empty == "hub:someone/set/empty#q holds no queries."
    hub.close()
    silent, _ = read("hub:someone/set#q")
    assert silent == f"hub:someone/set#q cannot be read: no answer from {hub.url}."


def test_the_hub_is_not_asked_offline():
    with pytest.raises(UserError, match=r"^hub:a/b#q cannot be read: HF_HUB_OFFLINE is set"):
        read_queries(["hub:a/b#q"])
    assert query_source("hub:a/b#q") == "hub:a/b#q"
    assert query_source("./hub:a") == "./hub:a"  # a file
