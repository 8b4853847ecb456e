"""Judgments, ids and indexes as people have them: the right score, or a sentence that says why.

Query i of these collections is answered by document i, whose vector is that of the query.
"""

import decimal
import gzip
import json
import shutil
import uuid

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disret.tables import read_rows

N, D = 8, 8
VECTORS = np.eye(D, dtype=np.float32)[:N]
BACKWARDS = list(range(N))[::-1]
BEIR = "query-id\tcorpus-id\tscore\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("docs.npy", VECTORS)
    rows = [{"text": f"text {n}", "embedding": VECTORS[n].tolist()} for n in range(N)]
    (tmp_path / "q.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


@pytest.fixture
def write(here):
    """Writes a collection and a file of its documents' ids, one a line."""

    def collection(qrels, header=BEIR, query="q{}".format, document="d{}".format, name="set"):
        folder = here / name
        (folder / "qrels").mkdir(parents=True)
        for file, ids in (("corpus", document), ("queries", query)):
            records = [{"_id": ids(n), "text": f"text {n}"} for n in range(N)]
            lines = "".join(f"{json.dumps(record)}\n" for record in records)
            (folder / f"{file}.jsonl").write_text(lines)
        rows = qrels if isinstance(qrels, str) else "".join(f"{row}\n" for row in qrels)
        (folder / "qrels/test.tsv").write_bytes((header + rows).encode())
        (here / "ids.txt").write_text("".join(f"{document(n)}\n" for n in range(N)))
        return folder

    return collection


@pytest.fixture
def score(call, here):
    """nDCG@10 of the document encoder's queries, or what is said, and what is said beside it."""

    def run(*more, index="docs.npy", dataset="./set"):
        (here / "out.csv").unlink(missing_ok=True)
        outcome = call("benchmark", "--datasets", dataset, "--index", index, "--document-encoder",
                       "q.jsonl", "--output", "out.csv", "--device", "cpu", *more)  # fmt: skip
        if outcome.status:
            assert outcome.status == 2, outcome.err
            return outcome.err
        (row,) = read_rows(here / "out.csv")
        return row["NDCG@10"], outcome.err

    return run


IDS = ["--ids", "ids.txt"]
QRELS = {
    "BEIR's": (BEIR, "q{0}\td{0}\t1"),
    "BEIR's, without a header": ("", "q{0}\td{0}\t1"),
    "with a byte order mark": ("\ufeff", "q{0}\td{0}\t1"),
    "TREC's": ("", "q{0} 0 d{0} 1"),
    "TREC's, in tabs": ("", "q{0}\t0\td{0}\t1"),
    "irds/*": ("query_id\tdoc_id\trelevance\titeration\n", "q{0}\td{0}\t1\t0"),
    "in another order": ("score\tcorpus-id\tquery-id\n", "1\td{0}\tq{0}"),
    "of pandas": (BEIR, "q{0}\td{0}\t1.0"),
    "quoted": (BEIR, '"q{0}"\t"d{0}"\t1'),
    "with a tab at the end": (BEIR, "q{0}\td{0}\t1\t"),
    "of Windows": (BEIR.replace("\n", "\r\n"), "q{0}\td{0}\t1\r"),
}


@pytest.mark.parametrize("kind", QRELS)
def test_judgments(write, score, kind):
    header, row = QRELS[kind]
    write([row.format(n) for n in range(N)], header)
    assert score(*IDS)[0] == 1


def test_judgments_whose_documents_are_numbers(write, score):
    """An order of columns that could pass for another."""
    rows = [f"q{n}\t{n}\t1\t0" for n in range(N)]
    write(rows, "query_id\tdoc_id\trelevance\titeration\n", document=str)
    assert score("--ids", "rows")[0] == 1


def test_ids_with_quotes(write, score):
    def quoted(n):
        return f'q"{n}'

    write([f'"q""{n}"\td{n}\t1' for n in range(N)], query=quoted)
    value, said = score(*IDS)
    assert value == 1
    assert "does not have" not in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["q0\td0\t0.5"], "line 2: expected query, document and a grade"),
        (["q0,d0,1"], "line 2: expected query, document and a grade"),
        (["x\td0\t1"], "has no judgment of a known query: it names 'x' and so on, but the queries "
         "are 'q0' and so on"),
        (["q0\tx\t1"], "has no judgment of a known document: it names 'x' and so on, but the "
         "documents are 'd0' and so on"),
    ],
)  # fmt: skip
def test_judgments_that_are_refused(write, score, rows, said):
    write(rows)
    assert said in score(*IDS)


