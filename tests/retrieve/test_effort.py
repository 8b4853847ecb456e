"""What an approximate index finds of exact search, with the hits counted by hand."""

import faiss
import numpy as np
import pytest
from flat_index import make_index, points, unit

from disret.encode.timings import Timings
from disret.retrieve.approximate import open_approximate
from disret.retrieve.effort import DEPTH, measure
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.foreign import open_foreign
from disret.retrieve.hits import Hits
from disret.retrieve.search import search
from disret.retrieve.settings import DEFAULTS, parse_settings
from disret.retrieve.tasks import Target

D, N, K = 32, 1500, 10


class Known:
    """An encoder of vectors that are known; it notes what it is asked for one by one."""

    name = "known"

    def __init__(self, is_local=False):
        self.is_local, self.asked = is_local, []

    def run(self, queries, batch_size):
        self.asked += queries
        assert batch_size == 1


def hits_in(target, vectors):
    if hasattr(target.index, "search"):
        return Hits(vectors, *target.index.search(vectors, DEPTH + 1))
    return Hits(vectors, *search(target.index, vectors, DEPTH + 1, "cpu"))


def target_of(index, count, qrels=None, prefix="q"):
    queries = {f"{prefix}{number}": f"query {number}" for number in range(count)}
    return Target("things", queries, qrels or {}, index, None)


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


@pytest.mark.parametrize(
    "kind, words",
    [("HNSW16", "efSearch=1,8,500"), ("IVF32,Flat", "nprobe=1,4,32"),
     ("RaBitQ,RFlat", "k_factor_rf=1,4,60")],
)  # fmt: skip
def test_recall_and_overlap_are_those_counted_by_hand(tmp_path, vectors, two, kind, words):
    flat = make_index(tmp_path / "flat", vectors)
    index = open_approximate(flat, kind, "cos_sim", Timings())
    target = target_of(flat, 50)
    encoders = Known(), Known()
    hits = {each: hits_in(target, own) for each, own in zip(encoders, two, strict=True)}
    settings = parse_settings([words])
    rows = measure(index, target, hits, settings, 1)
    best = np.argsort(-(two[0] @ vectors.T), axis=1)[:, :K]
    plain = faiss.read_index(str(index.path))
    for encoder, own in zip(encoders, two, strict=True):
        assert [row["setting"] for row in rows[encoder]] == [s.label for s in settings]
        for row, setting in zip(rows[encoder], settings, strict=True):
            for name, value in setting.parameters.items():
                faiss.ParameterSpace().set_index_parameter(plain, name, value)
            found = plain.search(own, K)[1]
            assert row["recall@10"] == pytest.approx(recall(found, own, vectors), abs=1e-4)
            assert row["overlap@10"] == pytest.approx(shared(found, best), abs=1e-4)
            assert row["NDCG@10"] is None
        recalls = [row["recall@10"] for row in rows[encoder]]
        assert recalls[0] < recalls[1] < recalls[2] == 1
    assert rows[encoders[0]][-1]["overlap@10"] == 1
    assert 0.3 < rows[encoders[1]][-1]["overlap@10"] < 0.9


def test_what_ties_with_the_tenth_counts(tmp_path, vectors):
    """Exact search takes the last ten of twenty documents that score all but alike."""
    query = points(3, 1)
    vectors[:20] = query * np.linspace(0.99999, 1, 20, dtype=np.float32)[:, None]
    flat = make_index(tmp_path / "flat", vectors)
    index = open_approximate(flat, "SQ4", "cos_sim", Timings())
    target = target_of(flat, 1)
    hits = {Known(): hits_in(target, query)}
    found = set(index.search(query, K)[1].ravel().tolist())
    assert set(next(iter(hits.values())).rows[0, :K].tolist()) == set(range(10, 20))
    assert found <= set(range(20))
    ((row,),) = measure(index, target, hits, [DEFAULTS], 1).values()
    assert row["recall@10"] == 1
    assert row["overlap@10"] == len(found & set(range(10, 20))) / 10 < 1


def test_a_query_is_not_its_own_hit(tmp_path, vectors):
    """As in ArguAna: recall, overlap and nDCG are of the ten others."""
    flat = make_index(tmp_path / "flat", vectors)
    index = open_approximate(flat, "HNSW32", "cos_sim", Timings())
    best = np.argsort(-(vectors[:20] @ vectors.T), axis=1)
    qrels = {f"d{row}": {f"d{best[row, 10]}": 1} for row in range(20)}  # the tenth of the others
    judged = target_of(flat, 20, qrels, prefix="d")
    hits = {Known(): hits_in(judged, vectors[:20])}
    settings = parse_settings(["efSearch=1000"])
    ((row,),) = measure(index, judged, hits, settings, 1).values()
    assert (row["recall@10"], row["overlap@10"]) == (1, 1)
    assert row["NDCG@10"] == pytest.approx(1 / np.log2(11), abs=1e-4)
    # The numbers of a log's queries are no documents'.
    ((row,),) = measure(index, judged._replace(qrels={}), hits, settings, 1).values()
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
    target = target_of(open_foreign(tmp_path / "x.faiss", "rows", D, "cos_sim"), 50)
    hits = {Known(): hits_in(target, own) for own in two}
    rows = list(measure(FaissFile(tmp_path / "x.faiss"), target, hits, [DEFAULTS], 1).values())
    for (row,), own in zip(rows, two, strict=True):
        if has_vectors:
            wanted = recall(made.search(own, K)[1], own, vectors)
            assert row["recall@10"] == pytest.approx(wanted, abs=1e-4)
        else:
            assert (row["recall@10"], row["overlap@10"]) == (None, None)


def test_single_queries_are_timed(tmp_path, vectors, two, monkeypatch):
    """After a warm-up; an encoder elsewhere is not asked."""
    from disret.retrieve import effort

    monkeypatch.setattr(effort, "WARM_UP", 3)
    monkeypatch.setattr(effort, "TIMED", 20)
    flat = make_index(tmp_path / "flat", vectors)
    index = open_approximate(flat, "HNSW8", "cos_sim", Timings())
    target = target_of(flat, 50)
    here, elsewhere = Known(is_local=True), Known()
    hits = {each: hits_in(target, own) for each, own in zip((here, elsewhere), two, strict=True)}
    before = faiss.omp_get_max_threads()
    rows = measure(index, target, hits, parse_settings(["efSearch=4,8"]), 1)
    assert here.asked == [f"query {n}" for n in (0, 1, 2, *range(20))]
    assert elsewhere.asked == []
    for row in rows[here]:
        assert row["encode_ms"] > 0
        assert row["total_ms"] >= row["search_ms"] > 0
        assert row["threads"] == 1
    for row in rows[elsewhere]:
        assert (row["encode_ms"], row["total_ms"]) == (None, None)
        assert row["search_ms"] > 0
    assert faiss.omp_get_max_threads() == before


def test_fewer_documents_than_hits(tmp_path, vectors, two):
    flat = make_index(tmp_path / "flat", vectors[:6])
    index = open_approximate(flat, "HNSW8", "cos_sim", Timings())
    hits = {Known(): hits_in(target_of(flat, 50), two[0])}
    ((row,),) = measure(index, target_of(flat, 50), hits, [DEFAULTS], 1).values()
    assert (row["recall@10"], row["overlap@10"]) == (1, 1)
