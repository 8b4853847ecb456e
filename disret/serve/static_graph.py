"""A static encoder as an ONNX graph: the mean of an embedding for each token, and its tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes of some years read
ALIGNMENT = 64  # bytes


def write_static_graph(
    path: Path,
    embeddings: np.ndarray,
    scales: np.ndarray | None = None,
    *,
    normalize: bool,
    dimension: int,
) -> None:
    """Write the graph, from `input_ids` and `attention_mask` to `sentence_embedding`.

    `last_hidden_state` is there as well, for runtimes that take the mean themselves.

    Args:
        embeddings: float32 or int8 [vocabulary, width].
        scales: float32 [vocabulary], of an int8 table.
        normalize: whether vectors get the length of one.
        dimension: of the vectors; what is cut off is cut after that, as sentence-transformers does.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    constants = {
        "one": np.float32([1]),
        "axis_1": np.int64([1]),
        "zero": np.int64([0]),
        "dimension": np.int64([dimension]),
    }
    tables = {"embeddings": embeddings}
    if scales is None:
        nodes = [node("Gather", ["embeddings", "input_ids"], ["last_hidden_state"])]
    else:
        tables = {"scales": scales[:, None], **tables}
        nodes = [
            node("Gather", ["embeddings", "input_ids"], ["rows"]),
            node("Cast", ["rows"], ["as_float"], to=TensorProto.FLOAT),
            node("Gather", ["scales", "input_ids"], ["row_scales"]),
            node("Mul", ["as_float", "row_scales"], ["last_hidden_state"]),
        ]
    nodes += [
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis_1"], ["mask_row"]),
        node("MatMul", ["mask_row", "last_hidden_state"], ["sum_row"]),
        node("Squeeze", ["sum_row", "axis_1"], ["sum"]),
        node("ReduceSum", ["mask", "axis_1"], ["tokens"], keepdims=1),
        node("Max", ["tokens", "one"], ["at_least_one"]),
        node("Div", ["sum", "at_least_one"], ["mean"]),
    ]
    if normalize:
        constants["least"] = np.float32([1e-12])
        nodes += [
            node("ReduceL2", ["mean"], ["length"], axes=[1], keepdims=1),
            node("Max", ["length", "least"], ["positive_length"]),
            node("Div", ["mean", "positive_length"], ["whole"]),
        ]
    whole = "whole" if normalize else "mean"
    nodes.append(node("Slice", [whole, "zero", "dimension", "axis_1"], ["sentence_embedding"]))
    value = helper.make_tensor_value_info
    width = embeddings.shape[1]
    graph = helper.make_graph(
        nodes,
        "static_encoder",
        [value(name, TensorProto.INT64, ["batch", "tokens"])
         for name in ("input_ids", "attention_mask")],
        [value("sentence_embedding", TensorProto.FLOAT, ["batch", dimension]),
         value("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", width])],
        [numpy_helper.from_array(array, name) for name, array in {**tables, **constants}.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    path.write_bytes(_aligned(model))


def _aligned(model: "onnx.ModelProto") -> bytes:
    """A model's bytes, its first tensor at a multiple of ALIGNMENT, so that it can be mapped."""
    first = model.graph.initializer[0].raw_data
    model.doc_string = " "  # it stands before the graph
    beyond = model.SerializeToString().find(first) % ALIGNMENT
    model.doc_string += " " * (-beyond % ALIGNMENT)
    return model.SerializeToString()


def tables_of(path: Path) -> dict[str, dict[str, Any]]:
    """Where the tables of a graph stand in its file, for readers that know no ONNX.

    Returns:
        For `embeddings`, and in int8 `scales`: `dtype` of numpy, `shape`, and `offset` in bytes.
    """
    import onnx

    content = path.read_bytes()
    types = {onnx.TensorProto.FLOAT: "<f4", onnx.TensorProto.INT8: "|i1"}
    return {
        tensor.name: {
            "dtype": types[tensor.data_type],
            "shape": list(tensor.dims),
            "offset": content.find(tensor.raw_data),
        }
        for tensor in onnx.load_from_string(content).graph.initializer
        if tensor.name in ("embeddings", "scales")
    }
