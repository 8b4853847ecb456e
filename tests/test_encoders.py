"""Loading, identifying and describing encoders."""

import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret.encoders import describe, fingerprint, load_encoder, prompt_of
from disret.terminal import UserError


def test_description(teacher):
    size = describe(load_encoder(str(teacher), "cpu"))
    assert (size.layers, size.dimension) == (4, 32)
    assert size.parameters == sum(p.numel() for p in load_encoder(str(teacher), "cpu").parameters())


def test_fingerprint_is_of_the_content(teacher, tmp_path):
    encoder = load_encoder(str(teacher), "cpu")
    original = fingerprint(encoder)
    encoder.save_pretrained(str(tmp_path / "copy"), create_model_card=False)
    copy = load_encoder(str(tmp_path / "copy"), "cpu")
    assert fingerprint(copy) == original
    copy.encode(["encoding", "leaves it"], batch_size=1)
    copy.max_seq_length = 7
    assert fingerprint(copy) == original
    copy.prompts = {"query": "other "}
    assert fingerprint(copy) != original
    other = SentenceTransformer(str(save_encoder(tmp_path / "other", seed=1)), device="cpu")
    assert fingerprint(other) != original


def test_query_prompt(teacher):
    assert prompt_of(load_encoder(str(teacher), "cpu"), "query") == "q "


def test_models_that_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        load_encoder("no-such/model", "cpu")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no answer from http://127\.0\.0\.1:9"):
        load_encoder("no-such/model", "cpu")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="not a model that sentence-transformers can load"):
        load_encoder(str(tmp_path / "folder"), "cpu")
