#!/usr/bin/env python
"""Time query encoders: latency and queries per second on one device, tokenisation included.

    python ispeed.py --encoders msmarco-bert-base-dot-v5 models/student --datasets nq   # the paper
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --datasets log.tsv \\
        --output evaluations/speed.csv
    python ispeed.py --encoders models/student models/student@onnx models/student@int8 \\
        --datasets nfcorpus --batch-sizes 1 64 --threads 1           # its exports, on the CPU

Runs of different encoders take turns, so that a drift of the machine's speed meets all alike.
Speed-up is over the first encoder, at the same queries and batch size. At batch size 1, every
query is a call of its own, and the percentiles of their times are shown.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from disret import command_line, paths
from disret.command_line import UserError, positive, say, tell, threads
from disret.data.collection import check_name, default_split, find_collections
from disret.data.download import mirror_from
from disret.data.queries import read_queries
from disret.data.text_files import file_of
from disret.devices import device_name, resolve_device, resolve_dtype, versions
from disret.encode.encoders import Encoder, named, open_encoder
from disret.encode.timings import peak_growth
from disret.files import check_writable, claim
from disret.tables import Row, format_table, read_rows, write_rows

SHOWN = (
    "encoder", "backend", "dataset", "batch_size", "queries_per_second", "spread_percent",
    "speedup", "p50_ms", "p95_ms", "p99_ms", "layers", "parameters", "peak_memory_mb",
)  # fmt: skip


def main() -> None:
    """Load the encoders, then time all of them on each query set and batch size."""
    args = parse_args()
    if args.output:
        check_writable(args.output)
        claim(args.output)
        read_rows(args.output, SHOWN)  # refuses another table, which would be lost
    query_sets = load_queries(args)
    encoders = load_encoders(args)
    libraries = {name: versions().get(name) for name in ("torch", "onnxruntime")}
    rows: list[Row] = []
    for dataset, queries in query_sets.items():
        for batch_size in args.batch_sizes:
            timed = time_encoders(encoders, queries, batch_size, args.num_runs, dataset)
            rows += [{**row, "threads": args.threads, **libraries} for row in timed]
            if args.output:
                write_rows(args.output, rows)
    shown = [name for name in SHOWN if 1 in args.batch_sizes or not name.endswith("_ms")]
    tell(format_table([{name: row[name] for name in shown} for row in rows]))
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows))
    tell(f"\nMedians of {args.num_runs} runs on {devices}.")


def time_encoders(
    encoders: Sequence[Encoder], queries: list[str], batch_size: int, num_runs: int, dataset: str
) -> list[Row]:
    """Time all encoders on the same queries, run by run in turn.

    Returns:
        A row for each encoder: all runs, their median, their spread (largest less smallest, in
        percent of the median), the speed-up of the medians over the first encoder, and, at batch
        size 1, percentiles of a query's time over all runs, in milliseconds. Memory is that of the
        weights and, at the least, what encoding takes beside them: on a CPU, memory that was freed
        before and is used again does not show.
    """
    runs: list[list[float]] = [[] for _ in encoders]
    latencies: list[list[float]] = [[] for _ in encoders]
    peaks = []
    for encoder in encoders:  # warm-up: kernels, caches, clocks
        weights = encoder.weight_bytes
        some = queries[: max(32, 4 * batch_size)]
        growth = peak_growth(partial(encode_all, encoder, some, batch_size), encoder.device)
        peaks.append(weights + growth)
    for run in range(1, num_runs + 1):
        for number, encoder in enumerate(encoders):
            name = named(encoder.name, encoder.backend)
            say(f"{dataset}, batch size {batch_size}, run {run} of {num_runs}: {name}")
            start = time.perf_counter()
            latencies[number] += encode_all(encoder, queries, batch_size)
            runs[number].append(len(queries) / (time.perf_counter() - start))
    first = statistics.median(runs[0])
    return [
        {
            "encoder": encoder.name,
            "backend": encoder.backend,
            "dataset": dataset,
            "batch_size": batch_size,
            "queries_per_second": round(statistics.median(own), 1),
            "spread_percent": round(100 * (max(own) - min(own)) / statistics.median(own), 1),
            "speedup": round(statistics.median(own) / first, 2),
            **percentiles_ms(seconds),
            "runs": " ".join(f"{value:.1f}" for value in own),
            "queries": len(queries),
            "layers": encoder.size.layers,
            "parameters": encoder.size.parameters,
            "dtype": encoder.dtype,
            "device": device_name(encoder.device),
            "peak_memory_mb": round(peak / 1e6, 1),
        }
        for encoder, own, seconds, peak in zip(encoders, runs, latencies, peaks, strict=True)
    ]


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
    found = np.percentile(seconds, [50, 95, 99]) * 1e3 if seconds else [None] * 3
    return {
        f"p{q}_ms": ms and round(float(ms), 3) for q, ms in zip((50, 95, 99), found, strict=True)
    }


# --- What is timed, and on what -----------------------------------------------------------------


def load_encoders(args: argparse.Namespace) -> list[Encoder]:
    """Every encoder on its device; exports are on the CPU."""
    if args.threads:
        os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # of tokenizers

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    return [
        open_encoder(name, device=device, dtype=dtype, num_threads=args.threads)
        for name in args.encoders
    ]


def load_queries(args: argparse.Namespace) -> dict[str, list[str]]:
    """The query sets to time on, by name."""
    names = args.datasets
    if not names:
        names = sorted(path.name for path in paths.COLLECTIONS.glob("[!.]*") if path.is_dir())
    if not names:
        raise UserError("there are no queries to time on: name data sets or files of queries.")
    files = [name for name in names if file_of(name)[0].is_file()]
    names = [name for name in names if name not in files]
    for name in names:
        check_name(name)
    query_sets = {Path(file).name: read_queries([file], args.max_sentences) for file in files}
    for name in names:
        split = default_split(name)
        for collection in find_collections(name, mirror_from(args.mirror)):
            collection.check_split(split)
            query_sets[collection.name] = collection.split_queries(split)[: args.max_sentences]
    return query_sets


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--encoders", nargs="+", required=True, metavar="ENCODER",
        help="models or exports to time; the first is what the others are compared with")
    add("--datasets", nargs="+", metavar="NAME|DIR|FILE",
        help="time on their test queries, or on a file's (default: those under benchmarks/raw)")
    add("--dtype", choices=command_line.DTYPES[1:], default="float32",
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
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
