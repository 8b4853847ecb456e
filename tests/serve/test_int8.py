"""Products in int8 stay close, alone as in a batch, and where layers share their weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import LETTERS, tokenizer

from disret.serve.int8 import by_row, made_up_texts, quantise_products

RANDOM = np.random.default_rng(0)
WIDTH = 64


def graph(repeats: int) -> onnx.ModelProto:
    """Twice the input through a layer of two products, one and the same in each repeat."""
    weights = {f"w{i}": RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8 for i in (0, 1)}
    nodes, given = [], "x"
    for step in range(repeats):
        nodes += [
            helper.make_node("MatMul", [given, "w0"], [f"a{step}"]),
            helper.make_node("MatMul", [given, "w1"], [f"b{step}"]),
            helper.make_node("Add", [f"a{step}", f"b{step}"], [f"sum{step}"]),
            helper.make_node("Tanh", [f"sum{step}"], [f"y{step}"]),
        ]
        given = f"y{step}"
    shape = ["batch", WIDTH]
    return helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip


def run(model: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})[0]


@pytest.mark.parametrize("repeats", [1, 3])
def test_channels_of_very_different_sizes(repeats):
    sizes = np.where(np.arange(WIDTH) % 16, 0.02, 5)
    seen, rows = RANDOM.normal(size=(2, 200, WIDTH)).astype(np.float32) * np.float32(sizes)
    model = graph(repeats)
    expected = run(model, rows)
    quantise_products(model, [{"x": row[None]} for row in seen])
    found = run(model, rows)
    error = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert 1e-4 < error < 0.1
    alone = np.concatenate([run(model, row[None]) for row in rows[:20]])
    np.testing.assert_allclose(alone, found[:20], atol=1e-6)
    stored = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert [tensor.data_type for tensor in stored] == [TensorProto.INT8] * 2  # and once each
    onnx.checker.check_model(model, full_check=True)


def test_what_goes_beyond_what_was_seen_is_cut():
    model = graph(1)
    seen = RANDOM.uniform(-1, 1, size=(100, WIDTH)).astype(np.float32)
    quantise_products(model, [{"x": row[None]} for row in seen])
    far = np.sign(seen[:1])
    np.testing.assert_allclose(run(model, 100 * far), run(model, 1.2 * far), atol=0.05)


def test_texts_are_made_up_of_the_whole_vocabulary():
    texts = made_up_texts(tokenizer().backend_tokenizer)
    assert len(texts) == 64
    assert set("".join(texts)) >= set(LETTERS)
    assert texts == made_up_texts(tokenizer().backend_tokenizer)


def test_a_scale_for_each_row():
    table = RANDOM.normal(size=(20, 8)).astype(np.float32) * np.arange(20)[:, None]
    integers, scales = by_row(table.astype(np.float32))
    assert np.abs(integers[1:]).max(axis=1).tolist() == [127] * 19
    np.testing.assert_allclose(integers * scales[:, None], table, atol=scales.max() / 2 + 1e-6)
