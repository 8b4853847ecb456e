"""Batches of about equal cost give what sentence-transformers' own encode gives."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
from tiny import save_encoder, tokenizer

from disret.command_line import UserError
from disret.encode.batches import BatchEncoder, normalised
from disret.encode.models import load_encoder
from disret.encode.timings import Timings

TEXTS = ["", "a", "b c", *("w" * (i % 40) + f" {i}" for i in range(60)), "long " * 500]
FAMILIES = ["bert", "roberta", "mpnet", "electra", "distilbert", "modernbert", "qwen3", "t5"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_encoded_as_by_the_library(kind, tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / kind, kind)), "cpu")
    np.testing.assert_allclose(
        BatchEncoder(model, 2).encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5
    )


def test_prompts_of_queries_and_documents(teacher):
    model = load_encoder(str(teacher), "cpu")
    encoder = BatchEncoder(model, 8)
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    np.testing.assert_allclose(queries, model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(documents, model.encode_document(TEXTS), atol=1e-5)
    assert not np.allclose(queries, documents, atol=1e-2)


def test_padding_on_the_left(tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / "m", "qwen3")), "cpu")
    right = BatchEncoder(model, 2).encode_query(TEXTS)
    model.tokenizer.padding_side = "left"
    np.testing.assert_allclose(BatchEncoder(model, 2).encode_query(TEXTS), right, atol=1e-5)


def test_truncated_dimension(tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / "m")), "cpu")
    model.truncate_dim = 8
    found = BatchEncoder(model, 4).encode_query(TEXTS)
    assert found.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(found, model.encode_query(TEXTS), atol=1e-5)


def test_a_model_of_static_embeddings():
    static = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=16)
    model = SentenceTransformer(modules=[static], device="cpu")
    np.testing.assert_allclose(
        BatchEncoder(model, 4).encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6
    )


def test_a_router_takes_the_way_of_the_task(tmp_path):
    one = SentenceTransformer(str(save_encoder(tmp_path / "a", seed=1)), device="cpu")
    two = SentenceTransformer(str(save_encoder(tmp_path / "b", "qwen3")), device="cpu")
    router = Router.for_query_document(query_modules=list(one), document_modules=list(two))
    model = SentenceTransformer(modules=[router], device="cpu")
    encoder = BatchEncoder(model, 4)
    two.tokenizer.padding_side = "left"  # unlike that of the other way
    np.testing.assert_allclose(encoder.encode_query(TEXTS), one.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document(TEXTS), two.encode(TEXTS), atol=1e-5)


def test_static_queries_do_not_enlarge_the_batches_of_documents(tmp_path):
    static = StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=32)
    two = SentenceTransformer(str(save_encoder(tmp_path / "b")), device="cpu")
    router = Router.for_query_document(query_modules=[static], document_modules=list(two))
    model = SentenceTransformer(modules=[router], device="cpu")
    encoder = BatchEncoder(model)
    assert encoder.batch_tokens == 4096
    np.testing.assert_allclose(encoder.encode_document(TEXTS), two.encode(TEXTS), atol=1e-5)
    texts = TEXTS[1:]
    np.testing.assert_allclose(encoder.encode_query(texts), model.encode_query(texts), atol=1e-5)


@pytest.mark.parametrize("length", [8, 64])
def test_small_pieces_give_the_same(teacher, monkeypatch, length):
    from disret.encode import tokens

    model = load_encoder(str(teacher), "cpu")
    model.max_seq_length = length
    monkeypatch.setattr(tokens, "PIECE", 10)
    np.testing.assert_allclose(
        BatchEncoder(model).encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5
    )


def limit_memory(model, tokens: int, error: Exception | None = None) -> list[int]:
    """Let a model run out of memory with more than `tokens` tokens; returns the batches' sizes."""
    sizes = []

    def refuse(_module, inputs):
        sizes.append(inputs[0]["input_ids"].numel())
        if sizes[-1] > tokens:
            raise error or torch.OutOfMemoryError("CUDA out of memory")

    model[0].register_forward_pre_hook(refuse)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_batches_are_halved_when_memory_runs_out(teacher, capsys, error):
    wanted = load_encoder(str(teacher), "cpu").encode_query(TEXTS)
    model = load_encoder(str(teacher), "cpu")
    sizes = limit_memory(model, 300, error)
    encoder = BatchEncoder(model, 16)
    np.testing.assert_allclose(encoder.encode_query(TEXTS), wanted, atol=1e-5)
    assert "out of memory; going on with batches of" in capsys.readouterr().err
    assert encoder.batch_tokens <= 300
    sizes.clear()
    encoder.encode_query(TEXTS)  # what was learnt is kept
    assert max(sizes) <= 300


def test_a_text_that_does_not_fit_is_an_error(teacher):
    model = load_encoder(str(teacher), "cpu")
    limit_memory(model, 32)
    with pytest.raises(UserError, match="a single text of 64 tokens does not fit"):
        BatchEncoder(model, 16).encode_query(TEXTS)


def test_less_padding_than_batches_of_equal_number(teacher):
    timings = Timings()
    model = load_encoder(str(teacher), "cpu")
    BatchEncoder(model, 8, timings).encode_document(TEXTS * 20)
    (row,) = [row for row in timings.rows() if row["stage"] == "encode"]
    assert row["items"] == 20 * len(TEXTS)
    assert 0 < row["padding_percent"] < 10
    lengths = [len(model.tokenizer("d " + text, truncation=True)["input_ids"]) for text in TEXTS]
    assert timings.timings["encode"].tokens == 20 * sum(lengths)


def test_normalised_leaves_zero_rows():
    np.testing.assert_allclose(normalised(np.array([[3.0, 4.0], [0, 0]])), [[0.6, 0.8], [0, 0]])
