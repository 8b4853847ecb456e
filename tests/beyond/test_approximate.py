"""What an approximate index finds of exact search, counted by hand, and the command around it."""

import faiss
import numpy as np
import pytest
from conftest import as_rank_0_of, load, write_collection
from flat_index import make_index, points, unit
from tiny import save_encoder

from disret import paths
from disret.encode.service import FIXED_TEXTS
from disret.encode.timings import Timings
from disret.retrieve.approximate import open_approximate, parse_settings
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.foreign import open_foreign
from disret.tables import read_rows

command = load("beyond/approximate")
D, N, K = 32, 1500, 10


class Known:
    """An encoder of vectors that are known; it notes what it is asked for one by one."""

    def __init__(self, is_local=False):
        self.is_local, self.asked = is_local, []

    def run(self, queries, batch_size):
        self.asked += queries
        assert batch_size == 1


def task_of(count, qrels=None, prefix="\n"):
    """Queries of a log, or with a prefix those of a collection."""
    queries = {f"{prefix}{number}": f"query {number}" for number in range(count)}
    return command.Task("things", "test", "", queries, qrels or {}, None)


def measure(documents, index, vectors, settings=("",), task=None, encoders=None):
    """The rows of each encoder; its queries in the documents, exactly, and in the index."""
    vectors = np.stack(vectors)
    task = task or task_of(vectors.shape[1])
    encoders = encoders or [Known() for _ in vectors]
    exact = command.exact_runs(documents, index, task, vectors, "cpu")
    settings = parse_settings(list(filter(None, settings)))
    return command.measure(index, documents.ids(), task, encoders, vectors, exact, settings, 1)


def shared(found, best):
    pairs = zip(found, best, strict=True)
    return np.mean([len(np.intersect1d(some, right)) / K for some, right in pairs])


def recall(found, queries, vectors):
    """The share of hits that score like the tenth best or better."""
    products = queries @ vectors.T
    tenth = np.sort(products, axis=1)[:, -K, None]
    values = np.where(found >= 0, np.take_along_axis(products, found, 1), -1)
    return (values >= tenth - 1e-4).mean()


@pytest.fixture
def vectors():
    return points(0, N)


@pytest.fixture
def two():
    """The queries of a teacher, and of a student that misses them by a little."""
    teacher = points(1, 50)
    return teacher, unit(teacher + 0.1 * points(2, 50))


def built(tmp_path, vectors, kind):
    flat = make_index(tmp_path / "flat", vectors)
    return flat, open_approximate(flat, kind, "cos_sim", Timings())


@pytest.mark.parametrize(
    "kind, words, labels",
    [("HNSW16", "efSearch=1,8,500", ["efSearch 1", "efSearch 8", "efSearch 500"]),
     ("IVF32,Flat", "nprobe=1,4,32", ["nprobe 1", "nprobe 4", "nprobe 32"]),
     ("RaBitQ,RFlat", "k_factor_rf=1,4,60", ["k_factor_rf 1", "k_factor_rf 4", "k_factor_rf 60"])],
)  # fmt: skip
def test_recall_and_overlap_are_those_counted_by_hand(tmp_path, vectors, two, kind, words, labels):
    flat, index = built(tmp_path, vectors, kind)
    rows = measure(flat, index, two, [words])
    best = np.argsort(-(two[0] @ vectors.T), axis=1)[:, :K]
    plain = faiss.read_index(str(index.path))
    for own, of_one in zip(two, rows, strict=True):
        assert [row["setting"] for row in of_one] == labels
        for row, setting in zip(of_one, parse_settings([words]), strict=True):
            for name, value in setting.items():
                faiss.ParameterSpace().set_index_parameter(plain, name, value)
            found = plain.search(own, K)[1]
            assert row["recall@10"] == pytest.approx(recall(found, own, vectors), abs=1e-4)
            assert row["overlap@10"] == pytest.approx(shared(found, best), abs=1e-4)
            assert row["NDCG@10"] is None
        recalls = [row["recall@10"] for row in of_one]
        assert recalls[0] < recalls[1] < recalls[2] == 1
    assert rows[0][-1]["overlap@10"] == 1
    assert 0.3 < rows[1][-1]["overlap@10"] < 0.9


def test_what_ties_with_the_tenth_counts(tmp_path, vectors):
    """Exact search takes the last ten of twenty documents that score all but alike."""
    query = points(3, 1)
    vectors[:20] = query * np.linspace(0.99999, 1, 20, dtype=np.float32)[:, None]
    flat, index = built(tmp_path, vectors, "SQ4")
    found = set(index.search(query, K)[1].ravel().tolist())
    assert found <= set(range(20))
    ((row,),) = measure(flat, index, [query])
    assert row["setting"] == "the defaults"
    assert row["recall@10"] == 1
    assert row["overlap@10"] == len(found & set(range(10, 20))) / 10 < 1


