"""What reads files, on inputs that nobody thought of: it reads what was written, or says no."""

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from steady import steady

from disret.command_line import UserError
from disret.data.collection import Collection
from disret.data.queries import read_queries
from disret.data.text_files import GRADES, IDS, NUMBER, QUERY_IDS, TEXTS, named
from disret.files import read_record, write_json
from disret.query_encoder import ExportError, QueryEncoder
from disret.tables import read_rows, read_runs, write_rows

settings.register_profile("tests", steady, max_examples=150)
settings.load_profile("tests")

letters = st.characters(exclude_categories=["Cs"])  # no halves of surrogate pairs
texts = st.text(letters)
lines = st.text(letters, min_size=1).filter(lambda text: not set(text) & set("\r\n\t"))
# A file of which a quarter are NUL is none of text, and one may begin as another kind does.
queries = lines.filter(lambda text: text.strip() and not text.startswith(("\ufeff", "{", "[")))
queries = queries.filter(lambda text: "\0" not in text)
# Nor may it be called as columns are, which no first line of a table without names is.
queries = queries.filter(lambda text: named(text) not in {*TEXTS, *IDS, *QUERY_IDS, *GRADES})
ids = lines.filter(lambda text: text.strip())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
# Objects that are nearly right.
records = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("_id", "text", "title", "query"), anything | texts)
)


def fill(folder: Path, corpus: bytes = b"", queries: bytes = b"", qrels: bytes = b"") -> Collection:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(corpus)
    (folder / "queries.jsonl").write_bytes(queries)
    (folder / "qrels" / "test.tsv").write_bytes(qrels)
    return Collection("c", folder)


def json_lines(values) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


# --- Queries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".txt", ".jsonl.gz"])
@given(wanted=st.lists(queries, min_size=1))
def test_queries_are_read_as_they_were_written(tmp_path, suffix, wanted):
    write = {
        ".tsv": lambda text: f"7\t{text}",
        ".jsonl": lambda text: json.dumps({"text": text}),
        ".txt": str,
        ".jsonl.gz": lambda text: json.dumps({"text": text}, ensure_ascii=False),
    }[suffix]
    assume(suffix != ".tsv" or not all(NUMBER.fullmatch(text.strip()) for text in wanted))
    content = "".join(f"{write(text)}\n" for text in wanted).encode()
    path = tmp_path / f"q{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert read_queries([path]) == [text.strip() for text in wanted]


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".txt", ".txt.gz"])
@given(content=st.binary() | records.map(lambda value: json_lines([value])))
def test_any_file_of_queries_is_read_or_refused(tmp_path, suffix, content):
    path = tmp_path / f"q{suffix}"
    path.write_bytes(content)
    with suppress(UserError):
        found = read_queries([path])
        assert found
        assert all(text and text == text.strip() and text.encode() for text in found)


# --- Collections --------------------------------------------------------------------------------


@given(wanted=st.dictionaries(ids, st.tuples(texts, texts), min_size=1), ascii=st.booleans())
def test_a_collection_is_read_as_it_was_written(tmp_path, wanted, ascii):
    content = "".join(
        json.dumps({"_id": key, "title": title, "text": text}, ensure_ascii=ascii) + "\n\n"
        for key, (title, text) in wanted.items()
    ).encode()
    collection = fill(tmp_path, content, content)
    found = list(collection.documents())
    assert {doc.id: doc.text for doc in found} == {
        key: f"{title} {text}".strip() for key, (title, text) in wanted.items()
    }
    assert collection.queries() == {key: text for key, (_, text) in wanted.items()}
    for document in found:  # an offset is where its document begins
        assert next(collection.documents(document.offset)) == document


@given(content=st.binary() | st.lists(records | anything).map(json_lines))
def test_any_corpus_is_read_or_refused(tmp_path, content):
    with suppress(UserError):
        found = list(fill(tmp_path, content).documents())
        assert len({document.id for document in found}) == len(found)
        assert all(
            document.id.encode() and not set(document.id) & set("\r\n") for document in found
        )
        assert all(isinstance(document.text.encode(), bytes) for document in found)