def test_a_document_that_is_judged_twice(write, score):
    write(["q0\td0\t0", "q0\td0\t2", "q1\td1\t1"])
    value, said = score(*IDS)
    assert value == 1
    assert "set: 1 documents are judged twice; the last grade counts." in said


def test_queries_and_documents_that_are_numbered_alike(write, score):
    write([f"{n}\t{n}\t1" for n in range(N)], query=str, document=str)
    value, said = score("--ids", "rows")
    assert value == 0  # as BEIR has it
    assert "BEIR never counts a document that has its query's id as a hit, but 8 of these" in said


def test_hits_that_nobody_judged(write, score, here):
    """The ids are of other documents, as each document's own is one further on."""
    write(["q0\td7\t1"])
    np.save("docs.npy", np.vstack([VECTORS] * 2 + [-VECTORS]))
    ids = [*(f"e{n}" for n in range(16)), *(f"d{n}" for n in range(8)[::-1])]
    (here / "ids.txt").write_text("".join(f"{id}\n" for id in ids))
    value, said = score(*IDS)
    assert value < 0.3
    assert "none of the first 10 hits of any query is in the judgments: hits are 'e" in said
    assert "judged documents 'd7' and so on" in said


def test_a_gzipped_collection(write, score):
    folder = write([f"q{n}\td{n}\t1" for n in range(N)])
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), mtime=0))
        (folder / name).unlink()
    assert score(*IDS)[0] == 1


def test_a_folder_beside_a_data_set(write, score, tmp_path):
    write([f"q{n}\td{n}\t1" for n in range(N)], name="scifact")
    said = score(*IDS, "--mirror", tmp_path, dataset="scifact")
    assert "scifact is BEIR's; the folder that is here is called ./scifact." in said
    assert score(*IDS, dataset="./scifact")[0] == 1


def test_two_folders_of_one_name(write, call, here):
    for part, grade in (("x/a", 1), ("y/a", 0)):
        write([f"q{n}\td{n}\t{grade if n else 1}" for n in range(N)], name=f"{part}/set")
    outcome = call("benchmark", "--datasets", "x/a/set", "y/a/set", "--index", "docs.npy", *IDS,
                   "--document-encoder", "q.jsonl", "--output", "out.csv", "--device", "cpu",
                   "--save-runs", "runs")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert [row["dataset"] for row in read_rows(here / "out.csv")] == ["x-a-set", "y-a-set"]
    assert "x-a-set" in outcome.out
    assert "y-a-set" in outcome.out
    assert len(list((here / "runs").glob("*.trec"))) == 2


# --- Ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "\ufeff" + "".join(f"d{n}\n" for n in range(N))),
        ("ids.txt", "".join(f"d{n}\r\n" for n in range(N)) + "\r\n"),
        ("ids.txt", "docno\n" + "".join(f"d{n}\n" for n in range(N))),
        ("ids.csv", "row,_id\n" + "".join(f"{n},d{n}\n" for n in range(N))),
        ("ids.tsv#2", "".join(f"{n}\td{n}\n" for n in range(N))),
        ("ids.json", json.dumps([f"d{n}" for n in range(N)])),
        ("ids.jsonl#key", "".join(f'{{"key": "d{n}", "id": 1}}\n' for n in range(N))),
    ],
)
def test_files_of_ids(write, score, here, name, content):
    write([f"q{n}\td{n}\t1" for n in range(N)])
    (here / name.partition("#")[0]).write_text(content, encoding="utf-8", newline="")
    assert score("--ids", name)[0] == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ids.txt", "d0\n\nd2\n", "line 2 of ids.txt is ''; it should be a document id"),
        ("ids.tsv", "0\td0\n", "ids.tsv: say which column has the ids, by ids.tsv#COLUMN; there "
         "are: 1 ('0'), 2 ('d0')."),
        ("ids.csv#id", "row,key\n0,d0\n", "ids.csv has no column 'id'; there are: 1 ('row'), 2"),
        ("ids.json", '["d0", 1.5]', "ids.json has document ids of several types"),
    ],
)  # fmt: skip
def test_files_that_are_no_ids(write, score, here, name, content, said):
    write([f"q{n}\td{n}\t1" for n in range(N)])
    (here / name.partition("#")[0]).write_text(content)
    assert said in score("--ids", name)


