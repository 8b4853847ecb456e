"""A trained query encoder for services: one folder that many runtimes load.

    python -m disret.serve.export models/student               # adds models/student/onnx
    python -m disret.serve.export all-MiniLM-L6-v2 --output teacher        # a model of the hub

The model becomes an ONNX graph in float32 and one in int8, pooling included. Both are compared
with the model on real queries before they are kept. `disret.query_encoder` reads them, and where
the hub's models have them, so do FastEmbed and transformers.js.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import (
    UserError,
    add_mirror,
    argument_parser,
    end_if_told,
    run,
    tell,
)
from disret.data.download import mirror_from
from disret.data.hub import hub_obstacle
from disret.data.queries import msmarco_queries, read_queries
from disret.encode.models import describe, fingerprint, load_encoder, prompt_of
from disret.files import check_writable, claim, follow_umask, whole_folder, write_json
from disret.query_encoder import (
    FOLDER,
    FORMAT,
    INDEX,
    PRECISIONS,
    SETTINGS,
    ExportError,
    QueryEncoder,
    digest_of,
    sha256_of,
)
from disret.serve.int8 import made_up_texts, quantise
from disret.serve.onnx_graph import PADDING, features_of, write_graph
from disret.serve.static_graph import write_static
from disret.serve.tokenizer_files import backend_of, write_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

QUERIES = 1000  # on which an export is compared with its model
FLOAT32_TOLERANCE = 1e-4  # of a coordinate
INT8_COSINE = 0.995  # on average
GRAPHS = {"float32": "model.onnx", "int8": "model_quantized.onnx"}  # as the hub's models have them
HELD_OUT = ("centred_cosine", "centred_cosine_spread")  # of a student's report
# What decides a model's vectors, as sentence-transformers saves it.
MODEL_FILES = (
    "modules.json", "tokenizer.json", "*config*.json", "*/config.json", "*.safetensors",
    "*/*.safetensors", "*.bin", "*/*.bin",
)  # fmt: skip


def export(
    encoder: "SentenceTransformer", folder: Path, queries: Sequence[str], source: Path | None = None
) -> dict[str, Any]:
    """Write `folder/onnx`, complete and checked, or leave what is there.

    An int8 that is not close enough to the model is left out.

    Args:
        encoder: in float32 on the CPU.
        folder: that of the model, or a new one, where the model is saved first.
        queries: real ones, to compare on; of a transformer, every second one sets the scales of
            int8, which is compared on the others.
        source: the folder that the model was loaded from.

    Returns:
        What was compared: `queries`, `float32_largest_difference` of a coordinate,
        `int8_queries`, their `int8_mean_cosine` to the model, and `int8`, how it was made, None if
        it was left out.

    Raises:
        UserError: the model cannot be exported, float32 is not close enough to it, or there is
            something else in the folder.
    """
    import onnxruntime
    from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding
    from sentence_transformers.util import pairwise_cos_sim
    from tokenizers import Tokenizer

    is_static = isinstance(encoder[0], StaticEmbedding)
    if isinstance(encoder[0], Router):
        raise UserError("a model of two encoders cannot be exported; export the student alone.")
    if not isinstance(backend_of(encoder), Tokenizer):
        raise UserError("only a model with a tokenizer of the tokenizers library can be exported.")
    if source is None or folder.resolve() != source.resolve():
        _put_model(encoder, folder)
    place = folder / FOLDER
    if place.is_dir() and any(place.iterdir()) and not (place / SETTINGS).exists():
        raise UserError(f"{place} was not made here; move it elsewhere.")
    report = _report_of(source)
    index = _index_of(encoder, source, report)
    with whole_folder(place) as new:
        tokenizer = write_tokenizer(encoder, folder)
        # What queries of a log are not: empty, of other scripts, longer than the maximum.
        texts = [*queries, "", "Größe 東京 naïve"]
        if (length := tokenizer["max_length"]) and length <= 1024:  # longer takes too much memory
            texts.append("a long text " * length)
        expected = encoder.encode_query(texts, show_progress_bar=False)
        others = queries[::2]
        graph, in_int8 = new / GRAPHS["float32"], new / GRAPHS["int8"]
        if is_static:
            more = write_static(encoder, graph)
            way = "a scale for each token"
            write_int8 = partial(write_static, encoder, in_int8, True)
        else:
            more = write_graph(encoder, graph)
            of_scales = [*(queries[1::2] or others), *made_up_texts(backend_of(encoder))]
            feeds = [{name: value.numpy() for name, value in features_of(encoder, [text]).items()
                      if name in PADDING} for text in of_scales]  # fmt: skip
            way = "scales set beforehand"
            write_int8 = partial(quantise, graph, feeds, in_int8)
        checks = {"queries": len(queries), "int8_queries": len(others)}
        settings: dict[str, Any] = {
            "format": FORMAT,
            "onnxruntime": onnxruntime.__version__,
            "kind": "static" if is_static else "onnx",
            "dimension": int(expected.shape[1]),
            "size": describe(encoder)._asdict(),
            "prompt": prompt_of(encoder, "query") or "",
            **tokenizer,
            **more,
            "checks": checks,
            # Of the student on held-out queries, for who watches it.
            "held_out": {name: report[name] for name in HELD_OUT if name in report},
            "files": {"tokenizer": {"../tokenizer.json": sha256_of(folder / "tokenizer.json")}},
            "tables": {},
            "model_files": {
                path.relative_to(folder).as_posix(): sha256_of(path)
                for path in sorted({one for name in MODEL_FILES for one in folder.glob(name)})
            },
        }

        def vectors(precision: str, noted: Any, some: Sequence[str]) -> np.ndarray:
            path = new / GRAPHS[precision]
            settings["files"][precision] = {path.name: sha256_of(path)}
            if is_static:
                settings["tables"][precision] = noted["tables"]
            write_json(new / SETTINGS, settings)
            return QueryEncoder.from_pretrained(new, precision).encode(some)

        difference = float(np.abs(vectors("float32", more, texts) - expected).max())
        if not difference <= FLOAT32_TOLERANCE:
            raise UserError(
                f"the export differs from the model by {difference:.2g} in a coordinate, more than "
                f"{FLOAT32_TOLERANCE:.0e}; it was not kept."
            )
        found = vectors("int8", write_int8(), others)
        cosine = float(pairwise_cos_sim(found, expected[: len(queries) : 2]).mean())
        kept = way if cosine >= INT8_COSINE else None
        checks.update(float32_largest_difference=difference, int8_mean_cosine=cosine, int8=kept)
        if not kept:
            in_int8.unlink()
            settings["files"].pop("int8")
        write_json(new / SETTINGS, {**settings, "sha256": digest_of(settings)})
        write_json(new / INDEX, {**index, "dimension": settings["dimension"]})
        end_if_told()  # torch's exporter tries another way, whatever was raised in the first
    return checks


def _put_model(encoder: "SentenceTransformer", folder: Path) -> None:
    """Save a model into a folder where there is none yet.

    Raises:
        UserError: the folder holds something else.
    """
    if (folder / "modules.json").exists():
        if fingerprint(load_encoder(str(folder), "cpu")) != fingerprint(encoder):
            raise UserError(f"{folder} holds another model; the export needs another folder.")
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files; the export needs a new folder.")
    else:
        with whole_folder(folder) as partial:
            encoder.save_pretrained(str(partial), create_model_card=False)
            follow_umask(partial)


def export_once(folder: Path, queries: Sequence[str]) -> None:
    """Export the model at `folder` unless its export is there and whole; say what came of it."""
    try:
        for precision in QueryEncoder.from_pretrained(folder).settings["files"].keys() & PRECISIONS:
            QueryEncoder.from_pretrained(folder, precision, index=folder / FOLDER / INDEX)
    except ExportError:
        checks = export(load_encoder(str(folder), "cpu"), folder, queries[:QUERIES], folder)
        tell(summary(folder, checks))


def summary(folder: Path, checks: dict[str, Any]) -> str:
    """A line for the terminal."""
    cosine = f"a cosine of {checks['int8_mean_cosine']:.5f}"
    int8 = f"int8 left out, as it came to {cosine}, less than {INT8_COSINE}"
    if checks["int8"]:
        int8 = f"int8 ({checks['int8']}) at {cosine} on {checks['int8_queries']} of them"
    return (
        f"{folder / FOLDER}, on {checks['queries']} queries: float32 within "
        f"{checks['float32_largest_difference']:.1e} of the model, {int8}."
    )


def _report_of(source: Path | None) -> dict[str, Any]:
    """What distill.py noted of a student, wherever that was loaded from; else nothing."""
    from sentence_transformers.util import load_file_path

    is_local = hub_obstacle() is not None or (source is not None and source.exists())
    path = source and load_file_path(str(source), "distillation.json", local_files_only=is_local)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _index_of(
    encoder: "SentenceTransformer", source: Path | None, report: Mapping[str, Any]
) -> dict[str, str]:
    """What made the index that an encoder is for: a student's teacher; else the encoder itself."""
    if not report:
        return {"encoder": str(source or "a model"), "encoder_sha256": fingerprint(encoder)}
    name = report["arguments"].get("teacher_model") or report["arguments"]["teacher"]
    sha256 = report.get("encoder_sha256") or report["inputs"]["teacher_sha256"]
    return {"encoder": name, "encoder_sha256": sha256}


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.serve.export")
    add = parser.add_argument
    # fmt: off
    add("model", help="directory or hub name of a sentence-transformers model")
    add("--output", type=Path, metavar="DIR",
        help="a new folder for model and export (default: the model's own)")
    add("--queries", type=Path, metavar="FILE",
        help="compare on these (default: MS MARCO's dev queries)")
    # fmt: on
    add_mirror(parser)
    args = parser.parse_args()
    local = Path(args.model)
    if not args.output and not local.is_dir():
        raise UserError(f"{args.model} is no directory; say with --output where the export goes.")
    folder = args.output or local
    check_writable(folder / FOLDER, is_file=False)
    claim(folder)
    file = args.queries or msmarco_queries(mirror_from(args.mirror))[1]
    queries = read_queries([file], QUERIES)
    checks = export(load_encoder(args.model, "cpu"), folder, queries, local)
    tell(summary(folder, checks))


if __name__ == "__main__":
    run(main)
