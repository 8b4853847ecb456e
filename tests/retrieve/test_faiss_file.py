"""FAISS indexes of every kind, as faiss writes them."""

import faiss
import numpy as np
import pytest

from disret.command_line import UserError
from disret.encode.timings import resident_bytes
from disret.retrieve.approximate import set_parameters
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.foreign import open_foreign

D, N, K = 32, 1500, 10


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def points(seed, count):
    return np.random.default_rng(seed).standard_normal((count, D), dtype=np.float32)


@pytest.fixture(scope="module")
def vectors():
    return unit(points(0, N))


@pytest.fixture(scope="module")
def queries():
    return unit(points(1, 40))


def write(path, kind, vectors, metric=faiss.METRIC_INNER_PRODUCT, numbers=None, nprobe=None):
    index = faiss.index_factory(D, kind, metric)
    index.train(vectors)
    if numbers is None:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, numbers)
    if nprobe:
        faiss.extract_index_ivf(index).nprobe = nprobe
    if "HNSW" in kind and "IDMap" not in kind:
        index.hnsw.efSearch = 64
    faiss.write_index(index, str(path))
    return path


def best(vectors, queries, k=K):
    return np.argsort(-(queries @ vectors.T), axis=1)[:, :k]


def recall(rows, wanted):
    pairs = zip(rows, wanted, strict=True)
    return np.mean([len(np.intersect1d(found, right)) / len(right) for found, right in pairs])


@pytest.mark.parametrize("suffix", [".faiss", ".index", ".bin", ""])
@pytest.mark.parametrize("score_function", [None, "cos_sim"])
@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_flat_is_exact(tmp_path, vectors, queries, metric, score_function, suffix):
    path = write(tmp_path / f"x{suffix}", "Flat", vectors, metric)
    index = open_foreign(path, "rows", D, score_function)
    scores, rows = index.search(queries, K)
    assert (rows == best(vectors, queries)).all()
    products = np.take_along_axis(queries @ vectors.T, rows, 1)
    is_l2 = metric == faiss.METRIC_L2
    np.testing.assert_allclose(scores, 2 * products - 2 if is_l2 else products, atol=1e-5)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert index.description == ("IndexFlatL2, L2" if is_l2 else "IndexFlatIP, inner product")


@pytest.mark.parametrize(
    "kind, at_least",
    [("IVF8,Flat", 1), ("HNSW16", 0.9), ("SQ8", 0.9), ("SQfp16", 0.98), ("IVF8,SQ8", 0.9),
     ("HNSW16_SQ8", 0.8), ("PQ16x4", 0.2), ("IVF8,PQ16x4", 0.2), ("PQ16x4fs", 0.2),
     ("IVF8,PQ16x4fs", 0.2), ("RR32,Flat", 1), ("RR32,IVF8,Flat", 1), ("L2norm,Flat", 1),
     ("OPQ16_32,PQ16x4", 0.2), ("PCA16,Flat", 0.2), ("IVF8,Flat,RFlat", 1), ("NSG16,Flat", 0.7),
     ("RQ4x8", 0.2), ("RaBitQ", 0.1)],
)  # fmt: skip
def test_every_kind(tmp_path, vectors, queries, kind, at_least):
    path = write(tmp_path / "x.faiss", kind, vectors, nprobe=8 if "IVF" in kind else None)
    before = path.read_bytes()
    index = open_foreign(path, "rows", D, "cos_sim")
    assert (index.documents, index.dimension) == (N, D)
    scores, rows = index.search(queries, K)
    wanted_scores, wanted_rows = faiss.read_index(str(path)).search(queries, K)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    assert recall(rows, best(vectors, queries)) >= at_least
    assert (np.diff(scores) <= 0).all()
    assert list(index.ids()) == [str(row) for row in range(N)]
    assert ("8 of 8 lists probed" in index.description) == ("IVF" in kind)
    index.check_unchanged()
    assert path.read_bytes() == before


