"""A static encoder as a graph: its mean, and its tables in the file."""

import numpy as np
import onnxruntime
import pytest

from disret.serve.set_scales import by_row
from disret.serve.static_graph import Layer, tables_of, write_static_graph

TABLE = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
ROWS = [[1, 2, 3], [4], []]


def in_runtime(path) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.zeros((3, 3), np.int64), np.zeros((3, 3), np.int64)
    for line, row in enumerate(ROWS):
        ids[line, : len(row)], mask[line, : len(row)] = row, 1
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"input_ids": ids, "attention_mask": mask})


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dimension", [24, 10])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_mean_of_the_tokens(tmp_path, normalize, dimension, precision):
    path = tmp_path / "model.onnx"
    tables = [TABLE] if precision == "float32" else by_row(TABLE)
    write_static_graph(path, *tables, normalize=normalize, dimension=dimension)
    table = tables[0] * tables[1][:, None] if precision == "int8" else TABLE
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


@pytest.mark.parametrize("normalize", [True, False])
def test_layers_behind_the_mean(tmp_path, normalize):
    rng = np.random.default_rng(1)
    layers = [
        Layer(*(rng.normal(size=shape).astype(np.float32) for shape in shapes), relu)
        for shapes, relu in ((((48, 24), 48), True), (((24, 48), 24), False))
    ]
    path = tmp_path / "model.onnx"
    write_static_graph(path, TABLE, layers=layers, normalize=normalize, dimension=24)
    expected = np.stack([TABLE[row].mean(axis=0) if row else np.zeros(24) for row in ROWS])
    for weight, bias, relu in layers:
        expected = expected @ weight.T + bias
        expected = np.maximum(expected, 0) if relu else expected
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors, tokens = in_runtime(path)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    # Its mean over the tokens is what a runtime that takes it shall get.
    np.testing.assert_array_equal(tokens, np.repeat(vectors[:, None], 3, axis=1))
    for name, at in tables_of(path).items():
        if name != "embeddings":
            kind, number = name.split("_")
            found = np.memmap(path, at["dtype"], "r", at["offset"], tuple(at["shape"]))
            np.testing.assert_array_equal(found, getattr(layers[int(number)], kind))


@pytest.mark.parametrize("rows", range(1, 40))
def test_its_tables_can_be_mapped(tmp_path, rows):
    path = tmp_path / "model.onnx"
    quantised, scales = by_row(TABLE[:rows])
    for tables in ({"embeddings": TABLE[:rows]},
                   {"embeddings": quantised, "scales": scales[:, None]}):  # fmt: skip
        write_static_graph(path, *tables.values(), normalize=True, dimension=24)
        for name, at in tables_of(path).items():
            found = np.memmap(path, at["dtype"], "r", at["offset"], tuple(at["shape"]))
            np.testing.assert_array_equal(found, tables[name].reshape(at["shape"]))
            assert found.flags.aligned
        assert tables_of(path).keys() == tables.keys()
