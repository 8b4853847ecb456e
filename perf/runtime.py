#!/usr/bin/env python
"""What the runtime adds to the bare model, and how fast it starts.

    python -m disret.serve.export models/student
    python perf/runtime.py --model models/student

The peer of `QueryEncoder.encode` is what it cannot do without: the tokenizer, the arrays that the
graph takes, and the run of the session. Both encode the same queries one by one, in turns. The
start is that of fresh processes: import, load, and the first query.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import add_mirror, argument_parser, positive, run
from disret.data.download import mirror_from
from disret.data.query_files import msmarco_queries, read_queries
from disret.files import check_writable, write_json

ROOT = Path(__file__).resolve().parent.parent
START = """
import sys, time
begin = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from disret.query_encoder import QueryEncoder
QueryEncoder.from_pretrained(sys.argv[2], sys.argv[3]).encode(["what is dense retrieval?"])
print(time.perf_counter() - begin)
"""


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--model", type=Path, required=True, help="an exported model of transformer layers")
    add("--queries", type=positive, default=1000, help="of MS MARCO's dev queries (default: 1000)")
    add("--rounds", type=positive, default=5, help="(default: 5)")
    add("--threads", type=positive, default=1, help="of the session (default: 1)")
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

    rows = []
    for precision in PRECISIONS:
        times = compare(args, precision, queries)
        bare, encode = (statistics.median(runs) for runs in times.values())
        starts = [start(args.model, precision) for _ in range(args.rounds)]
        rows.append({
            "precision": precision,
            "bare_ms": round(1e3 * bare, 4),
            "encode_ms": round(1e3 * encode, 4),
            "added_percent": round(100 * (encode / bare - 1), 1),
            "start_ms": round(1e3 * statistics.median(starts)),
            **{f"{name}_runs_ms": [round(1e3 * run, 4) for run in runs]
               for name, runs in times.items()},
            "starts_ms": [round(1e3 * value) for value in starts],
        })  # fmt: skip
    settings = {"model": args.model.name, "queries": args.queries, "threads": args.threads}
    report = {"device": device_name("cpu"), "versions": versions(), **settings, "rows": rows}
    write_json(args.output, report)
    shown = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows]
    print(format_table(shown))


def compare(args: argparse.Namespace, precision: str, queries: list[str]) -> dict[str, list[float]]:
    """Median seconds of a query in each round, of the bare session and of `encode`."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    from disret.query_encoder import COLUMNS, FOLDER, QueryEncoder

    folder = args.model / FOLDER
    encoder = QueryEncoder.from_pretrained(folder, precision, args.threads)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    file = next(iter(encoder.settings["files"][precision]))
    session = onnxruntime.InferenceSession(str(folder / file), options)
    names = [node.name for node in session.get_inputs()]
    prompt = encoder.settings["prompt"]

    def bare(query: str) -> None:
        tokens = tokenizer.encode(prompt + query)
        session.run(None, {name: np.array([getattr(tokens, COLUMNS[name])]) for name in names})

    ways: dict[str, Callable[[str], object]] = {
        "bare": bare,
        "encode": lambda query: encoder.encode([query]),
    }
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):  # the first warms up
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for query in queries:
            for name, way in ways.items():
                begin = time.perf_counter()
                way(query)
                seconds[name].append(time.perf_counter() - begin)
        if turn:
            for name, values in seconds.items():
                runs[name].append(statistics.median(values))
    return runs


def start(model: Path, precision: str) -> float:
    """Seconds from import to the first embedding, in a fresh process."""
    command = [sys.executable, "-c", START, str(ROOT), str(model), precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    run(main)
