"""A trained query encoder for a service: prompt, tokenizer, model and pooling, without torch.

    python -m disret.export models/student                       # into models/student/query-encoder
    python -m disret.export all-MiniLM-L6-v2 --output teacher    # a model of the hub

A transformer becomes an ONNX graph in float32 and one in int8; a static model, tables. Both are
compared with the model on real queries before they are kept. `disret.query_encoder` reads them.
"""

import collections
import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.encoders import describe, load_encoder, prompt_of
from disret.files import check_writable, whole_folder, write_json
from disret.query_encoder import (
    FOLDER,
    FORMAT,
    PRECISIONS,
    SETTINGS,
    ExportError,
    QueryEncoder,
    sha256_of,
)
from disret.terminal import UserError, argument_parser, run

if TYPE_CHECKING:
    import onnx
    import torch
    from sentence_transformers import SentenceTransformer

QUERIES = 500  # on which an export is compared with its model
FLOAT32_TOLERANCE = 1e-4  # of a coordinate
INT8_COSINE = 0.995  # on average
LARGEST = 2_000_000_000  # bytes: what one ONNX file can hold
LONGEST = 1_000_000  # tokens; transformers writes a number beyond for "no maximum"
# What decides a model's vectors, as sentence-transformers saves it.
MODEL_FILES = (
    "modules.json", "tokenizer.json", "*config*.json", "*/config.json", "*.safetensors",
    "*/*.safetensors", "*.bin", "*/*.bin",
)  # fmt: skip


def export(
    encoder: "SentenceTransformer", folder: Path, queries: Sequence[str], source: Path | None = None
) -> dict[str, Any]:
    """Write `folder/query-encoder`, complete and checked, or leave what is there.

    An int8 that is not close enough to the model is left out.

    Args:
        encoder: in float32 on the CPU.
        folder: that of the model, or one without a model.
        queries: real ones, to compare on.
        source: the folder that the model was loaded from. If that is where the export goes, the
            model's files are noted, so that it is not taken for the export of another model which
            is put there later.

    Returns:
        What was compared: `queries`, `float32_largest_difference` of a coordinate,
        `int8_mean_cosine` to the model, and `int8`, how it was made, None if it was left out.

    Raises:
        UserError: the model cannot be exported, float32 is not close enough to it, or there is
            another model in the folder.
    """
    import onnxruntime
    from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding

    if isinstance(encoder[0], Router):
        raise UserError("a model of two encoders cannot be exported; export the student alone.")
    is_beside = source is not None and folder.resolve() == source.resolve()
    if not is_beside and (folder / "modules.json").exists():
        raise UserError(f"{folder} holds another model; name another --output.")
    is_static = isinstance(encoder[0], StaticEmbedding)
    with whole_folder(folder / FOLDER) as partial_folder:
        tokenizer = _write_tokenizer(encoder, partial_folder, is_static)
        texts = [*queries, *_edges(tokenizer["max_length"])]
        expected = encoder.encode_query(texts, show_progress_bar=False)
        write = _write_tables if is_static else _write_graphs
        files, ways_to_int8, more = write(encoder, partial_folder)
        checks: dict[str, Any] = {"queries": len(queries)}
        settings = {
            "format": FORMAT,
            "onnxruntime": onnxruntime.__version__,
            "kind": "static" if is_static else "onnx",
            "dimension": int(expected.shape[1]),
            "size": asdict(describe(encoder)),
            "prompt": prompt_of(encoder, "query") or "",
            **tokenizer,
            **more,
            "checks": checks,
            "files": {
                "tokenizer": _digests(partial_folder, ["tokenizer.json"]),
                "float32": _digests(partial_folder, files),
            },
            "model_files": _digests(folder, _model_files(folder)) if is_beside else {},
        }

        def vectors(precision: str, some: Sequence[str], batch_size: int) -> np.ndarray:
            write_json(partial_folder / SETTINGS, settings)
            return QueryEncoder.from_pretrained(partial_folder, precision).encode(some, batch_size)

        difference = float(np.abs(vectors("float32", texts, 64) - expected).max())
        if not difference <= FLOAT32_TOLERANCE:
            raise UserError(
                f"the export differs from the model by {difference:.2g} in a coordinate, more than "
                f"{FLOAT32_TOLERANCE:.0e}; it was not kept."
            )
        checks.update(float32_largest_difference=difference, int8_mean_cosine=0.0, int8=None)
        for way, quantise in ways_to_int8.items():
            files = quantise()
            settings["files"]["int8"] = _digests(partial_folder, files)
            # One by one, as a service runs them: a batch has a scale in common.
            cosine = _mean_cosine(vectors("int8", queries, 1), expected[: len(queries)])
            checks["int8_mean_cosine"] = max(cosine, checks["int8_mean_cosine"])
            if cosine >= INT8_COSINE:
                checks["int8"] = way
                break
        else:
            for name in settings["files"].pop("int8"):
                (partial_folder / name).unlink()
        write_json(partial_folder / SETTINGS, settings)
    return checks


