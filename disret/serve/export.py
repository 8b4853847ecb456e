"""A trained query encoder for a service: prompt, tokenizer, model and pooling, without torch.

    python -m disret.serve.export models/student               # models/student/query-encoder
    python -m disret.serve.export all-MiniLM-L6-v2 --output teacher        # a model of the hub

A transformer becomes an ONNX graph in float32 and one in int8; a static model, tables. Both are
compared with the model on real queries before they are kept. `disret.query_encoder` reads them.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError, add_mirror, argument_parser, run
from disret.encode.models import describe, fingerprint, load_encoder, prompt_of
from disret.encode.tokens import LONGEST
from disret.files import check_writable, claim, read_record, whole_folder, write_json
from disret.network import hub_obstacle
from disret.query_encoder import (
    FOLDER,
    FORMAT,
    INDEX,
    PRECISIONS,
    SETTINGS,
    ExportError,
    QueryEncoder,
    sha256_of,
)
from disret.serve.int8 import WAYS, by_row, quantise
from disret.serve.onnx_graph import write_graph

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

QUERIES = 500  # on which an export is compared with its model
FLOAT32_TOLERANCE = 1e-4  # of a coordinate
INT8_COSINE = 0.995  # on average
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
        raise UserError(f"{folder} holds another model; the export needs another folder.")
    is_static = isinstance(encoder[0], StaticEmbedding)
    index = _index_of(encoder, source)
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
        write_json(partial_folder / INDEX, {**index, "dimension": settings["dimension"]})
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
            QueryEncoder.from_pretrained(folder, precision, index=folder / FOLDER / INDEX)
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


def _index_of(encoder: "SentenceTransformer", source: Path | None) -> dict[str, str]:
    """What made the index that an encoder is for: a student's teacher; else the encoder itself.

    Raises:
        UserError: the report of a student's training is damaged.
    """
    from sentence_transformers.util import load_file_path

    path = source and load_file_path(
        str(source), "distillation.json",
        local_files_only=source.exists() or hub_obstacle() is not None,
    )  # fmt: skip
    if path is None:
        return {"encoder": str(source or "a model"), "encoder_sha256": fingerprint(encoder)}
    report = read_record(Path(path), {"arguments": dict, "inputs": dict})
    try:
        arguments = report["arguments"]
        name = arguments.get("teacher_model") or arguments["teacher"]
        sha256 = report.get("encoder_sha256") or report["inputs"]["teacher_sha256"]
    except (TypeError, KeyError):
        raise UserError(f"{path} is damaged, so the export would not know its index.") from None
    return {"encoder": name, "encoder_sha256": sha256}


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


# Files in float32, ways to int8 that write files as well, and what else the runtime must know.
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
        quantised, scales = by_row(table)
        np.save(folder / "model-int8.npy", quantised)
        np.save(folder / "model-int8-scales.npy", scales)
        return ["model-int8.npy", "model-int8-scales.npy"]

    return ["model.npy"], {"a scale for each token": rows}, {"normalize": bool(after)}


def _write_graphs(encoder: "SentenceTransformer", folder: Path) -> Written:
    more = write_graph(encoder, folder / "model.onnx")
    how = {way: partial(quantise, folder, products) for way, products in WAYS.items()}
    return ["model.onnx"], how, more


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.serve.export")
    add = parser.add_argument
    # fmt: off
    add("model", help="directory or hub name of a sentence-transformers model")
    add("--output", type=Path, metavar="DIR",
        help="put the folder query-encoder there (default: into the model's)")
    add("--queries", type=Path, metavar="FILE",
        help="compare on these (default: MS MARCO's dev queries)")
    # fmt: on
    add_mirror(parser)
    args = parser.parse_args()
    from disret.data.download import mirror_from
    from disret.data.query_files import msmarco_queries, read_queries

    local = Path(args.model)
    if not args.output and not local.is_dir():
        raise UserError(f"{args.model} is no directory; say with --output where the export goes.")
    folder = args.output or local
    check_packages()
    check_writable(folder / FOLDER, is_file=False)
    claim(folder / FOLDER)
    file = args.queries or msmarco_queries(mirror_from(args.mirror))[1]
    queries = read_queries([file], QUERIES)
    checks = export(load_encoder(args.model, "cpu"), folder, queries, local)
    print(summary(folder, checks))


if __name__ == "__main__":
    run(main)
