"""BEIR's layout: reading, checking, finding."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from conftest import write_collection

from disret import paths
from disret.command_line import UserError
from disret.data.collection import Collection, default_split, find_collections


def test_reads_what_is_there(collection):
    c = Collection("things", collection)
    c.check_split("test")
    documents = list(c.documents())
    assert [document.id for document in documents] == [f"d{i}" for i in range(60)]
    assert documents[0].text.startswith("title 0 thing 0")
    assert next(c.documents(documents[40].offset)) == documents[40]
    queries = c.queries()
    assert c.qrels("test", queries)["q3"] == {"d3": 1}
    assert c.split_queries("test") == list(queries.values())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"_id": "d60", "text": ', "line 61: not JSON"),
        ('{"text": "no id"}', "line 61: no _id"),
        ('{"_id": 7, "text": "a number"}', "line 61: no _id, or not a text"),
        ('{"_id": "a\\nb", "text": "two lines"}', "line 61: no _id, or not a text of one line"),
        ('["a list"]', "line 61: no _id"),
        (b'{"_id": "d60", "text": "caf\xe9"}', "line 61: not UTF-8 text; save it as UTF-8"),
        ('{"_id": "d5", "text": "again"}', "record 61: a second 'd5'"),
    ],
)
def test_bad_corpus_lines(collection, line, reason):
    with (collection / "corpus.jsonl").open("ab") as file:
        file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(UserError, match=reason):
        list(Collection("things", collection).documents())


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_an_empty_file_is_called_so(collection, name):
    (collection / name).write_bytes(b"")
    found = Collection("things", collection)
    with pytest.raises(UserError, match=rf"{name} is empty\."):
        _ = [*found.documents(), found.judged("test")]


def test_missing_corpus(collection):
    (collection / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match="there is no file"):
        list(Collection("things", collection).documents())


def test_documents_without_title(collection):
    (collection / "corpus.jsonl").write_text('{"_id": "a", "text": "t"}\n')
    documents = Collection("things", collection).documents()
    assert [document.text for document in documents] == ["t"]


def test_judgments_of_the_unknown(collection, capsys):
    with (collection / "qrels" / "test.tsv").open("a") as file:
        file.write("nobody\td1\t1\nq1\tnothing\t1\n")
    c = Collection("things", collection)
    qrels = c.qrels("test", c.queries())
    assert "nobody" not in qrels
    assert qrels["q1"] == {"d1": 1, "nothing": 1}  # counted as not retrieved, as in BEIR
    assert "name 1 queries that" in capsys.readouterr().err
    assert c.judged("test")[1] == qrels
    capsys.readouterr()
    c.check_judged("test", {"q1": {"d1": 1, "nothing": 1}}, ["d1", "d2"])
    assert "name 1 documents that" in capsys.readouterr().err
    with pytest.raises(UserError, match="no judgment of a known query"):
        c.qrels("test", {})
    with pytest.raises(UserError, match="no judgment of a known document"):
        c.check_judged("test", {"q1": {"nothing": 1}}, ["d1"])


def test_malformed_judgment(collection):
    (collection / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\n")
    c = Collection("things", collection)
    with pytest.raises(UserError, match="line 2"):
        c.qrels("test", c.queries())


def test_unknown_split_lists_those_there_are(collection):
    with pytest.raises(UserError, match=r"no split 'dev'; it has: test"):
        Collection("things", collection).check_split("dev")
    (collection / "qrels" / "test.tsv").unlink()
    with pytest.raises(UserError, match=r"no judgments .* a file of queries will do"):
        Collection("things", collection).check_split("dev")


def test_fingerprint_follows_the_content(collection):
    c = Collection("things", collection)
    corpus, everything = c.fingerprint(), c.fingerprint("test")
    with (collection / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\td2\t1\n")
    assert c.fingerprint() == corpus
    assert c.fingerprint("test") != everything


def test_judgments_of_the_same_size_and_time_are_others(collection):
    """As `cp -p` leaves them, within one run."""
    c, path = Collection("things", collection), collection / "qrels" / "test.tsv"
    before, times = c.fingerprint("test"), path.stat()
    content = path.read_text()
    path.write_text(content[:-2] + ("2" if content[-2] == "1" else "1") + content[-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert c.fingerprint("test") != before


def test_parts_are_collections(tmp_path):
    write_collection(tmp_path / "forums" / "cats")
    write_collection(tmp_path / "forums" / "dogs")
    names = [c.name for c in find_collections(str(tmp_path / "forums"))]
    assert names == ["forums/cats", "forums/dogs"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no corpus\.jsonl"):
        find_collections(str(tmp_path / "empty"))


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match="did you mean scifact"):
        find_collections("sci-fact")


def test_splits_of_the_paper():
    assert default_split("msmarco") == "dev"
    assert default_split("scifact") == default_split("things") == "test"


def mirror_of(folder, collection, without=()):
    """A mirror that has the collection as SciFact."""
    (folder / "beir").mkdir(parents=True)
    archive = folder / "beir" / "scifact.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in collection.rglob("*"):
            if file.name not in without:
                zipped.write(file, Path("scifact") / file.relative_to(collection))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  beir/scifact.zip\n")
    return str(folder)


def test_data_set_from_a_mirror(tmp_path, collection):
    (found,) = find_collections("scifact", mirror_of(tmp_path / "mirror", collection))
    assert found.folder == paths.COLLECTIONS / "scifact"
    assert len(list(found.documents())) == 60
    assert json.loads((found.folder / "corpus.jsonl").open().readline())["_id"] == "d0"


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "test.tsv"])
def test_an_archive_that_lacks_a_file_is_not_kept(tmp_path, collection, name):
    bad = mirror_of(tmp_path / "bad", collection, without=[name])
    with pytest.raises(UserError, match=rf"did not hold {name}, so it was not kept"):
        find_collections("scifact", bad)
    (found,) = find_collections("scifact", mirror_of(tmp_path / "good", collection))
    assert len(list(found.documents())) == 60


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("record", "field"),
    [({"contents": "x"}, "text"), ({"query": "x"}, "text"), ({"text": ["x"]}, "text"),
     ({"text": None}, "text"), ({"text": "x", "title": ["y"]}, "title"),
     ({"text": "half \ud800"}, "text")],
)  # fmt: skip
def test_records_without_a_text_are_refused(collection, name, record, field):
    """An empty text would be embedded, and score."""
    with (collection / name).open("a") as file:
        file.write(json.dumps({"_id": "new", **record}) + "\n")
    line = 61 if name == "corpus.jsonl" else 13
    found = Collection("c", collection)
    reason = rf"{name}, line {line}: '{field}' is missing or no text; the keys are _id, "
    with pytest.raises(UserError, match=reason):
        _ = [*found.documents(), found.queries()]


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"_id": "\\ud800", "text": ""}'])
def test_lines_that_are_no_records(collection, line):
    with (collection / "queries.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"queries\.jsonl, line 13: (not JSON|no _id)"):
        Collection("c", collection).queries()


def test_an_empty_document_is_one(collection):
    with (collection / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "", "title": null}\n')
    assert [d.text for d in Collection("c", collection).documents()][-1] == ""


@pytest.mark.parametrize(
    "text",
    [
        "q1\td1\t1\nq2\td2\t2\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n",
        "q1 0 d1 1\nq2 0 d2 2\n",
        "q1\t0\td1\t1\r\nq2\t0\td2\t2\r\n\r\n",
    ],
)
def test_judgments_with_a_header_or_without(collection, text):
    (collection / "qrels" / "test.tsv").write_text(text)
    found = Collection("c", collection)
    assert found.qrels("test", found.queries()) == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert len(found.split_queries("test")) == 2


@pytest.mark.parametrize("grade", ["1.5", "many", "9" * 30, ""])
def test_a_grade_is_a_whole_number(collection, grade):
    (collection / "qrels" / "test.tsv").write_text(f"qid\tdid\trel\nq1\td1\t1\nq1\td2\t{grade}\n")
    found = Collection("c", collection)
    with pytest.raises(UserError, match="line 3: expected query, document and a grade"):
        found.qrels("test", found.queries())


@pytest.mark.parametrize("grade", [0, -1])
def test_judgments_of_which_none_is_relevant(collection, grade):
    """Every score would be 0."""
    (collection / "qrels" / "test.tsv").write_text(f"q1\td1\t{grade}\nq2\td2\t{grade}\n")
    found = Collection("c", collection)
    with pytest.raises(UserError, match="c has no judgment above 0 in its split test"):
        found.qrels("test", found.queries())


@pytest.mark.parametrize("line", ["q1 0 d1 x", "h\th\th", "q1\td1\t", "query\td1\tscores"])
def test_a_first_line_of_no_names_is_no_header(collection, line):
    (collection / "qrels" / "test.tsv").write_text(f"{line}\nq1\td2\t1\n")
    found = Collection("c", collection)
    with pytest.raises(UserError, match=r"line 1: expected query, document .*, or a first line of"):
        found.qrels("test", found.queries())


def test_a_path_is_a_path(tmp_path, monkeypatch):
    """A folder here, though a collection of that name lies under benchmarks/raw."""
    write_collection(paths.COLLECTIONS / "mine")
    here = write_collection(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("./mine", "mine/", str(here), "../" + tmp_path.name + "/mine"):
        (found,) = find_collections(name)
        assert found.folder == here, name
    (found,) = find_collections("mine")
    assert found.folder == paths.COLLECTIONS / "mine"


def test_fingerprints_name_what_is_on_disk(collection):
    """Of the files' digests: another rule would build every index anew."""
    names = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    digests = [hashlib.sha256((collection / name).read_bytes()).digest() for name in names]
    found = Collection("things", collection)
    assert found.fingerprint() == hashlib.sha256(digests[0]).hexdigest()
    assert found.fingerprint("test") == hashlib.sha256(b"".join(digests)).hexdigest()


@pytest.mark.real
def test_real_data_sets(real_mirror):
    for name, documents, judgments in (("scifact", 5183, 339), ("nfcorpus", 3633, 12334)):
        (c,) = find_collections(name, real_mirror)
        assert sum(1 for _ in c.documents()) == documents
        qrels = c.qrels("test", c.queries())
        assert sum(map(len, qrels.values())) == judgments
