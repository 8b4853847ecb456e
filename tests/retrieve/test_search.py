"""Streamed exact search, against one index in memory."""

import faiss
import numpy as np
import pytest
import torch
from flat_index import make_index

from disret.command_line import UserError
from disret.retrieve import index as index_module
from disret.retrieve import search as search_module
from disret.retrieve.ids import Ids
from disret.retrieve.search import by_document, check_gpu_faiss, search, search_with_torch


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(index_module, "BLOCK", 250)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((930, 24), dtype=np.float32)


@pytest.fixture
def queries():
    return np.random.default_rng(1).standard_normal((7, 24), dtype=np.float32)


@pytest.mark.parametrize("index_dtype", ["float16", "float32"])
@pytest.mark.parametrize("k", [1, 10, 120, 500])
def test_finds_what_one_index_finds(tmp_path, vectors, queries, index_dtype, k):
    index = make_index(tmp_path, vectors, index_dtype)
    stored = np.concatenate(list(index.blocks(index.shards))).astype(np.float32)
    np.testing.assert_allclose(stored, vectors, atol=0 if index_dtype == "float32" else 2e-3)
    whole = faiss.IndexFlatIP(24)
    whole.add(stored)
    wanted_scores, wanted_rows = whole.search(queries, k)
    scores, rows = search(index, queries, k, "cpu")
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5, atol=1e-5)


def test_k_larger_than_the_corpus(tmp_path, vectors, queries):
    index = make_index(tmp_path, vectors[:120])
    scores, rows = search(index, queries, 1000, "cpu")
    assert scores.shape == rows.shape == (7, 120)
    assert sorted(rows[0]) == list(range(120))


def test_blocks_hold_whole_shards_in_order(tmp_path, vectors):
    index = make_index(tmp_path, vectors)
    lengths = [len(block) for block in index.blocks(index.shards)]
    assert lengths == [200, 200, 200, 200, 130]
    assert index.documents == 930


@pytest.mark.parametrize("index_dtype", ["float16", "float32"])
def test_blocks_as_they_are_on_disk(tmp_path, vectors, index_dtype):
    index = make_index(tmp_path, vectors, index_dtype)
    stored = list(index.blocks(index.shards))
    assert {block.dtype for block in stored} == {np.dtype(index_dtype)}
    assert [len(block) for block in stored] == [200, 200, 200, 200, 130]
    shards = [faiss.read_index(str(tmp_path / shard.file)) for shard in index.shards]
    by_faiss = np.concatenate([shard.reconstruct_n(0, shard.ntotal) for shard in shards])
    np.testing.assert_array_equal(np.concatenate(stored).astype(np.float32), by_faiss)


def test_torch_searches_without_tf32(tmp_path, vectors, queries):
    """Containers of NVIDIA switch it on for every product."""
    before = torch.get_float32_matmul_precision()
    seen = []

    def blocks():
        seen.append(torch.get_float32_matmul_precision())
        yield vectors

    torch.set_float32_matmul_precision("high")
    try:
        search_with_torch(blocks(), queries, 5, "cpu")
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_faiss_without_gpus_is_refused_before_the_work():
    if faiss.get_num_gpus():
        check_gpu_faiss()
    else:
        with pytest.raises(UserError, match="was built for the CPU"):
            check_gpu_faiss()


@pytest.mark.parametrize("held", [1, 100, 1 << 20])
def test_only_queries_that_lack_documents_are_searched_deeper(vectors, queries, monkeypatch, held):
    monkeypatch.setattr(search_module, "HITS", held)
    near = np.argsort(-(vectors @ queries[0]))
    names = np.arange(len(vectors))
    names[near[:600]] = near[0]  # the passages of one document
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    asked = []

    def searched(some, k):
        asked.append((len(some), k))
        return index.search(some, k)

    scores, rows = by_document(searched, Ids(names), queries, 10)
    assert asked[-1] == (1, 640)
    assert sum(count for count, k in asked if k == 10) == len(queries)
    assert max(count * k for count, k in asked) <= max(held, 640)
    for query, own, found in zip(queries, scores, rows, strict=True):
        best = {}
        for row in np.argsort(-(vectors @ query)):
            best.setdefault(names[row], row)
        assert found.tolist() == list(best.values())[:10]
        np.testing.assert_allclose(own, vectors[found] @ query, rtol=1e-4)


@pytest.mark.parametrize("index_dtype", ["float16", "float32"])
@pytest.mark.parametrize("k", [1, 10, 120, 930])
def test_search_with_torch(tmp_path, vectors, queries, k, index_dtype, monkeypatch):
    monkeypatch.setattr(search_module, "QUERIES", 3)
    index = make_index(tmp_path, vectors, index_dtype)
    scores, rows = search_with_torch(index.blocks(index.shards), queries, k, "cpu")
    wanted_scores, wanted_rows = search(index, queries, k, "cpu")
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5, atol=1e-5)