def test_no_ids_at_all(write, score):
    write([f"q{n}\td{n}\t1" for n in range(N)])
    assert "docs.npy has no document ids; name a file with an id a line, or say rows" in score()


COLUMNS = {
    "id": pa.array(BACKWARDS, pa.int64()),
    "docid": pa.array([str(n) for n in BACKWARDS]),
    "doc_id": pa.array(BACKWARDS, pa.int32()),
    "pid": pa.array([float(n) for n in BACKWARDS], pa.float64()),
    "corpus-id": pa.array([str(n) for n in BACKWARDS]).dictionary_encode(),
    "docno": pa.array([str(n).encode() for n in BACKWARDS], pa.binary()),
    "_id": pa.array([str(n) for n in BACKWARDS], pa.string_view()),
    "ID": pa.array([decimal.Decimal(n) for n in BACKWARDS], pa.decimal128(10, 0)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_ids(write, score, name):
    write([f"q{n}\t{n}\t1" for n in range(N)], document=str)
    vectors = pa.array([VECTORS[n] for n in BACKWARDS], pa.list_(pa.float32()))
    pq.write_table(pa.table({name: COLUMNS[name], "embedding": vectors}), "x.parquet")
    assert score(index="x.parquet")[0] == 1
    pq.write_table(pa.table({"key": COLUMNS[name], "embedding": vectors}), "x.parquet")
    assert score("--ids", "x.parquet#key", index="x.parquet")[0] == 1
    assert "x.parquet has no document ids" in score(index="x.parquet")


def test_an_index_of_pandas(write, score):
    write([f"q{n}\t{n}\t1" for n in range(N)], document=str)
    index = pd.Index([str(n) for n in BACKWARDS], name="docno")
    frame = pd.DataFrame({"embedding": [VECTORS[n] for n in BACKWARDS]}, index=index)
    frame.to_parquet("x.parquet")
    assert score(index="x.parquet")[0] == 1
    frame.rename_axis(None).to_parquet("x.parquet")
    assert "x.parquet has no document ids" in score(index="x.parquet")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([decimal.Decimal(n) / 2 for n in BACKWARDS], pa.decimal128(10, 1)),
        pa.array([uuid.UUID(int=n).bytes for n in BACKWARDS], pa.uuid()),
    ],
    ids=["decimal", "uuid"],
)
def test_columns_that_are_no_ids(write, score, column):
    write([f"q{n}\t{n}\t1" for n in range(N)], document=str)
    vectors = pa.array(list(VECTORS), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": column, "embedding": vectors}), "x.parquet")
    assert "column id of x.parquet has" in score(index="x.parquet")
    assert "values that are no text or whole numbers" in score(index="x.parquet")


def numbered(numbers):
    index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
    index.add_with_ids(VECTORS, np.array(numbers))
    faiss.write_index(index, "x.faiss")


def test_two_meanings_of_the_lines_of_ids(write, score, here):
    """A line for each number of an IDMap, as a service looks them up; else in order of adding."""
    write([f"q{n}\td{n}\t1" for n in range(N)])
    numbered(BACKWARDS)
    (here / "ids.txt").write_text("".join(f"d{n}\n" for n in BACKWARDS))
    value, said = score(*IDS, index="x.faiss")
    assert value == 1
    assert "the line of a document's id is that of the number that the index gives a" in said
    (here / "ids.txt").write_text("".join(f"d{n}\n" for n in range(N)))
    numbered([7 * n + 3 for n in range(N)])
    value, said = score(*IDS, index="x.faiss")
    assert value == 1
    assert "the line of a document's id is that of the order of adding" in said


def test_passages_count_by_their_best(write, score, here):
    """A document of several vectors has the rank of the best of them, and one place."""
    write([f"q{n}\t{n}\t1" for n in range(N)], document=str)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20 * N, D)).astype(np.float32) * 0.1
    index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
    numbers = np.concatenate([np.arange(N), np.tile(np.arange(N), 20)])
    index.add_with_ids(np.concatenate([VECTORS, noise]), numbers)
    faiss.write_index(index, "x.faiss")
    assert score("--save-runs", "runs", index="x.faiss")[0] == 1
    (run,) = (here / "runs").glob("*.trec")
    hits = [line.split() for line in run.read_text().splitlines()]
    assert len({(query, document) for query, _, document, *_ in hits}) == len(hits) == N * N