def test_a_ranking_of_its_own(tmp_path, vectors, queries):
    """L2 distances of vectors of any length, and other metrics, without a score to compare."""
    longer = vectors * np.random.default_rng(5).uniform(0, 9, (N, 1)).astype(np.float32)
    longer[17] = 0  # an empty document
    distances = ((queries[:, None] - longer) ** 2).sum(axis=2)
    for metric, wanted, said in (
        (faiss.METRIC_L2, distances, "IndexFlatL2, L2"),
        (faiss.METRIC_L1, np.abs(queries[:, None] - longer).sum(axis=2), "another metric"),
        (faiss.METRIC_INNER_PRODUCT, -queries @ longer.T, "IndexFlatIP, inner product"),
    ):
        index = open_foreign(write(tmp_path / "x", "Flat", longer, metric), "rows", D)
        scores, rows = index.search(queries, K)
        np.testing.assert_allclose(-scores, np.sort(wanted, axis=1)[:, :K], rtol=1e-4, atol=1e-4)
        assert (rows == np.argsort(wanted, axis=1)[:, :K]).mean() > 0.98  # but for ties
        assert index.description.endswith(said)


@pytest.mark.parametrize("nprobe", [1, 8])
@pytest.mark.parametrize(
    "kind", ["IDMap,Flat", "IDMap2,Flat", "IDMap,HNSW16", "IDMap2,IVF8,Flat", "RR32,IDMap,Flat",
             "IVF8,Flat", "RR32,IVF8,Flat"]
)  # fmt: skip
def test_numbers_of_its_own(tmp_path, vectors, queries, kind, nprobe):
    numbers = np.random.default_rng(3).permutation(N) * 3 - 701
    path = write(
        tmp_path / "x.faiss", kind, vectors, numbers=numbers, nprobe="IVF" in kind and nprobe
    )
    index = open_foreign(path, None, D)
    scores, rows = index.search(queries, 2 * K)
    wanted_scores, wanted = faiss.read_index(str(path)).search(queries, 2 * K)
    np.testing.assert_array_equal(scores[wanted != -1], wanted_scores[wanted != -1])
    texts = index.ids().take(rows)
    assert texts.ravel().tolist() == [str(n) if n != -1 else "" for n in wanted.ravel().tolist()]
    assert sorted(index.ids()) == sorted(map(str, numbers.tolist()))
    lines = tmp_path / "ids.txt"
    lines.write_text("".join(f"d{i}\n" for i in range(N)))
    position = {number: i for i, number in enumerate(numbers.tolist())}
    for ids, name in ((lines, "d{}"), ("rows", "{}")):
        if "IDMap" in kind:
            names = open_foreign(path, ids, D)
            assert names.ids().take(names.search(queries, K)[1]).ravel().tolist() == [
                name.format(position[n]) if n != -1 else "" for n in wanted[:, :K].ravel().tolist()
            ]
        else:
            with pytest.raises(UserError, match=r"x\.faiss has numbers of its own .* its ids\."):
                open_foreign(path, ids, D)


def test_an_inverted_file_filled_out_of_order(tmp_path, vectors, queries):
    """Its numbers are positions, whatever list they are in, so that lines can name them."""
    order = np.random.default_rng(4).permutation(N)
    path = write(tmp_path / "x.faiss", "IVF8,Flat", vectors[order], numbers=order, nprobe=8)
    lines = tmp_path / "ids.txt"
    lines.write_text("".join(f"d{i}\n" for i in range(N)))
    index = open_foreign(path, lines, D, "dot")
    found = index.ids().take(index.search(queries, K)[1])
    assert (found == np.char.add("d", best(vectors, queries).astype(str))).all()


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_missing_hits(tmp_path, vectors, queries, metric):
    path = write(tmp_path / "x.faiss", "IVF64,Flat", vectors, metric, nprobe=1)
    index = open_foreign(path, "rows", D)
    assert index.description.endswith("1 of 64 lists probed")
    scores, rows = index.search(queries, 200)
    assert (rows == -1).any()
    assert (scores[rows == -1] == -np.inf).all()
    assert (np.isfinite(scores) == (rows != -1)).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert set(index.ids().take(rows)[rows == -1]) == {""}


