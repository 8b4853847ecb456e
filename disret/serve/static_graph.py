"""A static encoder as an ONNX graph: the mean of an embedding for each token, and what follows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError
from disret.serve.int8 import by_row

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes of some years read
ACTIVATIONS = {"Identity": "Identity", "ReLU": "Relu"}  # torch's names and ONNX's

# In ONNX's own words, piece by piece.
CONSTANTS = """
    one = Constant<value_floats = [1.0]>()
    zero = Constant<value_ints = [0]>()
    axis_1 = Constant<value_ints = [1]>()
    dimension = Constant<value_ints = [{dimension}]>()"""
FOUND = "found = Gather(embeddings, input_ids)"
FOUND_IN_INT8 = """
    rows = Gather(embeddings, input_ids)
    as_float = Cast<to = 1>(rows)
    row_scales = Gather(scales, input_ids)
    found = Mul(as_float, row_scales)"""
MEAN = """
    mask = Cast<to = 1>(attention_mask)
    mask_row = Unsqueeze(mask, axis_1)
    sum_row = MatMul(mask_row, found)
    sum = Squeeze(sum_row, axis_1)
    tokens = ReduceSum<keepdims = 1>(mask, axis_1)
    at_least_one = Max(tokens, one)
    mean = Div(sum, at_least_one)"""
LINEAR = """
    sums_{number} = Gemm<transB = 1>({last}, weight_{number}, bias_{number})
    units_{number} = {activation}(sums_{number})"""
NORMALISED = """
    length_{number} = ReduceL2<axes = [1], keepdims = 1>({last})
    least_{number} = Constant<value_floats = [1e-12]>()
    positive_length_{number} = Max(length_{number}, least_{number})
    units_{number} = Div({last}, positive_length_{number})"""
CUT = "sentence_embedding = Slice({last}, zero, dimension, axis_1)"
TOKENS = "last_hidden_state = Identity(found)"
VECTOR_FOR_EACH_TOKEN = """
    one_row = Unsqueeze({last}, axis_1)
    batch_and_tokens = Shape(attention_mask)
    rows_shape = Concat<axis = 0>(batch_and_tokens, axis_1)
    last_hidden_state = Expand(one_row, rows_shape)"""
GRAPH = """
<ir_version: {ir_version}, opset_import: ["": {opset}]>
static_encoder (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask) =>
    (float[batch, {dimension}] sentence_embedding, float[batch, tokens, {width}] last_hidden_state)
{{ {nodes} }}
"""


def write_static(
    encoder: "SentenceTransformer", path: Path, in_int8: bool = False
) -> dict[str, Any]:
    """Write the graph, from `input_ids` and `attention_mask` to `sentence_embedding`.

    What is cut off a vector is cut last, as sentence-transformers does. `last_hidden_state` is
    there as well, for runtimes that take the mean themselves: the tokens' embeddings, or where
    layers follow the mean, the vector itself for each token.

    Args:
        encoder: in float32 on the CPU.
        in_int8: the embeddings, with a scale for each token; layers stay in float32.

    Returns:
        `steps` behind the mean, `linear`, `relu` or `normalize`; and for readers that know no
        ONNX, `tables`, where `embeddings`, in int8 `scales`, and `weight_N` and `bias_N` of step N
        stand in the file: `dtype` of numpy, `shape`, and `offset` in bytes.

    Raises:
        UserError: something else follows the mean than dense layers and normalisations.
    """
    import onnx
    from sentence_transformers.sentence_transformer.modules import Normalize

    embeddings = encoder[0].embedding.weight.detach().numpy()
    dimension = encoder.get_embedding_dimension()
    tables = {"embeddings": embeddings}
    if in_int8:
        integers, scales = by_row(embeddings)
        tables = {"scales": scales[:, None], "embeddings": integers}
    nodes = [CONSTANTS.format(dimension=dimension), FOUND_IN_INT8 if in_int8 else FOUND, MEAN]
    last, steps = "mean", []
    for number, module in enumerate(list(encoder)[1:]):
        activation = type(getattr(module, "activation_function", None)).__name__
        if isinstance(module, Normalize):
            steps.append("normalize")
            nodes.append(NORMALISED.format(last=last, number=number))
        elif (
            activation in ACTIVATIONS and not module.use_residual and module.linear.bias is not None
        ):
            steps.append("relu" if activation == "ReLU" else "linear")
            tables[f"weight_{number}"] = module.linear.weight.detach().numpy()
            tables[f"bias_{number}"] = module.linear.bias.detach().numpy()
            activation = ACTIVATIONS[activation]
            nodes.append(LINEAR.format(last=last, number=number, activation=activation))
        else:
            raise UserError(f"a static model with {module} cannot be exported.")
        last = f"units_{number}"
    nodes.append(CUT.format(last=last))
    nodes.append(VECTOR_FOR_EACH_TOKEN.format(last=last) if {*steps} - {"normalize"} else TOKENS)
    model = onnx.parser.parse_model(GRAPH.format(
        ir_version=IR_VERSION, opset=OPSET, dimension=dimension, width=embeddings.shape[1],
        nodes="\n".join(nodes),
    ))  # fmt: skip
    for node in model.graph.node:
        node.ClearField("domain")  # which the parser writes out where it is ONNX's own
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in tables.items()
    )
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    path.write_bytes(content)
    places = {
        name: {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "offset": content.find(array.tobytes()),
        }
        for name, array in tables.items()
    }
    return {"steps": steps, "tables": places}
