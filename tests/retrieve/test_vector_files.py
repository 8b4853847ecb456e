"""Exact search in files of vectors, against a product of matrices."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from disret.command_line import UserError
from disret.encode.timings import resident_bytes
from disret.retrieve import vector_files
from disret.retrieve.foreign import open_foreign

D, N = 24, 930


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(vector_files, "BLOCK", 250)


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    lengths = generator.uniform(0.5, 3, (N, 1)).astype(np.float32)
    return generator.standard_normal((N, D), dtype=np.float32) * lengths


@pytest.fixture
def queries():
    queries = np.random.default_rng(1).standard_normal((7, D), dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def write_npy(path, vectors):
    np.save(path, vectors)


def write_parquet(path, vectors, name="emb", fixed=False, value=None, **columns):
    value = value or pa.from_numpy_dtype(vectors.dtype)
    kind = pa.list_(value, vectors.shape[1]) if fixed else pa.list_(value)
    table = pa.table({**columns, name: pa.array(list(vectors), type=kind)})
    pq.write_table(table, path, row_group_size=200)


WRITERS = {
    "float16.npy": lambda path, vectors: write_npy(path, vectors.astype(np.float16)),
    "float32.npy": write_npy,
    "float64.npy": lambda path, vectors: write_npy(path, vectors.astype(np.float64)),
    "big-endian.NPY": lambda path, vectors: np.save(path.open("wb"), vectors.astype(">f4")),
    "columns.npy": lambda path, vectors: write_npy(path, np.asfortranarray(vectors)),
    "list.parquet": write_parquet,
    "double.parquet": lambda path, vectors: write_parquet(path, vectors.astype(np.float64)),
    "fixed.parquet": lambda path, vectors: write_parquet(path, vectors, fixed=True),
    "half.parquet": lambda path, vectors: write_parquet(path, vectors.astype(np.float16)),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("score_function", ["dot", "cos_sim"])
@pytest.mark.parametrize("k", [10, 500])
def test_exact_and_unchanged(tmp_path, vectors, queries, name, score_function, k):
    path = tmp_path / name
    WRITERS[name](path, vectors)
    before = path.read_bytes()
    index = open_foreign(path, "rows", D, score_function)
    scores, rows = index.search(queries, k)
    if "16" in name or "half" in name:
        vectors = vectors.astype(np.float16).astype(np.float32)
    if score_function == "cos_sim":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    products = queries @ vectors.T
    wanted = np.argsort(-products, axis=1)[:, :k]
    np.testing.assert_allclose(scores, np.take_along_axis(products, wanted, 1), atol=1e-5)
    np.testing.assert_allclose(scores, np.take_along_axis(products, rows, 1), atol=1e-5)
    assert (rows == wanted).mean() > 0.99  # but for ties of rounding
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    assert (np.diff(scores) <= 0).all()
    assert (index.path, index.dimension, index.documents) == (path, D, N)
    assert index.ids().take(rows[:, :1]).tolist() == rows[:, :1].astype(str).tolist()
    assert "vectors" in index.description
    assert ("cosine" in index.description) == (score_function == "cos_sim")
    index.check_unchanged()
    assert path.read_bytes() == before


def test_k_larger_than_the_file(tmp_path, vectors, queries):
    np.save(tmp_path / "x.npy", vectors[:30])
    scores, rows = open_foreign(tmp_path / "x.npy", "rows", D, "dot").search(queries, 100)
    assert scores.shape == rows.shape == (7, 30)
    assert sorted(rows[0]) == list(range(30))


def test_mapping_takes_no_memory(tmp_path):
    path = tmp_path / "x.npy"
    header = np.lib.format.open_memmap(path, "w+", np.float32, (50_000, 1000))  # sparse: no writes
    del header
    assert path.stat().st_size > 200e6
    before = resident_bytes()
    index = open_foreign(path, "rows", 1000, "dot")
    assert index.documents == 50_000
    assert resident_bytes() - before < 50e6


def refused(path, dimension=D):
    with pytest.raises(UserError) as error:
        index = open_foreign(path, "rows", dimension, "dot")
        index.search(np.ones((1, dimension), dtype=np.float32), 1)
        index.ids().take(np.array([0, 1]))
    return str(error.value).replace(f"{path}", "FILE")


@pytest.mark.parametrize(
    "matrix, said",
    [
        (np.zeros(24, np.float32), "FILE has values of float32 in 1 dimensions; it should"),
        (np.zeros((3, 24), np.int8), "FILE has values of int8 in 2 dimensions; it should have"),
        (np.zeros((0, 24), np.float32), "FILE has no vectors."),
        (
            np.zeros((3, 20), np.float32),
            "FILE has vectors of 20 dimensions, but those of the encoder have 24.",
        ),
        (np.array([[{}]]), "FILE should be a NumPy array of numbers, but is of Python objects."),
    ],
)
def test_arrays_of_another_shape(tmp_path, matrix, said):
    np.save(tmp_path / "x.npy", matrix)
    assert refused(tmp_path / "x.npy").startswith(said)


@pytest.mark.parametrize("kept", [0, 3, 60, 5050])
@pytest.mark.parametrize("name", ["float32.npy", "list.parquet"])
def test_a_file_cut_off(tmp_path, vectors, name, kept):
    path = tmp_path / name
    WRITERS[name](path, vectors)
    path.write_bytes(path.read_bytes()[:kept])
    assert "cut off" in refused(path) or refused(path) in ("FILE has no vectors.", "FILE is empty.")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers(tmp_path, vectors, value):
    vectors[612, 3] = value
    for name in ("x.npy", "x.parquet"):
        path = tmp_path / name
        {".npy": write_npy, ".parquet": write_parquet}[path.suffix](path, vectors)
        assert refused(path) == "row 612 of FILE has values that are not numbers."


def test_values_beyond_float32(tmp_path, vectors):
    vectors = vectors.astype(np.float64)
    vectors[5, 5] = 1e200
    np.save(tmp_path / "x.npy", vectors)
    assert refused(tmp_path / "x.npy") == "row 5 of FILE has values that are not numbers."


def test_vectors_of_other_lengths(tmp_path, vectors):
    path = tmp_path / "x.parquet"
    rows = list(vectors)
    rows[301] = rows[301][:9]
    pq.write_table(pa.table({"emb": pa.array(rows, pa.list_(pa.float32()))}), path)
    assert refused(path) == "row 301 of FILE has 9 values, not 24."
    for fixed in (pa.list_(pa.float32()), pa.list_(pa.float32(), D)):
        rows[301] = None
        pq.write_table(pa.table({"emb": pa.array(rows, fixed)}), path)
        assert refused(path) == "row 301 of FILE has 0 values, not 24."
    rows[0] = None
    pq.write_table(pa.table({"emb": pa.array(rows, pa.list_(pa.float32()))}), path)
    assert refused(path) == "row 0 of FILE has no vector."


def test_columns_that_are_not_there(tmp_path, vectors):
    path = tmp_path / "x.parquet"
    said = "FILE: a column of vectors must be called embedding or vector or emb or embeddings"
    pq.write_table(pa.table({"embedding": ["[0.5]"]}), path)
    assert refused(path).startswith(said)
    assert refused(path).endswith("there are: embedding (string).")
    write_parquet(path, vectors, "a", b=[[0.5]] * N)
    assert refused(path).startswith(said)
    write_parquet(path, vectors[:0])
    assert refused(path) == "FILE has no vectors."


def test_columns_of_vectors(tmp_path, vectors, queries):
    """The field's names for them, beside others, and tensors."""
    path = tmp_path / "x.parquet"
    wanted = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    for name in ("embedding", "embeddings", "vector", "emb", "text_embedding"):
        others = {} if name == "text_embedding" else {"sparse": [[0.5]] * N}
        write_parquet(path, vectors, name, **others)
        assert (open_foreign(path, "rows", D).search(queries, 5)[1] == wanted).all()
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(vectors))
    pq.write_table(pa.table({"embedding": tensors}), path)
    assert (open_foreign(path, "rows", D).search(queries, 5)[1] == wanted).all()


def test_parts_in_a_folder(tmp_path, vectors, queries):
    """As Spark writes them; a part may be empty, and is missed if it has other columns."""
    folder = tmp_path / "documents.parquet"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for number, (start, end) in enumerate([(0, 0), (0, 600), (600, N)]):
        ids = [f"d{row}" for row in range(start, end)]
        path = folder / f"part-0000{number}-c000.snappy.parquet"
        write_parquet(path, vectors[start:end], docid=pa.array(ids, pa.string()))
    index = open_foreign(folder, None, D)
    found = index.ids().take(index.search(queries, 5)[1])
    wanted = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    assert (found == np.char.add("d", wanted.astype(str))).all()
    write_parquet(path, vectors[600:])
    with pytest.raises(UserError, match=r"part-00002-c000\.snappy\.parquet has no column 'docid'"):
        open_foreign(folder, None, D)
