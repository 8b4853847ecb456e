#!/usr/bin/env python
"""How fast texts become vectors: this project against sentence-transformers' `encode`.

    python perf/encoding.py --model models/all-MiniLM-L6-v2

Documents are NFCorpus's, queries are MS MARCO's dev queries. Contestants take turns within a
round, and so does a bare matrix product, which tells how fast the machine is at that moment.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret.command_line import add_device, add_mirror, argument_parser, positive, run, say
from disret.data.collection import find_collections
from disret.data.download import mirror_from
from disret.files import check_writable, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RESULTS = Path(__file__).resolve().parent / "results"


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--model", default="models/all-MiniLM-L6-v2", help="encoder (default: %(default)s)")
    add("--documents", type=positive, default=512, help="random NFCorpus documents (default: 512)")
    add("--queries", type=positive, default=6980, help="MS MARCO dev queries (default: 6980)")
    add("--rounds", type=positive, default=5, help="(default: 5)")
    add("--batch-size", type=positive, help="that of benchmark.py (default: its default)")
    add("--output", type=Path, default=RESULTS / "encoding.json",
        help="(default: perf/results/encoding.json)")
    # fmt: on
    add_mirror(parser)
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_writable(args.output)
    documents, queries = load_texts(args)

    import torch

    from disret.devices import device_name, resolve_device, resolve_dtype, versions
    from disret.encode.batches import BatchEncoder
    from disret.encode.models import load_encoder, set_precision
    from disret.tables import format_table

    device = resolve_device(args.device)
    dtype = resolve_dtype("auto", device)
    library = load_encoder(args.model, device)
    library_low = load_encoder(args.model, device)
    library_low.to(dtype=getattr(torch, dtype))
    ours_low = load_encoder(args.model, device)
    set_precision(ours_low, dtype)
    contestants: dict[str, Callable[[list[str]], object]] = {
        "sentence-transformers, float32": library.encode,
        f"sentence-transformers, {dtype} weights": library_low.encode,
        "this project, float32": BatchEncoder(library, args.batch_size).encode_document,
        f"this project, {dtype}": BatchEncoder(ours_low, args.batch_size).encode_document,
    }
    rows = []
    for what, texts in (("documents", documents), ("queries", queries)):
        rows += compare(args, contestants, what, texts, library, ours_low, dtype)
    report = {
        "model": Path(args.model).name,
        "device": device_name(device),
        "versions": versions(),
        "batch_tokens": BatchEncoder(library, args.batch_size).batch_tokens,
        "rounds": args.rounds,
        "rows": rows,
    }
    write_json(args.output, report)
    print(format_table([{k: v for k, v in row.items() if k != "runs"} for row in rows]))
    print(
        f"\nMedians of {args.rounds} rounds on {report['device']}; all of it is in {args.output}."
    )


def compare(
    args: argparse.Namespace,
    contestants: dict[str, Callable[[list[str]], object]],
    what: str,
    texts: list[str],
    library: "SentenceTransformer",
    ours: "SentenceTransformer",
    dtype: str,
) -> list[dict]:
    """Time all contestants on the same texts, in turns.

    Returns:
        A row for each: texts a second, how much faster than the first, the share of padding in
        what it computes, and the share that the useful arithmetic has of a bare matrix product's
        speed in the same precision and round.
    """
    import numpy as np

    from disret.encode.batches import BatchEncoder

    lengths = np.array([len(ids) for ids in library.tokenizer(texts)["input_ids"]])
    lengths = np.minimum(lengths, library.max_seq_length)
    operations = float(operations_of(library, lengths))
    counting = BatchEncoder(ours, args.batch_size)
    counting.encode_document(texts)
    stage = counting.timings.timings["encode"]
    padding = {True: 1 - stage.tokens / stage.positions, False: padding_of_library(texts, lengths)}

    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    shares: dict[str, list[float]] = {name: [] for name in contestants}
    for encode in contestants.values():  # warm-up
        encode(texts[:64])
    for number in range(1, args.rounds + 1):
        for name, encode in contestants.items():
            say(f"{what}, round {number} of {args.rounds}: {name}")
            peak = matmul_speed(library, "float32" if "float32" in name else dtype)
            start = time.perf_counter()
            encode(texts)
            synchronise(library)
            seconds = time.perf_counter() - start
            speeds[name].append(len(texts) / seconds)
            shares[name].append(operations / seconds / peak)
    first = statistics.median(next(iter(speeds.values())))
    return [
        {
            "texts": what,
            "tokens": round(float(lengths.mean()), 1),
            "encoder": name,
            "per_second": round(statistics.median(values), 1),
            "times": round(statistics.median(values) / first, 2),
            "padding_percent": round(100 * padding["project" in name], 1),
            "percent_of_matmul": round(100 * statistics.median(shares[name]), 1),
            "runs": [round(value, 1) for value in values],
        }
        for name, values in speeds.items()
    ]


def operations_of(model: "SentenceTransformer", lengths) -> float:
    """Floating-point operations that the texts need: linear layers, and attention's products."""
    import torch

    weights = sum(
        module.weight.numel()
        for name, module in model.transformers_model.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name  # of one token, if any
    )
    config = model.transformers_model.config
    attention = 4 * config.hidden_size * config.num_hidden_layers
    return 2 * weights * lengths.sum() + attention * (lengths**2).sum()


def padding_of_library(texts: list[str], lengths) -> float:
    """The padding of `SentenceTransformer.encode`: sorted by characters, batches of 32."""
    import numpy as np

    ordered = lengths[np.argsort([-len(text) for text in texts])]
    batches = [ordered[start : start + 32] for start in range(0, len(ordered), 32)]
    return 1 - lengths.sum() / sum(int(batch.max()) * len(batch) for batch in batches)


def matmul_speed(model: "SentenceTransformer", dtype: str) -> float:
    """Operations a second of a bare product of the shape of the encoder's, measured now."""
    import torch

    size = model.transformers_model.config.hidden_size
    rows = 2048 if model.device.type == "cpu" else 65536
    a = torch.randn(rows, size, device=model.device).to(getattr(torch, dtype))
    b = torch.randn(4 * size, size, device=model.device).to(getattr(torch, dtype))
    times = []
    for _ in range(20):
        synchronise(model)
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        synchronise(model)
        times.append(time.perf_counter() - start)
    return 2 * rows * size * 4 * size / statistics.median(times)


def synchronise(model: "SentenceTransformer") -> None:
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def load_texts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Random documents of NFCorpus, and MS MARCO's dev queries."""
    import random

    from disret.data.queries import msmarco_queries, read_queries

    mirror = mirror_from(args.mirror)
    (collection,) = find_collections("nfcorpus", mirror)
    texts = [document.text for document in collection.documents()]
    random.Random(0).shuffle(texts)
    _, dev = msmarco_queries(mirror)
    queries = read_queries([dev], args.queries)
    return texts[: args.documents], queries


if __name__ == "__main__":
    run(main)