def test_a_query_is_not_its_own_hit(tmp_path, vectors):
    """As in ArguAna: recall, overlap and nDCG are of the ten others."""
    flat, index = built(tmp_path, vectors, "HNSW32")
    best = np.argsort(-(vectors[:20] @ vectors.T), axis=1)
    qrels = {f"d{row}": {f"d{best[row, 10]}": 1} for row in range(20)}  # the tenth of the others
    judged = task_of(20, qrels, prefix="d")
    ((row,),) = measure(flat, index, [vectors[:20]], ["efSearch=1000"], judged)
    assert (row["recall@10"], row["overlap@10"]) == (1, 1)
    assert row["NDCG@10"] == pytest.approx(1 / np.log2(11), abs=1e-4)
    # A query of a log is no document.
    ((row,),) = measure(flat, index, [vectors[:20]], ["efSearch=1000"])
    assert (row["recall@10"], row["NDCG@10"]) == (1, None)


@pytest.mark.parametrize(
    "kind, has_vectors", [("HNSW4", True), ("IVF32,Flat", True), ("SQ8", False)]
)
def test_an_index_that_is_there_is_compared_with_its_own_vectors(
    tmp_path, vectors, two, kind, has_vectors
):
    made = faiss.index_factory(D, kind, faiss.METRIC_INNER_PRODUCT)
    made.train(vectors)
    made.add(vectors)
    faiss.write_index(made, str(tmp_path / "x.faiss"))
    documents = open_foreign(tmp_path / "x.faiss", "rows", D, "cos_sim")
    rows = measure(documents, FaissFile(tmp_path / "x.faiss"), two)
    for (row,), own in zip(rows, two, strict=True):
        if has_vectors:
            wanted = recall(made.search(own, K)[1], own, vectors)
            assert row["recall@10"] == pytest.approx(wanted, abs=1e-4)
        else:
            assert (row["recall@10"], row["overlap@10"]) == (None, None)


def test_single_queries_are_timed(tmp_path, vectors, two, monkeypatch):
    """After a warm-up; an encoder elsewhere is not asked."""
    monkeypatch.setattr("disret.encode.timings.WARM_UP", 3)
    monkeypatch.setattr(command, "TIMED", 20)
    flat, index = built(tmp_path, vectors, "HNSW8")
    here, elsewhere = Known(is_local=True), Known()
    before = faiss.omp_get_max_threads()
    of_here, of_elsewhere = measure(flat, index, two, ["efSearch=4,8"], encoders=[here, elsewhere])
    assert here.asked == [f"query {n}" for n in (0, 1, 2, *range(20))]
    assert elsewhere.asked == []
    for row in of_here:
        assert row["encode_ms"] > 0
        assert row["total_ms"] >= row["search_ms"] > 0
        assert row["threads"] == 1
    for row in of_elsewhere:
        assert (row["encode_ms"], row["total_ms"]) == (None, None)
        assert row["search_ms"] > 0
    assert faiss.omp_get_max_threads() == before


def test_fewer_documents_than_hits(tmp_path, vectors, two):
    flat, index = built(tmp_path, vectors[:6], "HNSW8")
    ((row,),) = measure(flat, index, two[:1])
    assert (row["recall@10"], row["overlap@10"]) == (1, 1)


# --- The answers --------------------------------------------------------------------------------


def rows_of(encoder, recalls, encode=10.0, search=(1.0, 2.0, 4.0)):
    """An encoder's rows at efSearch 16, 32 and 64."""
    return [
        {"dataset": "things", "index": "HNSW8", "query_encoder": encoder, "query_backend": "torch",
         "setting": f"efSearch {16 << step}", "recall@10": recall, "encode_ms": encode,
         "search_ms": search[step], "total_ms": None if encode is None else encode + search[step]}
        for step, recall in enumerate(recalls)
    ]  # fmt: skip


def answers(*rows):
    return list(command.answers(*rows))


def test_the_answer():
    """At the teacher's first setting of 0.95 or more."""
    teacher, student = rows_of("T", (0.9, 0.9784, 0.99)), rows_of("S", (0.8, 0.93, 0.9782), 0.5)
    assert answers(teacher, student) == [
        "things, HNSW8, S: reaches the teacher's recall@10 at efSearch 32 (0.978) with efSearch "
        "64; encoding is 20x as fast, encoding and search together 2.67x."
    ]


