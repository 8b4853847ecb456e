"""An ONNX graph in int8: embeddings by row, products with scales that are set beforehand.

A text's vector does not depend on the texts that run with it, as it would with scales of the
moment, by the largest value of a whole batch.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.serve.onnx_graph import quiet

if TYPE_CHECKING:
    import onnx
    from tokenizers import Tokenizer

LENGTHS = range(1, 65)  # tokens of the texts that are made up
EVENED = 0.75  # how much of the channels' differences goes into the weights: 0 none, 1 all
WEIGHT_LEVELS = 63  # of 127, or sums overflow on CPUs without VNNI
Feeds = Sequence[Mapping[str, np.ndarray]]  # what the graph takes, text by text


def quantise(graph: Path, feeds: Feeds, path: Path) -> None:
    """Write a graph in float32 as one in int8, with scales that the texts of `feeds` set."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet():
        quant_pre_process(graph, path, skip_symbolic_shape=True)
        model = onnx.load(path)
        _quantise_embeddings(model.graph)
        quantise_products(model, feeds)
        onnx.save(model, path)


def by_row(table: np.ndarray, levels: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """A float32 table as int8 of the same shape, `levels` at most, and a scale for each row."""
    scales = np.maximum(np.abs(table).max(axis=1), 1e-12) / levels
    return np.rint(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _quantise_embeddings(graph: "onnx.GraphProto") -> None:
    """Look rows up in int8 tables, each row with a scale of its own."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {tensor.name: tensor for tensor in graph.initializer
              if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2}  # fmt: skip
    uses = collections.Counter(name for node in graph.node for name in node.input)
    nodes = []
    for node in graph.node:
        name = node.input[0] if node.op_type == "Gather" else ""
        if name not in tables or uses[name] > 1:
            nodes.append(node)
            continue
        quantised, scales = by_row(numpy_helper.to_array(tables[name]))
        rows, (output,) = node.input[1], node.output
        graph.initializer.remove(tables[name])
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


def made_up_texts(tokenizer: "Tokenizer") -> list[str]:
    """Texts of random tokens, so that what a log of queries lacks has its place in the ranges."""
    random = np.random.default_rng(0)
    vocabulary = tokenizer.get_vocab_size()
    return [tokenizer.decode(random.integers(vocabulary, size=length)) for length in LENGTHS]


def quantise_products(model: "onnx.ModelProto", feeds: Feeds) -> None:
    """Put products of uint8 and int8 in place of those of float32 with constant weights.

    One scale for all channels of an input does not fit where some channels are far larger than
    others, as in transformers. So the channels are evened out first, and the weights make up for
    it (SmoothQuant, Xiao et al., ICML 2023).

    Args:
        model: which this changes.
        feeds: of texts; what goes beyond their values later on is cut.
    """
    from onnx import helper, numpy_helper

    graph, node = model.graph, helper.make_node
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
               if len(tensor.dims) == 2}  # fmt: skip
    products = collections.defaultdict(list)  # by what they take
    for one in graph.node:
        if one.op_type == "MatMul" and one.input[1] in weights:
            products[one.input[0]].append(one)
    layers = collections.defaultdict(list)  # inputs by their weights: a model may repeat a layer
    for given, takers in products.items():
        layers[tuple(product.input[1] for product in takers)].append(given)
    ranges = _ranges(model, list(products), feeds)
    constants: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []
    of_inputs: dict[str, list[onnx.NodeProto]] = {}
    for number, (of, inputs) in enumerate(layers.items()):
        lows, highs = zip(*(ranges[given] for given in inputs), strict=True)
        factors, scale, zero = _even(np.min(lows, 0), np.max(highs, 0), [weights[w] for w in of])
        factor, *rounding = (f"layer_{number}_{what}" for what in ("factors", "scale", "zero"))
        constants |= {factor: factors, rounding[0]: scale, rounding[1]: zero}
        for weight in of:
            name = f"layer_{number}_{weight}"
            integers, scales = by_row((weights[weight] / factors[:, None]).T, WEIGHT_LEVELS)
            constants |= {name: integers.T.copy(), f"{name}_scales": scales}
            nodes.append(
                node("DequantizeLinear", [name, f"{name}_scales"], [f"{name}_float"], axis=1)
            )
        for given in inputs:
            of_inputs[f"{given}_int8"] = [
                node("Mul", [given, factor], [f"{given}_even"]),
                node("QuantizeLinear", [f"{given}_even", *rounding], [f"{given}_uint8"]),
                node("DequantizeLinear", [f"{given}_uint8", *rounding], [f"{given}_int8"]),
            ]
            for product in products[given]:
                product.input[:] = f"{given}_int8", f"layer_{number}_{product.input[1]}_float"
    for one in graph.node:
        for name in one.input:
            nodes += of_inputs.pop(name, [])  # once, before the first that takes it
        nodes.append(one)
    used = {name for one in nodes for name in one.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _ranges(
    model: "onnx.ModelProto", names: list[str], feeds: Feeds
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The least and the largest value of each channel of some tensors, by their names."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            rows = value.reshape(-1, value.shape[-1])
            low, high = ranges.get(name, (rows[0], rows[0]))
            ranges[name] = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return ranges


def _even(
    low: np.ndarray, high: np.ndarray, weights: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each channel of an input is multiplied with; then its scale and its zero, in uint8.

    Args:
        low, high: the range of each channel, float32 [channels].
        weights: of the products that take the input, float32 [channels, outputs] each.
    """
    sizes = np.maximum(np.maximum(-low, high), 1e-6)
    of_weights = np.maximum(np.max([np.abs(w).max(axis=1) for w in weights], axis=0), 1e-6)
    factors = np.float32(of_weights ** (1 - EVENED) / sizes**EVENED)
    least, most = min(0.0, (low * factors).min()), max(0.0, (high * factors).max())
    scale = np.float32(max(most - least, 1e-12) / 255)
    return factors, scale, np.uint8(np.rint(-least / scale))
