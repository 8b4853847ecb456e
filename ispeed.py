#!/usr/bin/env python
"""Time query encoders: queries per second on one device, tokenisation included.

    python ispeed.py --encoders msmarco-bert-base-dot-v5 models/student --datasets nq   # the paper
    python ispeed.py --encoders models/all-MiniLM-L6-v2 models/student --queries log.tsv \\
        --output evaluations/speed.csv

Runs of different encoders take turns, so that a drift of the machine's speed meets all alike.
Speed-up is over the first encoder, at the same queries and batch size.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from disret import paths
from disret.collection import check_name, default_split, find_collections
from disret.download import mirror_from
from disret.files import check_writable
from disret.query_files import read_queries
from disret.terminal import UserError, argument_parser, run, say

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--encoders", nargs="+", required=True, metavar="MODEL",
        help="models to time; the first is what the others are compared with")
    add("--datasets", nargs="+", metavar="NAME|DIR",
        help="time on the test queries of these (default: those under benchmarks/raw)")
    add("--queries", type=Path, metavar="FILE", help="time on the queries of a file instead")
    add("--batch-sizes", nargs="+", type=int, default=[16, 32, 64], metavar="N",
        help="queries encoded at once (default: 16 32 64)")
    add("--max-sentences", type=int, metavar="N", help="use the first N queries of each set")
    add("--num-runs", type=int, default=3, help="timed runs of each (default: 3)")
    add("--output", type=Path, metavar="CSV", help="write the table there as well")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    # fmt: on
    args = parser.parse_args()
    if args.datasets and args.queries:
        parser.error("--datasets and --queries exclude each other")
    if min(args.batch_sizes) < 1 or args.num_runs < 1 or (args.max_sentences or 1) < 1:
        parser.error("--batch-sizes, --num-runs and --max-sentences must be positive")
    if len(set(args.encoders)) < len(args.encoders):
        parser.error("--encoders names a model twice")
    return args


def main() -> None:
    args = parse_args()
    if args.output:
        check_writable(args.output)
    query_sets = dict(load_queries(args))

    from disret.devices import device_name, resolve_device, versions
    from disret.encoders import load_encoder
    from disret.results import format_table, write_rows

    device = resolve_device(args.device)
    encoders = {name: load_encoder(name, device) for name in args.encoders}
    rows = []
    for dataset, queries in query_sets.items():
        for batch_size in args.batch_sizes:
            rows += time_encoders(encoders, queries, batch_size, args.num_runs, dataset)
            if args.output:
                common = {"device": device_name(device), "torch": versions()["torch"]}
                write_rows(args.output, [{**row, **common} for row in rows])
    shown = (
        "encoder",
        "dataset",
        "batch_size",
        "queries_per_second",
        "spread_percent",
        "speedup",
        "layers",
        "parameters",
        "peak_memory_mb",
    )
    print(format_table([{column: row[column] for column in shown} for row in rows]))
    print(f"\nMedians of {args.num_runs} runs on {device_name(device)}.")


def time_encoders(
    encoders: dict[str, "SentenceTransformer"],
    queries: list[str],
    batch_size: int,
    num_runs: int,
    dataset: str,
) -> list[dict]:
    """Time all encoders on the same queries, run by run in turn.

    Returns:
        A row for each encoder: all runs, their median, their spread (largest less smallest, in
        percent of the median), and the speed-up of the medians over the first encoder.
    """
    from disret.encoders import describe

    runs: dict[str, list[float]] = {name: [] for name in encoders}
    peaks = dict.fromkeys(encoders, 0.0)
    for encoder in encoders.values():  # warm-up: kernels, caches, clocks
        encode_all(encoder, queries[: 4 * batch_size], batch_size)
    for number in range(1, num_runs + 1):
        for name, encoder in encoders.items():
            say(f"{dataset}, batch size {batch_size}, run {number} of {num_runs}: {name}")
            reset_peak_memory(encoder)
            start = time.perf_counter()
            encode_all(encoder, queries, batch_size)
            runs[name].append(len(queries) / (time.perf_counter() - start))
            peaks[name] = max(peaks[name], peak_memory_mb(encoder))
    medians = {name: statistics.median(values) for name, values in runs.items()}
    first = next(iter(medians.values()))
    rows = []
    for name, encoder in encoders.items():
        size = describe(encoder)
        rows.append({
            "encoder": name,
            "dataset": dataset,
            "batch_size": batch_size,
            "queries_per_second": round(medians[name], 1),
            "spread_percent": round(100 * (max(runs[name]) - min(runs[name])) / medians[name], 1),
            "speedup": round(medians[name] / first, 2),
            "runs": " ".join(f"{value:.1f}" for value in runs[name]),
            "queries": len(queries),
            "layers": size.layers,
            "parameters": size.parameters,
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "peak_memory_mb": round(peaks[name]),
        })  # fmt: skip
    return rows


def encode_all(encoder: "SentenceTransformer", queries: list[str], batch_size: int) -> None:
    """Encode and wait until the device has finished."""
    import torch

    encoder.encode_query(
        queries, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
    )
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)


def reset_peak_memory(encoder: "SentenceTransformer") -> None:
    import torch

    if encoder.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(encoder.device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (Linux, proc(5))


def peak_memory_mb(encoder: "SentenceTransformer") -> float:
    """Peak memory of the last run: of the tensors on CUDA, else of this process with all models."""
    import torch

    if encoder.device.type == "cuda":
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