def test_a_range_that_does_not_reach():
    """A teacher that finds less than 0.95 is taken where it finds most."""
    (line,) = answers(rows_of("T", (0.5, 0.9)), rows_of("S", (0.3, 0.7), 1.0))
    assert line == (
        "things, HNSW8, S: does not reach the teacher's recall@10 at efSearch 32 (0.900) with what "
        "was tried: 0.700 with efSearch 32; encoding is 10x as fast, encoding and search together "
        "4x."
    )


def test_what_was_not_timed_or_cannot_be_known():
    """A service's time is not its own, and codes do not tell what exact search finds."""
    (line,) = answers(rows_of("T", (0.96,), None), rows_of("S", (0.97,), 1.0))
    assert line.endswith("(0.960) with efSearch 16.")
    (line,) = answers(rows_of("T", (None,)), rows_of("S", (None,)))
    assert line == (
        "things, HNSW8: recall@10 cannot be measured, as the index does not hold whole vectors."
    )
    assert answers(rows_of("T", (0.9, 0.95))) == []  # nobody to answer for


# --- The command --------------------------------------------------------------------------------


@pytest.fixture
def student(tmp_path):
    return save_encoder(tmp_path / "student", layers=2, seed=1)


@pytest.fixture
def arguments(teacher, tmp_path):
    collection = write_collection(tmp_path / "many", documents=600, queries=40)
    return ["--datasets", collection, "--document-encoder", teacher, "--output",
            tmp_path / "r.csv", "--score-function", "cos_sim", "--dtype", "float32",
            "--index-dtype", "float32", "--device", "cpu"]  # fmt: skip


GRAPH = ["--extension", "HNSW4", "--search-parameters", "efSearch=1000,1"]
MEASURED = ("query_encoder", "setting", "recall@10", "NDCG@10", "overlap@10")


def measured(rows):
    return [[row[name] for name in MEASURED] for row in rows]


def test_how_far_a_graph_must_be_searched(call, arguments, student, teacher, tmp_path):
    """Of the vectors of the flat index, with every encoder and setting."""
    outcome = call("beyond/approximate", *arguments, *GRAPH, "--query-encoder", student)
    assert outcome.status == 0, outcome.err
    place = arguments.index("--output") + 1
    scored = [*arguments[:place], tmp_path / "exact.csv", *arguments[place + 1 :]]
    assert call("benchmark", *scored, "--query-encoder", student).status == 0
    table = tmp_path / "r.csv"
    rows = read_rows(table)
    assert [(row["query_encoder"], row["setting"]) for row in rows] == [
        (str(name), f"efSearch {value}") for name in (teacher, student) for value in (1, 1000)
    ]
    for few, many in zip(rows[::2], rows[1::2], strict=True):
        assert few["recall@10"] < many["recall@10"]
    for many, exact in zip(rows[1::2], read_rows(tmp_path / "exact.csv"), strict=True):
        assert many["recall@10"] > 0.9
        assert many["NDCG@10"] == pytest.approx(exact["NDCG@10"], abs=0.05)
        if many["recall@10"] == 1:
            assert many["NDCG@10"] == pytest.approx(exact["NDCG@10"], abs=2e-3)
    assert rows[1]["overlap@10"] > rows[3]["overlap@10"]
    for row in rows:
        assert (row["index"], row["dataset"], row["index_dtype"]) == ("HNSW4", "many", "float32")
        assert row["encode_ms"] > 0
        assert row["total_ms"] >= row["search_ms"] > 0
        assert (row["documents"], row["queries"], row["threads"]) == (600, 40, 1)
    assert f"many, HNSW4, {student}: " in outcome.out
    assert "the teacher's recall@10 at efSearch 1000 (" in outcome.out
    assert f"Every setting is in {table}." in outcome.out

    (file,) = paths.INDEXES.rglob("HNSW4.*.index")
    before = file.stat().st_mtime_ns
    again = call("beyond/approximate", *arguments, *GRAPH, "--query-encoder", student)
    assert again.status == 0, again.err
    assert file.stat().st_mtime_ns == before
    assert measured(read_rows(table)[4:]) == measured(rows)

    own = ["--index", file, "--ids", file.parent / "ids.txt", *GRAPH[2:]]
    arguments[place] = tmp_path / "own.csv"
    outcome = call("beyond/approximate", *arguments, *own, "--query-encoder", student)
    assert outcome.status == 0, outcome.err
    assert measured(read_rows(tmp_path / "own.csv")) == measured(rows)


