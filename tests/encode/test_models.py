"""Loading, identifying and describing encoders."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import save_encoder
from transformers import AutoConfig, AutoModel
from transformers.utils.logging import warning_once

from disret.command_line import UserError
from disret.encode.models import (
    cast,
    computed_buffers,
    describe,
    fingerprint,
    load_encoder,
    place,
    prompt_of,
)
from distill import init_from_layers


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
    again = load_encoder(str(tmp_path / "copy"), "cpu")
    again.tokenizer.truncation_side = "left"  # what is kept of a long text
    assert fingerprint(again) != original
    other = SentenceTransformer(str(save_encoder(tmp_path / "other", seed=1)), device="cpu")
    assert fingerprint(other) != original


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "t5"])
def test_a_model_of_16_bits_takes_no_more_and_is_the_same(kind, tmp_path, caplog):
    """A teacher too large for float32 is loaded as its files hold it."""
    model = SentenceTransformer(str(save_encoder(tmp_path / "wide", kind)), device="cpu")
    model.bfloat16().save_pretrained(str(tmp_path / "m"), create_model_card=False)
    whole = load_encoder(str(tmp_path / "m"), "cpu")
    warning_once.cache_clear()
    half = load_encoder(str(tmp_path / "m"), "cpu", dtype="auto")
    assert "slower than with torch.float32" not in caplog.text
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    assert {p.dtype for p in half.transformers_model.parameters()} == {torch.bfloat16}
    assert fingerprint(half) == fingerprint(whole)
    assert fingerprint(init_from_layers(half, [0])) == fingerprint(init_from_layers(whole, [0]))
    assert {p.dtype for p in init_from_layers(half, [0]).parameters()} == {torch.float32}
    place(half, "cpu", "float32")  # where 16 bits would be slow
    texts = ["what is number 4", "thing 5"]
    assert (half.encode_query(texts) == whole.encode_query(texts)).all()


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


def test_a_model_with_weights_of_another_shape_is_refused(teacher, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if "layer.2" in key and "query.weight" in key)
    weights[name] = torch.zeros(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not a model that sentence-transformers can load"):
        load_encoder(str(folder), "cpu")


@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "t5"])
def test_a_model_without_all_its_weights_is_refused(kind, dtype, tmp_path):
    """transformers would fill in random values, others each time."""
    file = save_encoder(tmp_path / "m", kind) / "model.safetensors"
    weights = load_file(file)
    # No embedding needs these.
    save_file({key: weights[key] for key in weights if "pooler" not in key}, file, {"format": "pt"})
    load_encoder(str(file.parent), "cpu", dtype=dtype)
    first, second = [key for key in weights if "norm" in key.lower()][:2]
    del weights[first]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks 1 weights of its architecture: {first}; get"):
        load_encoder(str(file.parent), "cpu", dtype=dtype)
    del weights[second]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 2 weights of its architecture: .+ and others;"):
        load_encoder(str(file.parent), "cpu", dtype=dtype)


@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen3", "t5"])
def test_a_model_without_its_vocabulary_is_refused(kind, tmp_path):
    """Without these files there would be five tokens, and all texts alike."""
    folder = save_encoder(tmp_path / "m", kind)
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="knows no word"):
        load_encoder(str(folder), "cpu")


ROTARY = ["modernbert", "qwen3", "llama", "gemma3_text", "nomic_bert", "gte", "eurobert"]


@pytest.mark.parametrize("kind", ROTARY)
def test_long_texts_in_bfloat16_are_where_float32_puts_them(kind, tmp_path):
    """As near as `from_pretrained(dtype=…)` gets, which leaves rotary frequencies in float32."""
    shape = {
        "vocab_size": 100, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
        "max_position_embeddings": 4096, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    settings = AutoConfig.for_model(kind, **shape)
    AutoModel.from_config(settings).eval().save_pretrained(tmp_path)
    tokens = {"input_ids": torch.randint(4, 100, (1, 2500))}
    with torch.inference_mode():
        exact, plain, found = (
            AutoModel.from_pretrained(tmp_path, dtype=dtype).eval()
            for dtype in (torch.float32, torch.bfloat16, torch.float32)
        )
        cast(found, torch.bfloat16)
        buffers = dict(found.named_buffers())
        for name, buffer in plain.named_buffers():
            if not name.endswith("inv_freq"):  # Gemma's scale is cast where it is used
                continue
            torch.testing.assert_close(buffers[name], buffer, atol=0, rtol=0)
        exact, plain, found = (m(**tokens).last_hidden_state.float() for m in (exact, plain, found))
    assert (found - exact).norm() <= 1.001 * (plain - exact).norm()


def test_rotary_frequencies_are_part_of_the_fingerprint(tmp_path):
    """Vectors that were cached with other frequencies are not used again."""
    model = load_encoder(str(save_encoder(tmp_path / "m", "qwen3")), "cpu")
    before = fingerprint(model)
    name, buffer = next(iter(computed_buffers(model)))
    assert name.endswith("inv_freq")
    buffer.mul_(1.01)
    assert fingerprint(model) != before
    bert = load_encoder(str(save_encoder(tmp_path / "b", "bert")), "cpu")
    assert not list(computed_buffers(bert))


def test_a_plain_transformer_is_said(teacher, tmp_path, capsys):
    plain = shutil.copytree(teacher, tmp_path / "plain")
    (plain / "modules.json").unlink()
    load_encoder(str(teacher), "cpu")
    assert "plain transformer" not in capsys.readouterr().err
    load_encoder(str(plain), "cpu")
    assert "plain transformer; as an encoder, it takes the mean" in capsys.readouterr().err
