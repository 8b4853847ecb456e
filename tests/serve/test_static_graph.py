"""A static encoder as a graph: the model's own vectors, and its tables in the file."""

import numpy as np
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from tiny import tokenizer

from disret.command_line import UserError
from disret.serve.int8 import by_row
from disret.serve.static_graph import write_static

TABLE = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
ROWS = [[1, 2, 3], [4], []]


def static(table: np.ndarray, *after, dimension: int | None = None) -> SentenceTransformer:
    modules = [StaticEmbedding(tokenizer(), embedding_weights=table), *after]
    return SentenceTransformer(modules=modules, device="cpu", truncate_dim=dimension)


def dense(size: int, units: int, activation: torch.nn.Module) -> Dense:
    torch.manual_seed(units)
    layer = Dense(size, units, activation_function=activation)
    torch.nn.init.normal_(layer.linear.weight)
    return layer


def in_runtime(path) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64)
    for line, row in enumerate(ROWS):
        ids[line, : len(row)], mask[line, : len(row)] = row, 1
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"input_ids": ids, "attention_mask": mask})


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dimension", [24, 10])
@pytest.mark.parametrize("in_int8", [False, True])
def test_the_mean_of_the_tokens(tmp_path, normalize, dimension, in_int8):
    path = tmp_path / "model.onnx"
    model = static(TABLE, *[Normalize()] * normalize, dimension=dimension)
    noted = write_static(model, path, in_int8)
    assert noted["steps"] == ["normalize"] * normalize
    integers, scales = by_row(TABLE)
    table = integers * scales[:, None] if in_int8 else TABLE
    expected = np.stack([table[row].mean(axis=0) if row else np.zeros(24) for row in ROWS])
    if normalize:
        expected[:2] /= np.linalg.norm(expected[:2], axis=1, keepdims=True)
    vectors, tokens = in_runtime(path)
    np.testing.assert_allclose(vectors, expected[:, :dimension], atol=1e-6)
    np.testing.assert_allclose(tokens[0], table[ROWS[0]], atol=1e-6)
    nothing = np.zeros((2, 0), np.int64)
    session = onnxruntime.InferenceSession(str(path))
    vectors, _ = session.run(None, {"input_ids": nothing, "attention_mask": nothing})
    np.testing.assert_array_equal(vectors, np.zeros((2, dimension)))


@pytest.mark.parametrize("steps", [
    ["relu", "linear"], ["relu", "linear", "normalize"],
    ["normalize", "linear", "normalize"], ["relu", "linear", "normalize", "linear", "normalize"],
])  # fmt: skip
def test_layers_behind_the_mean(tmp_path, steps):
    relu = torch.nn.ReLU()
    layers = [dense(24, 48, relu), dense(48, 24, torch.nn.Identity())] * ("relu" in steps)
    layers += [Normalize()] * ("normalize" in steps)
    layers += [dense(24, 24, torch.nn.Identity()), Normalize()] * (steps[-3:-2] == ["normalize"])
    path = tmp_path / "model.onnx"
    noted = write_static(static(TABLE, *layers), path)
    assert noted["steps"] == steps
    expected = np.stack([TABLE[row].mean(axis=0) if row else np.zeros(24) for row in ROWS])
    arrays = [[part.detach().numpy() for part in layer.parameters()] for layer in layers]
    for parts, step in zip(arrays, steps, strict=True):
        if step == "normalize":
            expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
        else:
            expected = expected @ parts[0].T + parts[1]
        expected = np.maximum(expected, 0) if step == "relu" else expected
    vectors, tokens = in_runtime(path)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    # Its mean over the tokens is what a runtime that takes it shall get.
    np.testing.assert_array_equal(tokens, np.repeat(vectors[:, None], 3, axis=1))
    for name, at in noted["tables"].items():
        if name != "embeddings":
            kind, number = name.split("_")
            found = np.memmap(path, at["dtype"], "r", at["offset"], tuple(at["shape"]))
            wanted = arrays[int(number)][["weight", "bias"].index(kind)]
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(dense(24, 24, torch.nn.Tanh()), r"activation\.Tanh.* cannot be exported"),
     (Dense(24, 24, bias=False), "'bias': False.* cannot be exported")],
)  # fmt: skip
def test_other_layers_are_refused(tmp_path, layer, reason):
    with pytest.raises(UserError, match=reason):
        write_static(static(TABLE, layer), tmp_path / "model.onnx")


@pytest.mark.parametrize("rows", [1, 2, 39])
def test_its_tables_lie_where_it_says(tmp_path, rows):
    path = tmp_path / "model.onnx"
    quantised, scales = by_row(TABLE[:rows])
    for tables in ({"embeddings": TABLE[:rows]},
                   {"embeddings": quantised, "scales": scales[:, None]}):  # fmt: skip
        noted = write_static(static(TABLE[:rows], Normalize()), path, in_int8="scales" in tables)
        for name, at in noted["tables"].items():
            found = np.memmap(path, at["dtype"], "r", at["offset"], tuple(at["shape"]))
            np.testing.assert_array_equal(found, tables[name].reshape(at["shape"]))
        assert noted["tables"].keys() == tables.keys()
