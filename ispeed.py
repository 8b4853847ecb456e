#!/usr/bin/env python
"""Time query encoders: latency and queries per second on one device, tokenisation included.

    python ispeed.py --encoders msmarco-bert-base-dot-v5 models/student --datasets nq   # the paper
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --queries log.tsv \\
        --output evaluations/speed.csv
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --datasets nfcorpus \\
        --backends torch onnx onnx-int8 --batch-sizes 1 64 --threads 1    # exported encoders too

Runs of different encoders take turns, so that a drift of the machine's speed meets all alike.
Speed-up is over the first encoder and backend, at the same queries and batch size. At batch size
1, every query is a call of its own, and the percentiles of their times are shown.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from disret import paths
from disret.command_line import UserError, argument_parser, run, say
from disret.data.collection import check_name, default_split, find_collections
from disret.data.download import mirror_from
from disret.data.query_files import read_queries
from disret.files import check_writable
from disret.serve.backends import BACKENDS

if TYPE_CHECKING:
    from disret.serve.backends import ExportedQueries, TorchQueries

    QueryBackend = TorchQueries | ExportedQueries


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--encoders", nargs="+", required=True, metavar="MODEL",
        help="models to time; the first is what the others are compared with")
    add("--datasets", nargs="+", metavar="NAME|DIR",
        help="time on the test queries of these (default: those under benchmarks/raw)")
    add("--queries", type=Path, metavar="FILE", help="time on the queries of a file instead")
    add("--backends", nargs="+", choices=BACKENDS, default=["torch"],
        help="torch, or what distill.py --export made of the models, in float32 (onnx) or int8; "
        "these run on the CPU (default: torch)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32",
        help="precision in torch (default: float32)")
    add("--threads", type=int, metavar="N", help="of the CPU (default: the libraries' choice)")
    add("--batch-sizes", nargs="+", type=int, default=[16, 32, 64], metavar="N",
        help="queries encoded at once (default: 16 32 64)")
    add("--max-sentences", type=int, metavar="N", help="use the first N queries of each set")
    add("--num-runs", type=int, default=3, help="timed runs of each (default: 3)")
    add("--output", type=Path, metavar="CSV", help="write the table there as well")
    add("--figure", type=Path, metavar="PNG", help="draw latency and throughput")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    # fmt: on
    args = parser.parse_args()
    if args.datasets and args.queries:
        parser.error("--datasets and --queries exclude each other")
    for name in ("num_runs", "max_sentences", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if min(args.batch_sizes) < 1:
        parser.error("--batch-sizes must be positive")
    if len(set(args.encoders)) < len(args.encoders):
        parser.error("--encoders names a model twice")
    return args


def main() -> None:
    args = parse_args()
    for path in (args.output, args.figure):
        if path:
            check_writable(path)
    query_sets = dict(load_queries(args))

    from disret.devices import resolve_device, versions
    from disret.tables import format_table, write_rows

    device = resolve_device(args.device)
    encoders = load(args, device)
    rows = []
    for dataset, queries in query_sets.items():
        for batch_size in args.batch_sizes:
            rows += time_encoders(encoders, queries, batch_size, args.num_runs, dataset)
            if args.output:
                common = {"threads": args.threads}
                common |= {name: versions().get(name) for name in ("torch", "onnxruntime")}
                write_rows(args.output, [{**row, **common} for row in rows])
    shown = (
        "encoder",
        "backend",
        "dataset",
        "batch_size",
        "queries_per_second",
        "spread_percent",
        "speedup",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "layers",
        "parameters",
        "peak_memory_mb",
    )
    if 1 not in args.batch_sizes:
        shown = tuple(column for column in shown if not column.endswith("_ms"))
    print(format_table([{column: row[column] for column in shown} for row in rows]))
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows))
    print(f"\nMedians of {args.num_runs} runs on {devices}.")
    if args.figure:
        from disret.sweep.plots import plot_speed

        plot_speed(rows, args.figure)


def load(args: argparse.Namespace, device: str) -> dict[tuple[str, str], "QueryBackend"]:
    """Every encoder in every backend, by name and backend."""
    import torch

    from disret.serve.backends import ExportedQueries, TorchQueries

    if args.threads:
        os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # of tokenizers
        torch.set_num_threads(args.threads)
    return {
        (name, backend): TorchQueries(name, device, args.dtype)
        if backend == "torch"
        else ExportedQueries(name, backend, args.threads)
        for name in args.encoders
        for backend in args.backends
    }


def time_encoders(
    encoders: dict[tuple[str, str], "QueryBackend"],
    queries: list[str],
    batch_size: int,
    num_runs: int,
    dataset: str,
) -> list[dict]:
    """Time all encoders on the same queries, run by run in turn.

    Returns:
        A row for each encoder: all runs, their median, their spread (largest less smallest, in
        percent of the median), the speed-up of the medians over the first encoder, and, at batch
        size 1, percentiles of a query's time over all runs, in milliseconds.
    """
    import numpy as np

    from disret.devices import device_name

    runs: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    latencies: dict[tuple[str, str], list[float]] = {key: [] for key in encoders}
    peaks = dict.fromkeys(encoders, 0.0)
    for encoder in encoders.values():  # warm-up: kernels, caches, clocks
        encode_all(encoder, queries[: max(32, 4 * batch_size)], batch_size)
    for number in range(1, num_runs + 1):
        for key, encoder in encoders.items():
            name = " ".join(key if key[1] != "torch" else key[:1])
            say(f"{dataset}, batch size {batch_size}, run {number} of {num_runs}: {name}")
            reset_peak_memory(encoder)
            start = time.perf_counter()
            latencies[key] += encode_all(encoder, queries, batch_size)
            runs[key].append(len(queries) / (time.perf_counter() - start))
            peaks[key] = max(peaks[key], peak_memory_mb(encoder))
    medians = {key: statistics.median(values) for key, values in runs.items()}
    first = next(iter(medians.values()))
    rows = []
    for (name, backend), encoder in encoders.items():
        key = name, backend
        p50, p95, p99 = np.percentile(latencies[key] or [np.nan], [50, 95, 99]) * 1e3
        rows.append({
            "encoder": name,
            "backend": backend,
            "dataset": dataset,
            "batch_size": batch_size,
            "queries_per_second": round(medians[key], 1),
            "spread_percent": round(100 * (max(runs[key]) - min(runs[key])) / medians[key], 1),
            "speedup": round(medians[key] / first, 2),
            **{column: round(value, 3) if latencies[key] else None
               for column, value in (("p50_ms", p50), ("p95_ms", p95), ("p99_ms", p99))},
            "runs": " ".join(f"{value:.1f}" for value in runs[key]),
            "queries": len(queries),
            "layers": encoder.size.layers,
            "parameters": encoder.size.parameters,
            "dtype": encoder.dtype,
            "device": device_name(encoder.device),
            "peak_memory_mb": round(peaks[key]),
        })  # fmt: skip
    return rows


def encode_all(encoder: "QueryBackend", queries: list[str], batch_size: int) -> list[float]:
    """Encode all queries; one by one, give the seconds of each."""
    if batch_size > 1:
        encoder.encode(queries, batch_size)
        return []
    seconds = []
    for query in queries:
        start = time.perf_counter()
        encoder.encode([query], 1)
        seconds.append(time.perf_counter() - start)
    return seconds


def reset_peak_memory(encoder: "QueryBackend") -> None:
    import torch

    if encoder.on_cuda:
        torch.cuda.reset_peak_memory_stats(encoder.device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (Linux, proc(5))


def peak_memory_mb(encoder: "QueryBackend") -> float:
    """Peak memory of the last run: of the tensors on CUDA, else of this process with all models."""
    import torch

    if encoder.on_cuda:
        return torch.cuda.max_memory_allocated(encoder.device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


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
            texts = collection.split_queries(split)
            yield collection.name, texts[: args.max_sentences]


if __name__ == "__main__":
    run(main)