def test_lists_in_a_file_of_their_own(tmp_path, vectors, queries):
    index = faiss.index_factory(D, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    lists = faiss.OnDiskInvertedLists(8, index.code_size, str(tmp_path / "x.ivfdata"))
    index.replace_invlists(lists)
    index.add(vectors)
    index.nprobe = 8
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    del index, lists
    before = (tmp_path / "x.ivfdata").read_bytes()
    index = open_foreign(tmp_path / "x.faiss", "rows", D, "cos_sim")
    assert (index.search(queries, K)[1] == best(vectors, queries)).all()
    assert (tmp_path / "x.ivfdata").read_bytes() == before
    with (tmp_path / "x.ivfdata").open("ab") as file:  # it is mapped: emptied, it ends the process
        file.write(b"\0")
    with pytest.raises(UserError, match=r"x\.ivfdata was changed"):
        index.check_unchanged()


def test_mapping_takes_no_memory(tmp_path):
    flat = faiss.IndexFlatIP(1000)
    flat.add(np.zeros((25_000, 1000), dtype=np.float32))
    faiss.write_index(flat, str(tmp_path / "x.faiss"))
    del flat
    before = resident_bytes()
    assert open_foreign(tmp_path / "x.faiss", "rows", 1000, "dot").documents == 25_000
    assert resident_bytes() - before < 50e6


def refused(path, score_function="dot", dimension=D):
    with pytest.raises(UserError) as error:
        open_foreign(path, "rows", dimension, score_function)
    return str(error.value).replace(f"{path}", "FILE")


@pytest.mark.parametrize("content", [b"", b"x", b"a document\nper line\n", b"\0" * 4096])
def test_files_that_are_no_index(tmp_path, content):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    cut_off = "FILE cannot be read as a FAISS index; it is none, or is cut off."
    assert refused(path) == (cut_off if content else "FILE is empty.")


@pytest.mark.parametrize("kind", ["Flat", "IVF8,Flat", "HNSW16", "PQ16x4", "IDMap2,Flat"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_an_index_cut_off(tmp_path, vectors, kind, share):
    numbers = np.arange(N) if "IDMap" in kind else None
    path = write(tmp_path / "x.faiss", kind, vectors, numbers=numbers)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refused(path) == "FILE cannot be read as a FAISS index; it is none, or is cut off."


def test_indexes_that_cannot_serve(tmp_path, vectors):
    path = tmp_path / "x.faiss"
    binary = faiss.IndexBinaryFlat(64)
    binary.add(np.zeros((3, 8), dtype=np.uint8))
    faiss.write_index_binary(binary, str(path))
    assert refused(path) == "FILE is a binary FAISS index, whose vectors are no floats."
    faiss.write_index(faiss.index_factory(D, "IVF8,Flat"), str(path))
    assert refused(path) == "FILE was never trained, so it has no vectors."
    faiss.write_index(faiss.IndexFlatIP(D), str(path))
    assert refused(path) == "FILE has no vectors."
    write(path, "Flat", vectors, faiss.METRIC_L1)
    assert refused(path) == "FILE ranks by another metric, not as dot does."
    write(path, "Flat", vectors, faiss.METRIC_L2)
    assert refused(path) == "FILE ranks by L2, not as dot does."
    write(path, "Flat", vectors)
    wanted = "FILE has vectors of 32 dimensions, but those of the encoder have 384."
    assert refused(path, dimension=384) == wanted


@pytest.mark.parametrize("kind", ["Flat", "IDMap,Flat", "HNSW16", "SQ4,RFlat"])
@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_cosines_need_vectors_of_length_1(tmp_path, vectors, kind, metric):
    numbers = np.arange(N) if "IDMap" in kind else None
    longer = vectors.copy()
    longer[0] = 0  # of an empty document
    open_foreign(write(tmp_path / "x", kind, longer, metric, numbers), "rows", D, "cos_sim")
    longer[-1] *= 2
    path = write(tmp_path / "x", kind, longer, metric, numbers)
    assert refused(path, "cos_sim") == "FILE has vectors not of length 1, but of 2."


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
@pytest.mark.parametrize(
    "kind, numbered",
    [("Flat", False), ("IVF64,Flat", False), ("IVF64,Flat", True), ("HNSW4", False),
     ("NSG16", False), ("IDMap,HNSW4", True), ("SQ4,RFlat", False),
     ("IVF64,SQ4,Refine(Flat)", False), ("IDMap,SQ4,RFlat", True)],
)  # fmt: skip
def test_all_vectors_are_searched_where_they_are_there(
    tmp_path, vectors, queries, kind, metric, numbered
):
    """Whatever the settings, and in whatever order the vectors were added."""
    numbers = np.random.default_rng(3).permutation(N) * 3 - 701 if numbered else None
    path = write(tmp_path / "x.faiss", kind, vectors, metric, numbers)
    index = FaissFile(path)
    assert index.exhaustive() is not None
    order = np.argsort(np.argsort(numbers)) if numbered and "IDMap" not in kind else np.arange(N)
    scores, rows = index.search_exactly(queries, K)
    np.testing.assert_array_equal(rows, order[best(vectors, queries)])
    products = np.sort(queries @ vectors.T, axis=1)[:, : -K - 1 : -1]
    is_l2 = metric == faiss.METRIC_L2
    np.testing.assert_allclose(scores, 2 * products - 2 if is_l2 else products, atol=1e-5)
    if "IVF" in kind:
        assert recall(index.search(queries, K)[1], rows) < 0.9


@pytest.mark.parametrize(
    "kind", ["PQ4x4", "SQ8", "HNSW8_SQ8", "IVF8,SQ8", "RaBitQ", "PCA16,Flat", "RaBitQ,Refine(SQ8)"]
)
def test_codes_are_not_the_vectors(tmp_path, vectors, kind):
    assert FaissFile(write(tmp_path / "x.faiss", kind, vectors)).exhaustive() is None


@pytest.mark.parametrize(
    "kind, low, high",
    [("HNSW4", {"efSearch": 1}, {"efSearch": 500}),
     ("IDMap,HNSW4", {"efSearch": 1}, {"efSearch": 500}),
     ("IVF64,Flat", {"nprobe": 1}, {"nprobe": 64}),
     ("RR32,IVF64,Flat", {"nprobe": 1}, {"nprobe": 64}),
     ("IVF64,PQ4x4,RFlat", {"nprobe": 64, "k_factor_rf": 1}, {"nprobe": 64, "k_factor_rf": 150}),
     ("RaBitQ,RFlat", {"k_factor_rf": 1}, {"k_factor_rf": 40}),
     ("SQ4,Refine(Flat)", {"k_factor_rf": 1}, {"k_factor_rf": 20})],
)  # fmt: skip
def test_parameters_decide_how_far_it_looks(tmp_path, vectors, queries, kind, low, high):
    numbers = np.arange(N) if "IDMap" in kind else None
    path = write(tmp_path / "x.faiss", kind, vectors, numbers=numbers)
    before = path.read_bytes()
    index = FaissFile(path)
    found = []
    for values in (low, high):
        set_parameters(index.index, values, str(index.path))
        found.append(recall(index.search(queries, K)[1], best(vectors, queries)))
    assert found[0] < 0.97
    assert found[1] > max(found[0], 0.98)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "kind, name", [("HNSW4", "nprobe"), ("IVF8,Flat", "efSearch"), ("SQ8", "k_factor_rf"),
                   ("Flat", "efSearch")]
)  # fmt: skip
def test_parameters_that_an_index_lacks(tmp_path, vectors, kind, name):
    index = FaissFile(write(tmp_path / "x.faiss", kind, vectors))
    with pytest.raises(UserError, match=rf"x\.faiss \(Index\w+\) has no parameter {name} of its"):
        set_parameters(index.index, {name: 4}, str(index.path))