# --- Indexes --------------------------------------------------------------------------------------


@pytest.fixture
def agree(call, here):
    """Agreement of the vectors with themselves on an index without judgments."""

    def run(index, *more):
        (here / "out.csv").unlink(missing_ok=True)
        texts = "".join(f"text {n}\n" for n in range(N))
        (here / "log.txt").write_text(texts)
        outcome = call("beyond/agree", "--index", index, "--queries", "log.txt", "--output",
                       "out.csv", "--document-encoder", "q.jsonl", "--query-encoder", "q.jsonl",
                       "--device", "cpu", *more)  # fmt: skip
        if outcome.status:
            assert outcome.status == 2, outcome.err
            return outcome.err
        (row,) = read_rows(here / "out.csv")
        return [row[name] for name in ("overlap@10", "overlap@100", "rbo", "first", "cosine")]

    return run


def written(index, vectors, path="x.faiss"):
    index.add(vectors)
    faiss.write_index(index, path)


def test_agreement_needs_no_ids_and_no_score_function(agree):
    long = np.random.default_rng(0).normal(size=(60, D)).astype(np.float32) * 5
    written(faiss.IndexFlatL2(D), long)
    for given in ([], ["--score-function", "dot"], ["--score-function", "cos_sim"]):
        assert agree("x.faiss", *given) == [1] * 5
    long[7] = 0  # an empty document
    written(faiss.IndexFlatIP(D), long)
    assert agree("x.faiss") == [1] * 5
    unit = long / np.maximum(np.linalg.norm(long, axis=1, keepdims=True), 1e-9)
    for index in (faiss.IndexFlatIP(D), faiss.IndexFlatL2(D)):
        written(index, unit)
        assert agree("x.faiss", "--score-function", "cos_sim") == [1] * 5


