#!/usr/bin/env python
"""Score query encoders on BEIR over the document index of one encoder.

    python benchmark.py --query-encoder models/student              # the paper: all 15 data sets
    python benchmark.py --datasets scifact nfcorpus --document-encoder models/all-MiniLM-L6-v2 \\
        --query-encoder models/student models/student@int8 --score-function cos_sim
    python benchmark.py --datasets path/to/my/collection …          # a folder in BEIR's layout
    python benchmark.py --datasets DIR --index documents.faiss --ids ids.txt …  # your own index
    torchrun --nproc-per-node 4 benchmark.py …                      # several GPUs, or CPUs
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        benchmark.py …                                 # several machines, one shared file system

Documents are embedded and indexed once per document encoder; then only queries are embedded. The
document encoder's own queries are scored on the same index, and retention is the share of its
nDCG@10 that a query encoder keeps. A collection of any size streams through a few gigabytes of
memory, and a run that was killed goes on where it was.

Without judgments: beyond/agree.py. Approximate indexes and their speed: beyond/approximate.py.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from disret import command_line, distributed
from disret.command_line import UserError, is_main_process, positive, say, tell
from disret.data.catalog import datasets
from disret.data.collection import (
    Collection,
    check_name,
    default_split,
    find_collections,
    is_present,
)
from disret.data.download import mirror_from
from disret.devices import resolve_device, resolve_dtype, share_of_cores, world_size
from disret.encode.encoders import Encoder, check_dimensions, open_encoder, query_vectors
from disret.encode.timings import Timings
from disret.files import check_writable, text_sha256
from disret.paths import HOME
from disret.retrieve.agreement import agreement
from disret.retrieve.agreement import summary as agreement_summary
from disret.retrieve.approximate import empty_index, open_approximate
from disret.retrieve.foreign import ForeignIndex, open_foreign
from disret.retrieve.index import Index, open_index
from disret.retrieve.metrics import comparisons, metrics
from disret.retrieve.runs import check_ids, identify, run_path, run_tag, to_run, write_run
from disret.retrieve.scores import Scores, average_parts, encoder_of, summary
from disret.retrieve.search import check_gpu_faiss, search
from disret.tables import Row, append_run, format_table, read_runs

TEACHER = "msmarco-bert-base-dot-v5"


def main() -> None:
    """Open the encoders, then score them on one data set after another."""
    args = parse_args()
    check_before_long_work(args)
    distributed.join()
    args.device = resolve_device(args.device)
    args.dtype = distributed.decided_by_first(partial(resolve_dtype, args.dtype, args.device))
    if args.gpu_search == "faiss":
        check_gpu_faiss()
    timings, index = Timings(), None
    teacher, *_ = encoders = open_encoders(args, timings)
    if args.index:
        wanted = teacher.dimension, args.score_function, True, teacher.made_by
        index = open_foreign(args.index, args.ids, *wanted)
    elif args.extension != "flat":
        empty_index(args.extension, teacher.dimension, args.score_function)  # or refuse
    scores = Scores(args.output, args.k_values, args.save_runs)
    rows: list[Row] = []
    for name in args.datasets:
        with timings.measure("download", 1):
            collections = find_collections(name, args.mirror, args.datasets)
        split = args.split or default_split(name)
        parts = [
            score_collection(args, collection, split, encoders, scores, index)
            for collection in collections
        ]
        rows += scores.add([average_parts(of_one) for of_one in zip(*parts, strict=True)])
    if is_main_process():
        append_run(args.output.with_suffix(".json"), timings.report(vars(args), args.device))
        table = format_table(summary(rows, scores.main_metric))
        tell(f"{table}\n\nEvery metric is in {args.output}, timings in the .json file beside it.")
    distributed.leave()


def score_collection(
    args: argparse.Namespace,
    collection: Collection,
    split: str,
    encoders: Sequence[Encoder],
    scores: Scores,
    own: Index | ForeignIndex | None,
) -> list[tuple[Row, dict[str, float]]]:
    """Score encoders of queries on a collection, the first of which embeds the documents as well.

    Args:
        own: an index to be searched instead of one that is built here.

    Returns:
        Of each encoder what its row is about, and its metrics.
    """
    teacher, timings = encoders[0], encoders[0].timings
    collection.check_split(split)
    content = distributed.decided_by_first(partial(collection.fingerprint, split))
    content = text_sha256([content, own.fingerprint]) if own else content
    precision = own.description if own else args.index_dtype
    if args.extension != "flat":
        precision += f"-{args.extension}"
    about = partial(identify, collection.name, split, content, teacher, dtype=args.dtype,
                    score_function=args.score_function, index_dtype=precision)  # fmt: skip
    identities = [about(encoder) for encoder in encoders]
    known = [scores.known(identity) for identity in identities]
    for encoder, values in zip(encoders, known, strict=True):
        if values:
            say(f"{collection.name}, {encoder.name}: in {args.output} already.")
    if all(known):
        return list(zip(identities, known, strict=True))
    queries, qrels = collection.judged(split)
    texts = list(queries.values())

    def check(ids: Sequence[str]) -> None:
        collection.check_judged(split, qrels, ids)
        if args.save_runs:
            check_ids(queries, "query")
            check_ids(ids, "document")

    # 1. Embed and index the documents.
    if own:
        check(own.ids())
    documents = own or open_index(collection, teacher, args.score_function, args.index_dtype, check)
    index = documents
    if args.extension != "flat":
        index = open_approximate(documents, args.extension, args.score_function, timings)

    # 2. Embed the queries with each encoder that has no scores yet, and with the documents' own.
    places = [0, *(n for n, values in enumerate(known) if n and not values)]
    vectors = np.stack([query_vectors(encoders[n], texts, args.score_function) for n in places])

    # 3. Search, all encoders at once, so that the index is read once.
    with timings.measure("search", len(places) * len(texts)):
        flat = vectors.reshape(-1, vectors.shape[-1])
        found = search(index, flat, scores.depth + 1, args.device, args.gpu_search)
        documents.check_unchanged()

    # 4. Score: nDCG and others by the judgments, agreement by the document encoder's own hits.
    def score(place: int, encoder: int) -> dict[str, float]:
        hits, rows = (each.reshape(len(places), len(texts), -1) for each in found)
        ids = documents.ids()
        run = to_run(list(queries), ids.take(rows[place]), hits[place], scores.depth)
        if args.save_runs:
            path = run_path(args.save_runs, identities[encoder], scores.depth)
            write_run(path, run, run_tag(identities[encoder]))
        values = metrics(qrels, run, args.k_values)
        if place:
            pair = ids.document_numbers(rows[[0, place]])
            per_query = agreement(*pair, vectors[0], vectors[place], args.k_values)
            overlaps[encoder_of(identities[encoder])] = per_query[f"overlap@{scores.cut}"]
            values |= agreement_summary(per_query)
        return {**values, "documents": documents.documents, "queries": len(texts)}

    overlaps: dict[str, np.ndarray] = {}
    for place, encoder in enumerate(places):
        if not known[encoder]:
            with timings.measure("score", len(texts)):
                known[encoder] = distributed.decided_by_first(partial(score, place, encoder))
    for line in comparisons(collection.name, f"overlap@{scores.cut}", overlaps):
        tell(line)
    scores.add(list(zip(identities, known, strict=True)))
    return list(zip(identities, known, strict=True))


def open_encoders(args: argparse.Namespace, timings: Timings) -> list[Encoder]:
    """The document encoder, and those of queries, if their vectors are of its dimension."""
    names = [args.document_encoder, *args.query_encoder]
    encoders = [
        open_encoder(
            name, device=args.device, dtype=args.dtype, batch_size=args.batch_size,
            num_threads=share_of_cores(world_size()), timings=timings,
            options=args.service_option if name is args.document_encoder else (),
        )
        for name in names
    ]  # fmt: skip
    check_dimensions(encoders[0], encoders[1:])
    if not (args.index or encoders[0].model):
        raise UserError(f"{encoders[0].name} embeds no documents here: name their index.")
    return encoders


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse unknown data sets, missing splits and an output that cannot be written."""
    for name in args.datasets:
        check_name(name)
        collections = find_collections(name) if is_present(name) else []
        for collection in collections:
            collection.check_split(args.split or default_split(name))
        if args.index and len(collections) > 1:
            raise UserError(f"{name} has several parts, but {args.index} is one index.")
    check_writable(args.output)
    read_runs(args.output.with_suffix(".json"))
    if args.save_runs:
        check_writable(args.save_runs / "run")


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    # fmt: off
    add = parser.add_argument_group("what is scored").add_argument
    add("--datasets", nargs="+", default=list(datasets()), metavar="NAME|DIR",
        help="data sets, or directories in BEIR's layout (default: the paper's 15)")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--document-encoder", default=TEACHER, metavar="ENCODER",
        help="embeds the documents, or has embedded those of --index (default: %(default)s)")
    add("--query-encoder", nargs="+", default=[], metavar="ENCODER",
        help="models, or exports such as models/student@int8, each scored by itself")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to a service that is the document encoder")

    group = parser.add_argument_group("index and search")
    add, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    either("--extension", default="flat", metavar="KIND",
        help="search an index of this kind of FAISS, such as HNSW32 (default: flat, exact)")
    either("--index", type=Path, metavar="PATH",
        help="search this index, as it is: FAISS of any kind, .npy, .parquet or a folder")
    add("--ids", metavar="FILE[#COLUMN]|rows", help="its document ids, one a line")
    add("--score-function", choices=["dot", "cos_sim"], default="dot", help="(default: dot)")
    add("--dtype", choices=command_line.DTYPES, default="auto",
        help="precision of the encoders (default: 16 bits where the device is fast in them)")
    add("--index-dtype", choices=["float16", "float32"], default="float16",
        help="precision of the vectors on disk (default: float16)")
    add("--batch-size", type=positive, metavar="N", help="texts of full length encoded at once")
    add("--gpu-search", choices=["torch", "faiss"], default="torch",
        help="what searches on CUDA; faiss needs requirements-gpu.txt (default: torch)")

    add = parser.add_argument_group("results").add_argument
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="a row for each data set as it finishes; rows that it has are not computed again; "
        "what the run took goes to a .json file beside it (default: benchmarks/results.csv)")
    add("--k-values", nargs="+", type=positive, default=[10, 100], metavar="K",
        help="cut-offs of the metrics (default: 10 100)")
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if args.output.suffix == ".json":
        parser.error("--output is a CSV table; what the run took goes to a .json file beside it")
    if args.ids and not args.index:
        parser.error("--ids are of an --index")
    args.k_values, args.mirror = sorted(set(args.k_values)), mirror_from(args.mirror)
    return args


if __name__ == "__main__":
    command_line.run(main)
