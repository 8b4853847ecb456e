"""An ONNX graph in int8: embeddings by row, products in several ways."""

import collections
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.serve.onnx_graph import quiet

if TYPE_CHECKING:
    import onnx


def quantise(graph: Path, quantise_products: Callable[[Path, Path], None], path: Path) -> None:
    """Write a graph in int8 to `path`: embeddings by row, products as asked for."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    with quiet():
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _quantise_embeddings(model.graph)
        onnx.save(model, prepared)
        quantise_products(prepared, path)
    prepared.unlink()


def _quantise_embeddings(graph: "onnx.GraphProto") -> None:
    """Look rows up in int8 tables, each row with a scale of its own."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {tensor.name: tensor for tensor in graph.initializer}
    uses = collections.Counter(name for node in graph.node for name in node.input)
    nodes = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        is_embedding = table is not None and (
            table.data_type == TensorProto.FLOAT and len(table.dims) == 2
            and uses[table.name] == 1 and not any(attribute.i for attribute in node.attribute)
        )  # fmt: skip
        if not is_embedding:
            nodes.append(node)
            continue
        quantised, scales = by_row(numpy_helper.to_array(table))
        name, rows, (output,) = table.name, node.input[1], node.output
        graph.initializer.remove(table)
        graph.initializer.append(numpy_helper.from_array(quantised, name))
        graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}_scales"))
        nodes += [
            helper.make_node("Gather", [name, rows], [f"{output}_int8"]),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scales", rows], [f"{output}_scales"]),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scales"], [output]),
        ]
    del graph.node[:], graph.value_info[:]  # the types are inferred anew
    graph.node.extend(nodes)


def by_row(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 table as int8 of the same shape and a float32 scale for each row."""
    scales = np.maximum(np.abs(table).max(axis=1), 1e-12) / 127
    return np.rint(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _by_channel(prepared: Path, path: Path, in_float: Sequence[str] = ()) -> None:
    """Weights with a scale for each output beforehand, activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        prepared, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
        weight_type=QuantType.QInt8, nodes_to_exclude=list(in_float),
        reduce_range=True,  # or sums overflow on CPUs without VNNI
    )  # fmt: skip


def _by_channel_but_narrowing(prepared: Path, path: Path) -> None:
    """The same but for products with fewer outputs than inputs.

    These end feed-forward blocks. Their inputs have a few values far larger than the rest, which a
    scale for all of them does not fit: nearly all of the error comes from there.
    """
    import onnx

    graph = onnx.load(prepared).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    narrowing = [
        node.name for node in graph.node
        if node.op_type == "MatMul" and (shape := shapes.get(node.input[1]))
        and shape[0] > shape[1]
    ]  # fmt: skip
    _by_channel(prepared, path, narrowing)


def _by_block(prepared: Path, path: Path) -> None:
    """Weights and activations in blocks, each with its scale: slower, and nearly exact."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    settings = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=True, accuracy_level=4, bits=8
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(prepared), algo_config=settings)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


# From the smallest and fastest to the most exact.
WAYS = {
    "a scale for each channel": _by_channel,
    "a scale for each channel, narrowing products in float32": _by_channel_but_narrowing,
    "a scale for each 32 weights": _by_block,
}
