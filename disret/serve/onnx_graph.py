"""An encoder as an ONNX graph, from tokens to embeddings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError
from disret.encode.models import prompt_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

LARGEST = 2_000_000_000  # bytes: what one ONNX file can hold
# Columns that a graph may take, and the tokenizer's name for what fills each up.
PADDING = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id", "attention_mask": ""}


def write_graph(encoder: "SentenceTransformer", path: Path) -> dict[str, Any]:
    """Trace the whole encoder, prompt and tokenizer aside; batch and length stay free.

    The graph gives `sentence_embedding`, first as FastEmbed takes what comes first, and
    `last_hidden_state` before pooling, where transformers.js pools by itself.

    Returns:
        `inputs`, the graph's columns, and `padding` and `padding_side`, how texts are filled up.

    Raises:
        UserError: the model is too large, or torch cannot trace it.
    """
    import torch

    size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    if size > LARGEST:
        raise UserError(
            f"the model has {size / 1e9:.1f} GB, and an ONNX file holds {LARGEST / 1e9:.0f} GB."
        )
    sample = features_of(encoder, ["what is dense retrieval, and why?", "how?"])
    tensors = {name: value for name, value in sample.items() if torch.is_tensor(value)}
    constants = {name: value for name, value in sample.items() if name not in tensors}
    if not tensors.keys() <= PADDING.keys():
        raise UserError(f"a model with the inputs {', '.join(sorted(tensors))} cannot be exported.")

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = {**constants, **dict(zip(tensors, columns, strict=True))}
            output = self.encoder(features, task="query")
            embedding = output["sentence_embedding"][:, : encoder.truncate_dim]
            return embedding, output["token_embeddings"]

    free = torch.export.Dim.DYNAMIC
    with _made_plain(encoder), quiet():
        try:
            program = torch.onnx.export(
                Graph().eval(),
                tuple(tensors.values()),
                input_names=list(tensors),
                output_names=["sentence_embedding", "last_hidden_state"],
                dynamic_shapes=(tuple({0: free, 1: free} for _ in tensors),),
                dynamo=True,
                verbose=False,
            )
            program.save(path, external_data=False)
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UserError(f"torch cannot make an ONNX graph of this model: {reason}") from error
    tokenizer = encoder.tokenizer
    return {
        "inputs": list(tensors),
        "padding": {name: getattr(tokenizer, PADDING[name], 0) for name in tensors},
        "padding_side": tokenizer.padding_side,
    }


def features_of(encoder: "SentenceTransformer", queries: list[str]) -> dict[str, Any]:
    """What the encoder takes for queries: tensors [n_queries, tokens] and constants."""
    return encoder.preprocess(queries, prompt=prompt_of(encoder, "query"), task="query")


@contextmanager
def _made_plain(encoder: "SentenceTransformer") -> Iterator[None]:
    """Let a model compute the same in a way that makes a plain graph.

    Attention as products and a softmax makes a smaller one than torch's fused kernel; and pooling
    without the prompt's tokens looks into the mask for padding, which a graph cannot.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = encoder.transformers_model
    kind = transformer.config._attn_implementation
    poolings = [module for module in encoder.modules() if isinstance(module, Pooling)]
    transformer.set_attn_implementation("eager")
    for pooling in poolings:
        pooling._exclude_prompt_from_mask = _without_prompt
    try:
        yield
    finally:
        transformer.set_attn_implementation(kind)
        for pooling in poolings:
            del pooling._exclude_prompt_from_mask


def _without_prompt(attention_mask: "torch.Tensor", prompt_length: int) -> "torch.Tensor":
    """The mask without the first tokens of each text, wherever it begins."""
    return attention_mask * (attention_mask.cumsum(dim=1) > prompt_length)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' reports of progress and of absent packages to themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
