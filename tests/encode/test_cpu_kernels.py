"""bfloat16 on a CPU: other kernels, the same embeddings."""

import numpy as np
import pytest
import torch
from tiny import save_encoder

from disret.devices import has_bfloat16
from disret.encode.batches import BatchEncoder
from disret.encode.cpu_kernels import PackedLinear, batched_products, speed_up
from disret.encode.models import load_encoder, set_precision

pytestmark = pytest.mark.skipif(not has_bfloat16("cpu"), reason="this CPU has no bfloat16")
TEXTS = ["a", "b c", *("w" * (i % 40) + f" {i}" for i in range(40))]


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "mpnet", "distilbert", "modernbert", "qwen3", "t5", "albert"]
)
def test_embeddings_differ_from_float32_by_rounding(kind, tmp_path):
    """And by no more than with bfloat16 weights alone."""
    folder = str(save_encoder(tmp_path / kind, kind))
    exact = load_encoder(folder, "cpu").encode_query(TEXTS)
    plain = load_encoder(folder, "cpu").bfloat16().encode_query(TEXTS)
    model = load_encoder(folder, "cpu")
    set_precision(model, "bfloat16")
    found = BatchEncoder(model, 4).encode_query(TEXTS)
    assert found.dtype == np.float32

    def error(vectors):
        return np.linalg.norm(exact - vectors, axis=1).mean()

    assert 0 < error(found) < 1.5 * error(plain) < 0.2
    # Normalised in float32, after the transformer.
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_all_linear_layers_of_bert_are_packed(tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / "m", layers=2)), "cpu")
    transformer = model.transformers_model.to(torch.bfloat16)
    count = sum(type(module) is torch.nn.Linear for module in transformer.modules())
    speed_up(transformer)
    packed = [module for module in transformer.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == count == 2 * 6 + 1
    assert sum(module.activation[0] == "gelu" for module in packed) == 2


@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_linear(with_gelu, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 32, bias=bias).to(torch.bfloat16)
    inputs = torch.randn(5, 7, 48).to(torch.bfloat16)
    wanted = linear(inputs).float()
    wanted = torch.nn.functional.gelu(wanted) if with_gelu else wanted
    found = PackedLinear(linear, with_gelu)(inputs)
    torch.testing.assert_close(found.float(), wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("tokens", [1, 10, 16, 33, 64, 65, 200, 300])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(tokens, masked):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, tokens, 16).to(torch.bfloat16)
    mask = torch.ones(2, 1, tokens, tokens, dtype=torch.bool)
    mask[1, :, :, max(1, tokens // 2) :] = False
    mask = mask if masked else None
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask
    )
    module = torch.nn.Module()
    module.is_causal = False
    found, _ = batched_products(module, query, key, value, mask)
    torch.testing.assert_close(found.float(), wanted.transpose(1, 2), atol=0.03, rtol=0.03)
