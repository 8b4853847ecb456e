"""Tokenised texts: the batches are those of the model's own preprocess."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny import save_encoder, tokenizer

from disret.encode import tokens
from disret.encode.models import load_encoder, prompt_of
from disret.encode.tokens import _tokenise_flat, layout_of, tokenise

QUERIES = [*("w" * (i % 23) + f" {i}" for i in range(50)), "long " * 60]
ROWS = [7, 3, 50, 21]
FAMILIES = ["bert", "roberta", "mpnet", "distilbert", "modernbert", "qwen3", "t5"]


def assert_same_batch(model, rows):
    found = tokenise(model, QUERIES, "query").batch(rows)
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
    monkeypatch.setattr(tokens, "PIECE", 20)
    model = load_encoder(str(save_encoder(tmp_path / kind, kind)), "cpu")
    assert_same_batch(model, ROWS)


@pytest.mark.parametrize("kind", FAMILIES)
def test_flat_arrays_are_used_where_they_are_the_same(kind, tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / kind, kind)), "cpu")
    assert _tokenise_flat(model, "query", layout_of(model, "query")) is not None
    for row in range(len(QUERIES)):
        assert_same_batch(model, [row])


def test_what_preprocess_does_besides_is_noticed(teacher):
    """A model that treats its texts otherwise is tokenised by itself."""
    model = load_encoder(str(teacher), "cpu")
    original = model[0].preprocess
    model[0].preprocess = lambda texts, **kwargs: original(
        [text.replace("w", "v") for text in texts], **kwargs
    )
    layout = layout_of(model, "query")
    assert _tokenise_flat(model, "query", layout) is None
    assert_same_batch(model, ROWS)


def test_prompt_and_padding_on_the_left(teacher):
    model = load_encoder(str(teacher), "cpu")
    model.tokenizer.padding_side = "left"
    assert_same_batch(model, ROWS)
    assert tokenise(model, QUERIES, "query").layout.constants["prompt_length"] > 0


def test_static_embeddings_take_tokens_in_one_row(monkeypatch):
    monkeypatch.setattr(tokens, "PIECE", 20)
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer(), embedding_dim=8)], device="cpu"
    )
    assert_same_batch(model, ROWS)
    assert_same_batch(model, [0])