def test_lists_that_find_fewer_than_ten(agree):
    quantizer = faiss.IndexFlatIP(D)
    quantizer.add(VECTORS)
    index = faiss.IndexIVFFlat(quantizer, D, D, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    written(index, np.repeat(VECTORS, 3, axis=0))
    assert agree("x.faiss") == [1] * 5


@pytest.mark.parametrize("kind", ["flat", "repeated", "lists"])
def test_two_commands_give_one_overlap(agree, call, here, kind):
    """Where search is exact, agree.py and approximate.py say the same of ten documents."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(90, D)).astype(np.float32)
    index = faiss.IndexFlatIP(D)
    if kind == "repeated":
        index = faiss.IndexIDMap(index)
        index.add_with_ids(vectors, np.arange(90) // 3)
    elif kind == "lists":
        index = faiss.index_factory(D, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.nprobe = 2
    if kind != "repeated":
        index.add(vectors)
    faiss.write_index(index, "x.faiss")
    noise = VECTORS + 0.3 * rng.normal(size=VECTORS.shape)
    rows = [{"text": f"text {n}", "embedding": noise[n].tolist()} for n in range(N)]
    (here / "s.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (here / "log.txt").write_text("".join(f"text {n}\n" for n in range(N)))
    common = ["--index", "x.faiss", "--queries", "log.txt", "--document-encoder", "q.jsonl",
              "--query-encoder", "s.jsonl", "--device", "cpu"]  # fmt: skip
    found = []
    for script in ("agree", "approximate"):
        outcome = call(f"beyond/{script}", *common, "--output", f"{script}.csv")
        assert outcome.status == 0, outcome.err
        found.append(read_rows(here / f"{script}.csv")[-1]["overlap@10"])
    assert found[0] == found[1]
    assert 0.2 < found[0] < 1


def test_folders_of_other_tools(agree, call, here):
    written(faiss.IndexFlatL2(D), VECTORS)
    for folder, name in (("langchain", "index.faiss"), ("pyserini", "index")):
        (here / folder).mkdir()
        shutil.copy("x.faiss", here / folder / name)
    (here / "langchain/index.pkl").write_bytes(b"\x80\x04N.")
    (here / "pyserini/docid").write_text("".join(f"d{n}\n" for n in range(N)))
    assert agree("langchain") == agree("pyserini") == [1] * 5
    assert agree("pyserini", "--ids", "pyserini/docid") == [1] * 5
    for folder in ("langchain", "pyserini"):
        outcome = call("beyond/approximate", "--index", folder, "--queries", "log.txt", "--output",
                       "a.csv", "--score-function", "cos_sim", "--document-encoder", "q.jsonl",
                       "--ids", "rows", "--device", "cpu")  # fmt: skip
        assert outcome.status == 0, outcome.err
    assert "q.jsonl: say which column has the ids" in agree("pyserini", "--ids", "q.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.fbin", b"\1\0\0\0\1\0\0\0", "x.fbin has raw vectors, which are not read; save them as"),
        ("x.npz", b"PK\3\4", "x.npz is an archive, such as .xlsx or .npz; save its table as CSV"),
        ("x.jsonl", b'{"id": 1}', "x.jsonl is JSON, such as points of Qdrant; write Parquet"),
        ("x.faiss", b"version https://git-lfs.github.com/spec", "x.faiss is a pointer of Git LFS"),
        ("x.pkl", b"\x80\4N.", "x.pkl is a pickle of Python objects; write Parquet"),
        ("x.faiss", b"words", "x.faiss cannot be read as a FAISS index; it is none, or is cut off"),
    ],
)
def test_what_is_no_index(agree, here, name, content, said):
    (here / name).write_bytes(content)
    assert said in agree(name)


def test_an_array_of_arrays(agree):
    np.save("x.npy", np.array([*VECTORS, None], dtype=object), allow_pickle=True)
    assert "x.npy should be a NumPy array of numbers, but is of Python objects." in agree("x.npy")


def test_runs_of_a_log(agree, here):
    np.save("docs.npy", np.concatenate([VECTORS, -VECTORS]))
    assert agree("docs.npy", "--save-runs", "runs") == [1] * 5
    runs = [path.read_text().split("\n")[0].split() for path in (here / "runs").glob("*.trec")]
    assert runs
    assert runs[0][:3] == ["1", "Q0", "0"]
    assert not [path for path in (here / "runs").iterdir() if " " in path.name or ".." in path.name]


@pytest.mark.parametrize("where", ["own", "parquet", "jsonl", "collection"])
def test_texts_beside_the_ids(agree, write, here, where):
    write(["q0\td0\t1"])
    vectors = pa.array(list(VECTORS), pa.list_(pa.float32()))
    records = [{"_id": f"d{n}", "text": f"all about {n}"} for n in range(N)]
    table = {"_id": [r["_id"] for r in records], "text": [r["text"] for r in records]}
    pq.write_table(pa.table({**table, "embedding": vectors}), "x.parquet")
    (here / "texts.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    (here / "set/corpus.jsonl").write_text((here / "texts.jsonl").read_text())
    given = {"own": ["x.parquet"], "parquet": ["docs.npy", *IDS, "--texts", "x.parquet"],
             "jsonl": ["docs.npy", *IDS, "--texts", "texts.jsonl"],
             "collection": ["docs.npy", *IDS, "--texts", "./set"]}  # fmt: skip
    agree(*given[where], "--worst", "worst")
    (page,) = (here / "worst").glob("*.md")
    assert "✓ d3: all about 3" in page.read_text()
    assert "Rank-biased overlap 1.0000" in page.read_text()
    (here / "log.csv").write_text("a,b\n1,2\n")
    assert "needs a column of ids and one of texts" in agree("docs.npy", "--texts", "log.csv")
    if where != "own":
        more = [*given[where][:1], *given[where][3:], "--worst", "worst"]
        assert "has no text of a document of docs.npy: other ids" in agree(*more)
        assert not (here / "out.csv").exists()


def test_tables_beside_an_index_are_not_its_texts(agree, here):
    """Nothing is named, and some Parquet lies in this folder."""
    pq.write_table(pa.table({"a": [1], "b": [2]}), "other.parquet")
    assert agree("docs.npy") == [1] * 5
    assert agree("docs.npy", "--worst", "worst") == [1] * 5


def test_the_row_is_written_before_the_worst_are(call, here):
    """As the place is taken, say, by then."""
    (here / "log.txt").write_text("".join(f"text {n}\n" for n in range(N)))
    (here / "worst/log.txt.log.q.jsonl.vectors.md").mkdir(parents=True)
    outcome = call("beyond/agree", "--index", "docs.npy", "--queries", "log.txt", "--output",
                   "out.csv", "--document-encoder", "q.jsonl", "--query-encoder", "q.jsonl",
                   "--device", "cpu", "--worst", "worst")  # fmt: skip
    assert outcome.status == 2
    assert len(read_rows(here / "out.csv")) == 1
    assert "Every measure is in out.csv" in outcome.out
