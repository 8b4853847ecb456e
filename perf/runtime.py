#!/usr/bin/env python
"""How fast the runtime without torch is beside its peers, and how fast it starts.

    pip install --no-deps --target .peers -r perf/peers.txt
    PYTHONPATH=.peers python perf/runtime.py --models models/two models/static     # exported both

Every way encodes the same queries in turns, one by one and in batches. A transformer's peers are
what its encoder cannot do without (the tokenizer, the arrays that the graph takes, and the run of
the session), and FastEmbed; those of a static model, model2vec and sentence-transformers. Peers
that are not installed are left out. The start is that of fresh processes: import, load, and the
first query.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import add_mirror, argument_parser, positive, run, say
from disret.data.download import mirror_from
from disret.data.queries import msmarco_queries, read_queries
from disret.files import check_writable, write_json

if TYPE_CHECKING:
    import numpy as np

    from disret.query_encoder import QueryEncoder

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("model2vec", "fastembed")
OWN = "this project"
START = """
import sys, time
begin = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from disret.query_encoder import QueryEncoder
QueryEncoder.from_pretrained(sys.argv[2], sys.argv[3]).encode(["what is dense retrieval?"])
print(time.perf_counter() - begin)
"""
Way = Callable[[list[str]], "np.ndarray"]


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--models", type=Path, nargs="+", required=True, help="exported models")
    add("--batch-sizes", type=positive, nargs="+", default=[1, 64, 1024],
        help="(default: 1 64 1024)")
    add("--queries", type=positive, default=4096, help="of MS MARCO's dev queries (default: 4096)")
    add("--rounds", type=positive, default=5, help="(default: 5)")
    add("--threads", type=positive, default=1,
        help="of graphs and torch; tokenizers take all cores for a batch (default: 1)")
    add("--output", type=Path, default=ROOT / "perf" / "results" / "runtime.json")
    # fmt: on
    add_mirror(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_writable(args.output)
    queries = read_queries([msmarco_queries(mirror_from(args.mirror))[1]], args.queries)

    from disret.devices import device_name, versions
    from disret.query_encoder import PRECISIONS
    from disret.tables import format_table

    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    if absent := [name for name in PEERS if name not in installed]:
        say(f"left out, as not installed: {', '.join(absent)}.")
    rows, starts = [], []
    for model in args.models:
        for precision in PRECISIONS:
            ways = ways_of(model, precision, args.threads, installed)
            rows += compare(ways, queries, args, {"model": model.name, "precision": precision})
            seconds = [start(model, precision) for _ in range(args.rounds)]
            starts.append({
                "model": model.name, "precision": precision,
                "start_ms": round(1e3 * statistics.median(seconds)),
                "starts_ms": [round(1e3 * value) for value in seconds],
            })  # fmt: skip
    packages = {**versions(), **{name: version(name) for name in installed}}
    settings = {"queries": args.queries, "threads": args.threads, "rounds": args.rounds}
    report = {"device": device_name("cpu"), "versions": packages, **settings}
    write_json(args.output, {**report, "rows": rows, "starts": starts})
    for table in (rows, starts):
        print(format_table([{k: v for k, v in row.items() if not isinstance(v, list)}
                            for row in table]))  # fmt: skip


def ways_of(model: Path, precision: str, threads: int, installed: list[str]) -> dict[str, Way]:
    """What embeds queries as the model does, by name."""
    from disret.query_encoder import QueryEncoder

    encoder = QueryEncoder.from_pretrained(model, precision, threads)
    ways: dict[str, Way] = {OWN: encoder.encode}
    if encoder.settings["kind"] == "onnx":
        ways["bare session"] = bare_session(encoder, precision, threads)
        if "fastembed" in installed:
            ways["FastEmbed"] = fastembed(encoder, precision, threads)
    elif precision == "float32":
        if "model2vec" in installed:
            ways["model2vec"] = model2vec(encoder)
        ways["sentence-transformers"] = sentence_transformers(model, threads)
    return ways


def compare(ways: dict[str, Way], queries: list[str], args: argparse.Namespace, of: dict) -> list:
    """A row for each way and batch size: milliseconds of a query, the median of each round."""
    import numpy as np

    expected = ways[OWN](queries)
    differences = {
        name: float(np.abs(np.concatenate([way([query]) for query in queries[:64]])
                           - expected[:64]).max())
        for name, way in ways.items()
    }  # fmt: skip
    rows = []
    for batch_size in args.batch_sizes:
        size = min(batch_size, len(queries))
        batches = [queries[i : i + size] for i in range(0, len(queries) - size + 1, size)]
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):  # the first warms up
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for batch in batches:
                for name, way in ways.items():
                    begin = time.perf_counter()
                    way(batch)
                    seconds[name].append((time.perf_counter() - begin) / size)
            if turn:
                for name, values in seconds.items():
                    rounds[name].append(statistics.median(values))
        own = statistics.median(rounds[OWN])
        rows += [
            {
                **of, "batch_size": size, "way": name,
                "ms": round(1e3 * statistics.median(values), 4),
                "times_own": round(statistics.median(values) / own, 3),
                "largest_difference": float(f"{differences[name]:.1e}"),
                "runs_ms": [round(1e3 * value, 4) for value in values],
            }
            for name, values in rounds.items()
        ]  # fmt: skip
    return rows


def graph_of(encoder: "QueryEncoder", precision: str) -> Path:
    (name,) = encoder.settings["files"][precision]
    return encoder.folder / name


def tokenizer_of(encoder: "QueryEncoder"):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(encoder.folder.parent / "tokenizer.json"))
    tokenizer.no_padding()
    if encoder.max_length:
        tokenizer.enable_truncation(encoder.max_length)
    return tokenizer


def bare_session(encoder: "QueryEncoder", precision: str, threads: int) -> Way:
    """Tokenizer, arrays, session, in the order in which queries come."""
    import numpy as np
    import onnxruntime

    from disret.query_encoder import COLUMNS

    tokenizer = tokenizer_of(encoder)
    tokenizer.enable_padding(pad_id=encoder.settings["padding"]["input_ids"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph_of(encoder, precision)), options)
    names = [node.name for node in session.get_inputs()]
    prompt = encoder.settings["prompt"]

    def encode(queries: list[str]) -> np.ndarray:
        tokens = tokenizer.encode_batch_fast([prompt + query for query in queries])
        columns = {name: np.array([getattr(one, COLUMNS[name]) for one in tokens])
                   for name in names}  # fmt: skip
        return session.run(["sentence_embedding"], columns)[0]

    return encode


def fastembed(encoder: "QueryEncoder", precision: str, threads: int) -> Way:
    """The same graph as a custom model."""
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder, graph = encoder.folder.resolve().parent, graph_of(encoder, precision).name
    name = f"{folder}/{graph}"
    TextEmbedding.add_custom_model(
        model=name, model_file=f"onnx/{graph}", dim=encoder.dimension,
        sources=ModelSource(hf="user/student"), pooling=PoolingType.DISABLED, normalization=False,
    )  # fmt: skip
    model = TextEmbedding(name, threads=threads, specific_model_path=str(folder))
    prompt = encoder.settings["prompt"]
    return lambda queries: np.stack(list(model.embed([prompt + query for query in queries])))


def model2vec(encoder: "QueryEncoder") -> Way:
    """The same table; it leaves unknown tokens out."""
    from model2vec import StaticModel

    static = encoder._vectors_of
    model = StaticModel(static.table, tokenizer_of(encoder), normalize="normalize" in static.steps)
    prompt = encoder.settings["prompt"]
    return lambda queries: model.encode([prompt + query for query in queries])


def sentence_transformers(model: Path, threads: int) -> Way:
    import torch

    from disret.encode.models import load_encoder

    torch.set_num_threads(threads)
    encoder = load_encoder(str(model), "cpu")
    return lambda queries: encoder.encode_query(
        queries, batch_size=len(queries), show_progress_bar=False
    )


def start(model: Path, precision: str) -> float:
    """Seconds from import to the first embedding, in a fresh process."""
    command = [sys.executable, "-c", START, str(ROOT), str(model), precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    run(main)
