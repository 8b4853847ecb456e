"""An ONNX graph in int8: embeddings by row, products in several ways.

In none of them does a text's vector depend on the texts that run with it.
"""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from disret.serve.onnx_graph import quiet
from disret.serve.set_scales import Feeds, by_row, quantise_products

if TYPE_CHECKING:
    import onnx

BLOCK = 64  # weights
Way = Callable[["onnx.ModelProto", Feeds], "onnx.ModelProto"]


def quantise(graph: Path, feeds: Feeds, way: Way, path: Path) -> None:
    """Write a graph in int8: embeddings by row, products as asked for.

    Args:
        graph: in float32.
        feeds: of the texts that set scales.
        way: one of WAYS.
        path: where the graph in int8 goes.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("prepared.onnx")
    with quiet():
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        prepared.unlink()
        _quantise_embeddings(model.graph)
        onnx.save(way(model, feeds), path)


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


def _by_block(model: "onnx.ModelProto", _feeds: Feeds) -> "onnx.ModelProto":
    """Weights and inputs in blocks, each with a scale: slower, and nearly exact."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    settings = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=8
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=settings)
    quantizer.process()
    return quantizer.model.model


# The faster first.
WAYS: dict[str, Way] = {
    "scales set beforehand": quantise_products,
    f"a scale for each {BLOCK} weights": _by_block,
}
