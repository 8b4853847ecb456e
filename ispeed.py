#!/usr/bin/env python
"""Time query encoders: latency and queries per second on one device, tokenisation included.

    python ispeed.py --encoders msmarco-bert-base-dot-v5 models/student --datasets nq   # the paper
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --queries log.tsv \\
        --output evaluations/speed.csv
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --datasets nfcorpus \\
        --backends torch export export-int8 --batch-sizes 1 64 --threads 1    # exports too

Runs of different encoders take turns, so that a drift of the machine's speed meets all alike.
Speed-up is over the first encoder and backend, at the same queries and batch size. At batch size
1, every query is a call of its own, and the percentiles of their times are shown.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from disret import command_line, paths
from disret.command_line import UserError, positive, say, threads
from disret.data.collection import NoJudgments, check_name, default_split, find_collections
from disret.data.download import mirror_from
from disret.data.query_files import read_queries
from disret.devices import device_name, resolve_device, resolve_dtype, versions
from disret.encode.timings import peak_growth
from disret.files import check_writable, claim
from disret.serve.backends import BACKENDS, Encoder, ExportedEncoder, TorchEncoder
from disret.tables import Row, format_table, read_rows, write_rows

Timed = dict[tuple[str, str], Encoder]  # by name and backend
SHOWN = (
    "encoder", "backend", "dataset", "batch_size", "queries_per_second", "spread_percent",
    "speedup", "p50_ms", "p95_ms", "p99_ms", "layers", "parameters", "peak_memory_mb",
)  # fmt: skip
ADVICE = {NoJudgments: "name a file of queries with --queries"}


@command_line.advised(ADVICE)
def main() -> None:
    """Load the encoders, then time all of them on each query set and batch size."""
    args = parse_args()
    if args.output:
        check_writable(args.output)
        claim(args.output)
        read_rows(args.output, SHOWN)  # refuses another table, which would be lost
    query_sets = dict(load_queries(args))
    encoders = load(args)
    libraries = {name: versions().get(name) for name in ("torch", "onnxruntime")}
    rows: list[Row] = []
    for dataset, queries in query_sets.items():
        for batch_size in args.batch_sizes:
            timed = time_encoders(encoders, queries, batch_size, args.num_runs, dataset)
            rows += [{**row, "threads": args.threads, **libraries} for row in timed]
            if args.output:
                write_rows(args.output, rows)
    shown = [name for name in SHOWN if 1 in args.batch_sizes or not name.endswith("_ms")]
    print(format_table([{name: row[name] for name in shown} for row in rows]))
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows))
    print(f"\nMedians of {args.num_runs} runs on {devices}.")


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--encoders", nargs="+", required=True, metavar="MODEL",
        help="models to time; the first is what the others are compared with")
    add("--datasets", nargs="+", metavar="NAME|DIR",
        help="time on the test queries of these (default: those under benchmarks/raw)")
    add("--queries", type=Path, metavar="FILE", help="time on the queries of a file instead")
    add("--backends", nargs="+", choices=BACKENDS, default=["torch"],
        help="torch, or what disret.serve.export made of the models, in float32 (export) or int8; "
        "these run on the CPU (default: torch)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32",
        help="precision in torch (default: float32)")
    add("--threads", type=threads, metavar="N", help="of the CPU (default: the libraries' choice)")
    add("--batch-sizes", nargs="+", type=positive, default=[16, 32, 64], metavar="N",
        help="queries encoded at once (default: 16 32 64)")
    add("--max-sentences", type=positive, metavar="N", help="use the first N queries of each set")
    add("--num-runs", type=positive, default=3, help="timed runs of each (default: 3)")
    add("--output", type=Path, metavar="CSV", help="write the table there as well")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if args.datasets and args.queries:
        parser.error("--datasets and --queries exclude each other")
    if len(set(args.encoders)) < len(args.encoders):
        parser.error("--encoders names a model twice")
    return args


def load_queries(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """The query sets to time on, by name."""
    if args.queries:
        yield args.queries.name, read_queries([args.queries], args.max_sentences)
        return
    names = args.datasets
    if not names:
        names = sorted(path.name for path in paths.COLLECTIONS.glob("[!.]*") if path.is_dir())
    if not names:
        raise UserError(
            "there are no queries to time on: name --datasets or --queries, or run benchmark.py, "
            "which leaves its collections under benchmarks/raw."
        )
    for name in names:
        check_name(name)
    mirror = mirror_from(args.mirror)
    for name in names:
        for collection in find_collections(name, mirror):
            split = default_split(name)
            collection.check_split(split)
            yield collection.name, collection.split_queries(split)[: args.max_sentences]


def load(args: argparse.Namespace) -> Timed:
    """Every encoder in every backend; exports first, as one that is missing is soon known."""
    if args.threads:
        os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # of tokenizers
    keys = [(name, backend) for name in args.encoders for backend in args.backends]
    loaded: Timed = {key: ExportedEncoder(*key, args.threads) for key in keys if key[1] != "torch"}

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    loaded |= {key: TorchEncoder(key[0], device, dtype) for key in keys if key[1] == "torch"}
    return {key: loaded[key] for key in keys}


# --- Timing -------------------------------------------------------------------------------------


def time_encoders(
    encoders: Timed, queries: list[str], batch_size: int, num_runs: int, dataset: str
) -> list[Row]:
    """Time all encoders on the same queries, run by run in turn.

    Returns:
        A row for each encoder: all runs, their median, their spread (largest less smallest, in
        percent of the median), the speed-up of the medians over the first encoder, and, at batch
        size 1, percentiles of a query's time over all runs, in milliseconds. Memory is that of the
        weights and, at the least, what encoding takes beside them: on a CPU, memory that was freed
        before and is used again does not show.
    """
    runs: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    latencies: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    peaks = {}
    for key, encoder in encoders.items():  # warm-up: kernels, caches, clocks
        some = queries[: max(32, 4 * batch_size)]
        growth = peak_growth(partial(encode_all, encoder, some, batch_size), encoder.device)
        peaks[key] = encoder.weight_bytes + growth
    for number in range(1, num_runs + 1):
        for key, encoder in encoders.items():
            name = " ".join(key if key[1] != "torch" else key[:1])
            say(f"{dataset}, batch size {batch_size}, run {number} of {num_runs}: {name}")
            start = time.perf_counter()
            latencies[key] += encode_all(encoder, queries, batch_size)
            runs[key].append(len(queries) / (time.perf_counter() - start))
    medians = {key: statistics.median(values) for key, values in runs.items()}
    first = next(iter(medians.values()))
    rows = []
    for (name, backend), encoder in encoders.items():
        key = name, backend
        spread = 100 * (max(runs[key]) - min(runs[key])) / medians[key]
        rows.append({
            "encoder": name,
            "backend": backend,
            "dataset": dataset,
            "batch_size": batch_size,
            "queries_per_second": round(medians[key], 1),
            "spread_percent": round(spread, 1),
            "speedup": round(medians[key] / first, 2),
            **percentiles_ms(latencies[key]),
            "runs": " ".join(f"{value:.1f}" for value in runs[key]),
            "queries": len(queries),
            "layers": encoder.size.layers,
            "parameters": encoder.size.parameters,
            "dtype": encoder.dtype,
            "device": device_name(encoder.device),
            "peak_memory_mb": round(peaks[key] / 1e6, 1),
        })  # fmt: skip
    return rows


def encode_all(encoder: Encoder, queries: list[str], batch_size: int) -> list[float]:
    """Encode all queries; one by one, give the seconds of each."""
    if batch_size > 1:
        encoder.run(queries, batch_size)
        return []
    seconds = []
    for query in queries:
        start = time.perf_counter()
        encoder.run([query], 1)
        seconds.append(time.perf_counter() - start)
    return seconds


def percentiles_ms(seconds: list[float]) -> dict[str, float | None]:
    """The 50th, 95th and 99th, in milliseconds; None where nothing was timed by itself."""
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99}
    if not seconds:
        return dict.fromkeys(names)
    return {name: round(float(np.percentile(seconds, q)) * 1e3, 3) for name, q in names.items()}


if __name__ == "__main__":
    command_line.run(main)
