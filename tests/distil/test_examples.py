"""Queries are tokenised once."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import tokenizer

from disret import paths
from disret.distil.examples import tokenised_queries
from disret.encode.models import load_encoder

QUERIES = [*("w" * (i % 23) + f" {i}" for i in range(50)), "long " * 60]


def test_a_second_call_reads_the_file(teacher):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES)
    (file,) = (paths.DOWNLOADS / "tokens").glob("*.npz")
    written = file.stat().st_mtime_ns
    again = tokenised_queries(model, QUERIES)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.columns["input_ids"], again.columns["input_ids"])
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert first.lengths.max() == model.max_seq_length


def test_damaged_tokens_are_made_anew(teacher, capsys):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES)
    (file,) = (paths.DOWNLOADS / "tokens").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-20])
    again = tokenised_queries(model, QUERIES)
    assert "making it anew" in capsys.readouterr().err
    np.testing.assert_array_equal(first.columns["input_ids"], again.columns["input_ids"])


def test_static_tokens_depend_on_where_texts_are_cut():
    found = []
    for length in (5, 9):
        backend = tokenizer()
        backend.backend_tokenizer.enable_truncation(length)
        model = SentenceTransformer(
            modules=[StaticEmbedding(backend, embedding_dim=8)], device="cpu"
        )
        found.append(tokenised_queries(model, QUERIES).lengths.max())
    assert found == [5, 9]


@pytest.mark.parametrize("change", ["prompt", "length", "queries"])
def test_what_decides_the_tokens_names_the_file(teacher, change):
    model = load_encoder(str(teacher), "cpu")
    first = tokenised_queries(model, QUERIES).columns["input_ids"]
    queries = QUERIES
    if change == "prompt":
        model.prompts["query"] = "x "
    elif change == "length":
        model.max_seq_length = 5
    else:
        queries = QUERIES[:-1]
    assert not np.array_equal(first, tokenised_queries(model, queries).columns["input_ids"])