def test_a_log(call, arguments, student, tmp_path):
    call("beyond/approximate", *arguments, *GRAPH)
    (file,) = paths.INDEXES.rglob("HNSW4.*.index")
    (tmp_path / "log.tsv").write_text("1\tsmall red thing\n2\tlarge thing 3\n3\told thing\n")
    arguments[:2] = ["--queries", tmp_path / "log.tsv"]
    arguments[arguments.index("--output") + 1] = tmp_path / "log.csv"
    outcome = call(
        "beyond/approximate",
        *arguments,
        "--index",
        file,
        "--ids",
        "rows",
        *GRAPH[2:],
        "--query-encoder",
        student,
    )
    assert outcome.status == 0, outcome.err
    rows = read_rows(tmp_path / "log.csv")
    assert {(row["dataset"], row["split"], row["NDCG@10"]) for row in rows} == {
        ("log.tsv", "log", None)
    }
    assert rows[1]["recall@10"] == rows[1]["overlap@10"] == 1


def test_a_service_is_not_timed(call, owner, tmp_path):
    """With the index as it is; the service's own time is not measured, nor is it asked twice."""
    before = (tmp_path / "documents.faiss").read_bytes()
    outcome = call(
        "beyond/approximate", "--queries", "held-out.tsv", "--index", "documents.faiss", "--ids",
        "ids.txt", "--document-encoder", f"{owner.address}#tiny", "--query-encoder", "small",
        "--score-function", "cos_sim", "--search-parameters", "efSearch=1,400", "--output", "r.csv",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "documents.faiss").read_bytes() == before
    rows = read_rows(tmp_path / "r.csv")
    assert [row["setting"] for row in rows] == 2 * ["efSearch 1", "efSearch 400"]
    for few, many in (rows[:2], rows[2:]):
        assert few["recall@10"] < many["recall@10"]
        assert few["index"] == "documents.faiss"
    assert rows[1]["overlap@10"] == pytest.approx(rows[1]["recall@10"], abs=0.01)
    assert [row["encode_ms"] is None for row in rows] == [True, True, False, False]
    assert "held-out.tsv, documents.faiss, small: " in outcome.out
    assert "as fast" not in outcome.out
    assert {n for text, n in owner.texts.items() if text not in FIXED_TEXTS} == {1}


def test_parts_one_by_one(call, arguments, tmp_path):
    for forum in ("cats", "dogs"):
        write_collection(tmp_path / "forums" / forum)
    arguments[1] = tmp_path / "forums"
    kind = ["--extension", "SQ4,RFlat", "--search-parameters", "k_factor_rf=1,4"]
    outcome = call("beyond/approximate", *arguments, *kind)
    assert outcome.status == 0, outcome.err
    found = [(row["dataset"], row["setting"]) for row in read_rows(tmp_path / "r.csv")]
    assert found == [(f"forums/{forum}", f"k_factor_rf {value}")
                     for forum in ("cats", "dogs") for value in (1, 4)]  # fmt: skip
    outcome = call("beyond/approximate", *arguments, "--index", "x.faiss")
    assert outcome.status == 2
    assert "an index is of one data set without parts" in outcome.err


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--extension", "Foo"], "FAISS makes no index 'Foo' of 32 dimensions"),
        (["--extension", "PQ7"], "multiple of the number of subquantizers"),
        (["--extension", "SQ8", *GRAPH[2:]], "SQ8 (IndexScalarQuantizer) has no parameter efSear"),
        (["--extension", "HNSW8", "--search-parameters", "efSearch=x"], "'efSearch=x' is not NAME"),
        (["--extension", "HNSW8", "--index", "x"], "not allowed with argument"),
        (GRAPH[2:], "one of the arguments --extension --index is required"),
        (["--extension", "HNSW8", "--threads", 0], "must be from 1 to 1024"),
        (["--extension", "HNSW8", "--output", "/proc/x.csv"], "cannot write to"),
        (["--index", "x.faiss"], "there is no file x.faiss"),
        (["--index", "."], "is a directory"),
    ],
)  # fmt: skip
def test_what_cannot_be(call, arguments, extra, reason):
    """Refused before a document is encoded."""
    outcome = call("beyond/approximate", *arguments, *extra)
    assert outcome.status == 2
    assert reason in outcome.err
    assert not list(paths.HOME.rglob("*.faiss"))


def test_a_student_of_another_dimension(call, arguments, tmp_path):
    other = save_encoder(tmp_path / "other", dense=16)
    outcome = call("beyond/approximate", *arguments, *GRAPH, "--query-encoder", other)
    assert outcome.status == 2
    assert "gives 16 dimensions" in outcome.err


def test_single_queries_are_not_timed_under_torchrun(call, arguments, monkeypatch):
    as_rank_0_of(monkeypatch, 2)
    outcome = call("beyond/approximate", *arguments, *GRAPH)
    assert outcome.status == 2
    assert "timed by one process, without torchrun" in outcome.err