@given(
    wanted=st.dictionaries(
        ids, st.dictionaries(ids, st.integers(-999, 999), min_size=1), min_size=1, max_size=5
    ),
    layout=st.sampled_from(["header", "no header", "trec"]),
)
def test_judgments_are_read_as_they_were_written(tmp_path, wanted, layout):
    between = "\t0\t" if layout == "trec" else "\t"
    rows = [f"{quoted(query)}{between}{quoted(document)}\t{grade}"
            for query, grades in wanted.items() for document, grade in grades.items()]  # fmt: skip
    assume(any(grade > 0 for grades in wanted.values() for grade in grades.values()))
    header = ["query-id\tcorpus-id\tscore"] if layout == "header" else []
    collection = fill(tmp_path, qrels="\n".join([*header, *rows]).encode())
    assert collection.qrels("test", dict.fromkeys(wanted, "")) == wanted


def quoted(id: str) -> str:
    """As CSV writes it, where it must."""
    return '"{}"'.format(id.replace('"', '""')) if id.startswith('"') else id


@given(
    content=st.binary()
    | st.lists(st.text(alphabet="01ab\t \n-.")).map(lambda t: "\n".join(t).encode())
)
def test_any_judgments_are_read_or_refused(tmp_path, content):
    collection = fill(tmp_path, qrels=content)
    known = {query: "" for query, _, _ in _tolerant(collection)}
    with suppress(UserError):
        found = collection.qrels("test", known)
        grades = [grade for documents in found.values() for grade in documents.values()]
        assert grades
        assert all(type(grade) is int and abs(grade) < 10**9 for grade in grades)


def _tolerant(collection: Collection):
    with suppress(UserError):
        yield from collection._judgments("test")


# --- Manifests, settings, tables ----------------------------------------------------------------


@given(value=anything, needed=st.dictionaries(texts, st.sampled_from([int, str, dict, list])))
def test_a_record_has_what_is_needed_or_is_none(tmp_path, value, needed):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    found = read_record(path, needed)
    if found is not None:
        assert all(isinstance(found[name], kind) for name, kind in needed.items())


@given(value=st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none()))
def test_a_record_is_read_as_it_was_written(tmp_path, value):
    write_json(tmp_path / "x.json", value)
    assert read_record(tmp_path / "x.json", {}) == value


@given(content=st.binary() | anything.map(lambda value: json.dumps(value).encode()))
def test_any_settings_of_an_export_are_refused(tmp_path, content):
    (tmp_path / "query_encoder.json").write_bytes(content)
    with pytest.raises(ExportError):
        QueryEncoder.from_pretrained(tmp_path)


columns = st.lists(lines.filter(lambda name: "@" not in name and "retention" not in name),
                   min_size=1, max_size=4, unique=True)  # fmt: skip
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@given(data=st.data(), names=columns)
def test_a_table_is_read_as_it_was_written(tmp_path, data, names):
    """Texts as they are, numbers as numbers, an empty cell as none."""
    rows = data.draw(st.lists(st.fixed_dictionaries({
        **{f"x{name}": cells for name in names},
        "NDCG@10": st.none() | st.floats(0, 1),
        "documents": st.integers(0, 10**9),
    }), min_size=1, max_size=4))  # fmt: skip
    write_rows(tmp_path / "t.csv", rows)
    assert read_rows(tmp_path / "t.csv") == [
        {name: None if value == "" else value for name, value in row.items()} for row in rows
    ]


@given(content=st.binary() | st.text("a,1.\n\"'\r@", min_size=1).map(str.encode))
def test_any_table_is_read_or_refused(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with suppress(UserError):
        for row in read_rows(tmp_path / "t.csv"):
            assert all(value is None or isinstance(value, str | float | int)
                       for value in row.values())  # fmt: skip


@given(content=st.binary() | anything.map(lambda value: json.dumps(value).encode()))
def test_any_list_of_runs_is_read_or_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with suppress(UserError):
        assert isinstance(read_runs(tmp_path / "r.json"), list)