def check_packages() -> None:
    """Raise `UserError` unless what an export needs is installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"an export needs {package}, which is not installed: pip install {package}"
            )


def export_once(folder: Path, queries: Sequence[str]) -> None:
    """Export the model at `folder` unless its export is there and whole; say what came of it."""
    try:
        for precision in QueryEncoder.from_pretrained(folder).settings["files"].keys() & PRECISIONS:
            QueryEncoder.from_pretrained(folder, precision)
    except ExportError:
        checks = export(load_encoder(str(folder), "cpu"), folder, queries[:QUERIES], folder)
        print(summary(folder, checks))


def summary(folder: Path, checks: dict[str, Any]) -> str:
    """A line for the terminal."""
    cosine = f"a cosine of {checks['int8_mean_cosine']:.5f}"
    return (
        f"{folder / FOLDER}, on {checks['queries']} queries: float32 within "
        f"{checks['float32_largest_difference']:.1e} of the model, "
        + (
            f"int8 ({checks['int8']}) at {cosine}."
            if checks["int8"]
            else f"int8 left out, as it came to {cosine}, less than {INT8_COSINE}."
        )
    )


def _edges(max_length: int | None) -> list[str]:
    """Texts that queries of a log are not: none, of other scripts, longer than the maximum."""
    edges = ["", "Größe 東京 naïve"]
    if max_length and max_length <= 1024:  # longer ones take too much memory
        edges.append("a long text " * max_length)
    return edges


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in names}


def _mean_cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.mean((vectors * expected).sum(axis=1) / np.maximum(lengths, 1e-12)))


def _model_files(folder: Path) -> list[str]:
    """What decides the vectors of the sentence-transformers model in a folder."""
    found = {path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    names = {path.relative_to(folder).as_posix() for path in found if path.parent.name != FOLDER}
    return sorted(name for name in names if not name.startswith("."))


def _write_tokenizer(
    encoder: "SentenceTransformer", folder: Path, is_static: bool
) -> dict[str, Any]:
    """Save the tokenizer with its maximum length; what else the runtime must know of it."""
    from tokenizers import Tokenizer

    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise UserError("only a model with a tokenizer of the tokenizers library can be exported.")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    if is_static:
        length = (copy.truncation or {}).get("max_length")
    else:
        length = getattr(encoder[0], "query_length", None) or encoder.max_seq_length
        if length and length > LONGEST:
            length = None
        copy.no_truncation()
        if length:
            copy.enable_truncation(length, direction=tokenizer.truncation_side)
    copy.save(str(folder / "tokenizer.json"))
    return {"max_length": length, "special_tokens": not is_static}


# --- Static models --------------------------------------------------------------------------------

Written = tuple[list[str], dict[str, Callable[[], list[str]]], dict[str, Any]]


def _write_tables(encoder: "SentenceTransformer", folder: Path) -> Written:
    from sentence_transformers.sentence_transformer.modules import Normalize

    after = list(encoder)[1:]
    others = [type(module).__name__ for module in after if not isinstance(module, Normalize)]
    if others:
        raise UserError(f"a static model with {', '.join(others)} cannot be exported.")
    table = encoder[0].embedding.weight.detach().float().numpy()
    np.save(folder / "model.npy", table)

    def rows() -> list[str]:
        quantised, scales = _by_row(table)
        np.save(folder / "model-int8.npy", quantised)
        np.save(folder / "model-int8-scales.npy", scales)
        return ["model-int8.npy", "model-int8-scales.npy"]

    return ["model.npy"], {"a scale for each token": rows}, {"normalize": bool(after)}


# --- Transformers ---------------------------------------------------------------------------------


def _write_graphs(encoder: "SentenceTransformer", folder: Path) -> Written:
    """The graph in float32, and ways to int8 from the smallest and fastest to the most exact."""
    size = sum(weight.numel() * weight.element_size() for weight in encoder.parameters())
    if size > LARGEST:
        raise UserError(
            f"the model has {size / 1e9:.1f} GB, and an ONNX file holds {LARGEST / 1e9:.0f} GB."
        )
    more = _write_graph(encoder, folder / "model.onnx")
    how = {
        "a scale for each channel": partial(_quantise, folder, _by_channel),
        "a scale for each channel, narrowing products in float32": partial(
            _quantise, folder, _by_channel_but_narrowing
        ),
        "a scale for each 32 weights": partial(_quantise, folder, _by_block),
    }
    return ["model.onnx"], how, more


def _write_graph(encoder: "SentenceTransformer", path: Path) -> dict[str, Any]:
    """Trace the whole encoder; batch and length stay free."""
    import torch

    prompt = prompt_of(encoder, "query")
    sample = encoder.preprocess(
        ["what is dense retrieval, and why?", "how?"], prompt=prompt, task="query"
    )
    tensors = {name: value for name, value in sample.items() if torch.is_tensor(value)}
    constants = {name: value for name, value in sample.items() if name not in tensors}
    unknown = tensors.keys() - _PADDING.keys()
    if unknown or any(value.ndim != 2 for value in tensors.values()):
        raise UserError(f"a model with the inputs {', '.join(sorted(tensors))} cannot be exported.")

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *columns: torch.Tensor) -> torch.Tensor:
            features = {**constants, **dict(zip(tensors, columns, strict=True))}
            embedding = self.encoder(features, task="query")["sentence_embedding"]
            return embedding[:, : encoder.truncate_dim]

    free = torch.export.Dim.DYNAMIC
    with _made_plain(encoder), _quiet():
        try:
            program = torch.onnx.export(
                Graph().eval(),
                tuple(tensors.values()),
                input_names=list(tensors),
                output_names=["query_embedding"],
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
        "padding": {name: getattr(tokenizer, _PADDING[name], 0) for name in tensors},
        "padding_side": tokenizer.padding_side,
    }


_PADDING = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id",
            "attention_mask": ""}  # fmt: skip


@contextlib.contextmanager
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
    counted = attention_mask.cumsum(dim=1)
    return attention_mask * (counted > prompt_length)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' reports of progress and of absent packages to themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantise(folder: Path, quantise_products: Callable[[Path, Path], None]) -> list[str]:
    """Embeddings by row, products as asked for."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    with _quiet():
        quant_pre_process(folder / "model.onnx", prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _quantise_embeddings(model.graph)
        onnx.save(model, prepared)
        quantise_products(prepared, folder / "model-int8.onnx")
    prepared.unlink()
    return ["model-int8.onnx"]


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
        quantised, scales = _by_row(numpy_helper.to_array(table))
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


def _by_row(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.export")
    add = parser.add_argument
    # fmt: off
    add("model", help="directory or hub name of a sentence-transformers model")
    add("--output", type=Path, metavar="DIR",
        help="put the folder query-encoder there (default: into the model's)")
    add("--queries", type=Path, metavar="FILE",
        help="compare on these (default: MS MARCO's dev queries)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    # fmt: on
    args = parser.parse_args()
    from disret.download import mirror_from
    from disret.query_files import msmarco_queries, read_queries

    local = Path(args.model)
    if not args.output and not local.is_dir():
        raise UserError(f"{args.model} is no directory; say with --output where the export goes.")
    folder = args.output or local
    check_packages()
    check_writable(folder / FOLDER, is_file=False)
    file = args.queries or msmarco_queries(mirror_from(args.mirror))[1]
    queries = read_queries([file], QUERIES)
    checks = export(load_encoder(args.model, "cpu"), folder, queries, local)
    print(summary(folder, checks))


if __name__ == "__main__":
    run(main)
