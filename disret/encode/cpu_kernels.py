"""What makes bfloat16 transformers fast on a CPU: the same functions, computed otherwise.

In bfloat16 the matrix products of an encoder take a third of their time in float32, and what was
small beside them is no longer. Three things help, measured by `perf/encoding.py`:

- Attention over up to `LONGEST` tokens as two batched products and a softmax between them. torch's
  fused kernel, made for long sequences, takes twice as long there.
- Weights of linear layers stored in the order in which oneDNN multiplies them, once instead of at
  each product.
- GELU applied by oneDNN to the product while it is in the cache.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LONGEST = 256  # tokens; torch's fused kernel is made for longer sequences
CACHED_SCORES = 1 << 21  # numbers in the cache between the two products
SHORT = 64  # tokens; a softmax over so few is faster in float32, by whole vector registers
REGISTER = 16  # float32 numbers
ROWS = 2048  # of a typical product, for oneDNN's choice of the order of weights


def speed_up(transformer: PreTrainedModel) -> None:
    """Change a bfloat16 transformer on the CPU, in place, for inference only.

    Its weights can no longer be saved or trained. Parts that are built otherwise stay as they are.
    """
    if transformer.config._attn_implementation == "sdpa":
        AttentionInterface.register("batched_products", batched_products)
        AttentionMaskInterface.register("batched_products", sdpa_mask)
        transformer.set_attn_implementation("batched_products")
    if not torch.backends.mkldnn.is_available():  # which is oneDNN
        return
    for module in list(transformer.modules()):
        children = dict(module.named_children())
        # The feed-forward layer of BERT and its relatives.
        fused = (
            type(children.get("intermediate_act_fn")) is GELUActivation
            and type(children.get("dense")) is torch.nn.Linear
        )
        for name, child in children.items():
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child, with_gelu=fused and name == "dense"))
        if fused:
            module.intermediate_act_fn = torch.nn.Identity()


class PackedLinear(torch.nn.Module):
    """A linear layer whose weights lie in oneDNN's order, as `torch.compile` stores them too.

    Args:
        linear: bfloat16 weights [outputs, inputs].
        with_gelu: apply GELU to the product.
    """

    def __init__(self, linear: torch.nn.Linear, with_gelu: bool = False) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = ("gelu", [], "none") if with_gelu else ("none", [], "")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """bfloat16 [..., inputs] to [..., outputs]."""
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, *self.activation)


def batched_products(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' `AttentionInterface` wants it.

    Args:
        query, key, value: [texts, heads, tokens, size].
        attention_mask: bool, broadcast to [texts, heads, tokens, tokens]; False hides a token.

    Returns:
        [texts, tokens, heads, size], and no weights.
    """
    causal = kwargs.get("is_causal", getattr(module, "is_causal", False))
    plain = (
        query.shape[2] == key.shape[2] <= LONGEST
        and query.shape[1] == key.shape[1]
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and not (causal and attention_mask is None)
        and kwargs.get("position_bias") is None
    )
    if not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    texts, heads, tokens, size = query.shape
    query = query * (scaling or size**-0.5)
    key = key.transpose(-1, -2)
    output = query.new_empty(texts, tokens, heads, size)
    step = max(1, CACHED_SCORES // (heads * tokens * tokens))
    for start in range(0, texts, step):
        part = slice(start, start + step)
        scores = query[part] @ key[part]
        if attention_mask is not None:
            hidden = ~attention_mask[part] if len(attention_mask) == texts else ~attention_mask
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        if tokens <= SHORT:
            scores = torch.nn.functional.pad(scores, (0, -tokens % REGISTER), value=-torch.inf)
            scores = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)[..., :tokens]
        else:
            torch.softmax(scores, -1, out=scores)
        output[part] = (scores @ value[part]).transpose(1, 2)
    return output, None
