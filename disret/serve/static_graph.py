"""A static encoder as an ONNX graph: the mean of an embedding for each token, and what follows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from disret.command_line import UserError

if TYPE_CHECKING:
    import onnx
    from sentence_transformers import SentenceTransformer

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes of some years read
ALIGNMENT = 64  # bytes


class Layer(NamedTuple):
    """A dense layer, float32 [units, width] and [units], and whether ReLU follows."""

    weight: np.ndarray
    bias: np.ndarray
    relu: bool


def layers_of(encoder: "SentenceTransformer") -> tuple[list[Layer], bool]:
    """The dense layers that follow the mean of a static model, and whether it is normalised.

    Raises:
        UserError: something else follows.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from torch.nn import Identity, ReLU

    after = list(encoder)[1:]
    normalize = bool(after) and isinstance(after[-1], Normalize)
    layers = []
    for module in after[: len(after) - normalize]:
        activation = getattr(module, "activation_function", None)
        if not isinstance(module, Dense) or module.use_residual or module.linear.bias is None:
            raise UserError(f"a static model with {type(module).__name__} cannot be exported.")
        if not isinstance(activation, Identity | ReLU):
            name = type(activation).__name__
            raise UserError(f"a static model with {name} layers cannot be exported.")
        weight, bias = (
            part.detach().float().numpy() for part in (module.linear.weight, module.linear.bias)
        )
        layers.append(Layer(weight, bias, isinstance(activation, ReLU)))
    return layers, normalize


def write_static_graph(
    path: Path,
    embeddings: np.ndarray,
    scales: np.ndarray | None = None,
    *,
    layers: Sequence[Layer] = (),
    normalize: bool,
    dimension: int,
) -> None:
    """Write the graph, from `input_ids` and `attention_mask` to `sentence_embedding`.

    `last_hidden_state` is there as well, for runtimes that take the mean themselves: the tokens'
    embeddings, or where layers follow the mean, the vector itself for each token.

    Args:
        embeddings: float32 or int8 [vocabulary, width].
        scales: float32 [vocabulary], of an int8 table.
        layers: that follow the mean.
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
        nodes = [node("Gather", ["embeddings", "input_ids"], ["found"])]
    else:
        tables = {"scales": scales[:, None], **tables}
        nodes = [
            node("Gather", ["embeddings", "input_ids"], ["rows"]),
            node("Cast", ["rows"], ["as_float"], to=TensorProto.FLOAT),
            node("Gather", ["scales", "input_ids"], ["row_scales"]),
            node("Mul", ["as_float", "row_scales"], ["found"]),
        ]
    nodes += [
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis_1"], ["mask_row"]),
        node("MatMul", ["mask_row", "found"], ["sum_row"]),
        node("Squeeze", ["sum_row", "axis_1"], ["sum"]),
        node("ReduceSum", ["mask", "axis_1"], ["tokens"], keepdims=1),
        node("Max", ["tokens", "one"], ["at_least_one"]),
        node("Div", ["sum", "at_least_one"], ["mean"]),
    ]
    whole = "mean"
    for number, layer in enumerate(layers):
        weight, bias, sums, whole = (
            f"{name}_{number}" for name in ("weight", "bias", "sums", "units")
        )
        tables |= {weight: layer.weight, bias: layer.bias}
        last = f"units_{number - 1}" if number else "mean"
        nodes += [
            node("Gemm", [last, weight, bias], [sums], transB=1),
            node("Relu" if layer.relu else "Identity", [sums], [whole]),
        ]
    if normalize:
        constants["least"] = np.float32([1e-12])
        nodes += [
            node("ReduceL2", [whole], ["length"], axes=[1], keepdims=1),
            node("Max", ["length", "least"], ["positive_length"]),
            node("Div", [whole, "positive_length"], ["normalised"]),
        ]
        whole = "normalised"
    nodes.append(node("Slice", [whole, "zero", "dimension", "axis_1"], ["sentence_embedding"]))
    if layers:
        constants["one_number"] = np.int64([1])
        nodes += [
            node("Unsqueeze", [whole, "axis_1"], ["one_row"]),
            node("Shape", ["attention_mask"], ["batch_and_tokens"]),
            node("Concat", ["batch_and_tokens", "one_number"], ["rows_shape"], axis=0),
            node("Expand", ["one_row", "rows_shape"], ["last_hidden_state"]),
        ]
    else:
        nodes.append(node("Identity", ["found"], ["last_hidden_state"]))
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
        For `embeddings`, in int8 `scales`, and `weight_N` and `bias_N` of the layers: `dtype` of
        numpy, `shape`, and `offset` in bytes.
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
        if tensor.name.startswith(("embeddings", "scales", "weight_", "bias_"))
    }
