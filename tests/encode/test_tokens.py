"""Queries tokenised once: the batches are those of the model's own preprocess."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import save_encoder, tokenizer

from disret import paths
from disret.encode import tokens
from disret.encode.models import load_encoder, prompt_of
from disret.encode.tokens import tokenised_queries

QUERIES = [*("w" * (i % 23) + f" {i}" for i in range(50)), "long " * 60]
ROWS = [7, 3, 50, 21]
FAMILIES = ["bert", "roberta", "mpnet", "distilbert", "modernbert", "qwen3", "t5"]


def assert_same_batch(model, rows):
    found = tokenised_queries(model, QUERIES).batch(rows)
    wanted = model.preprocess(
        [QUERIES[row] for row in rows], prompt=prompt_of(model, "query"), task="query"
    )
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        if torch.is_tensor(value):
            assert found[name].dtype == torch.int64
            assert found[name].tolist() == value.tolist(), name
        else:
            assert found[name] == value


@pytest.mark.parametrize("kind", FAMILIES)
def test_batches_of_every_family(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 20)
    model = load_encoder(str(save_encoder(tmp_path / kind, kind)), "cpu")
    assert_same_batch(model, ROWS)


def test_prompt_and_padding_on_the_left(teacher):
    model = load_encoder(str(teacher), "cpu")
    model.tokenizer.padding_side = "left"
    assert_same_batch(model, ROWS)
    assert tokenised_queries(model, QUERIES).constants["prompt_length"] > 0


def test_static_embeddings_take_tokens_in_one_row(monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 20)
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer(), embedding_dim=8)], device="cpu"
    )
    assert_same_batch(model, ROWS)
    assert_same_batch(model, [0])


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
