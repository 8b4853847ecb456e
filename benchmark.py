#!/usr/bin/env python
"""Score query encoders on BEIR over the document index of one encoder.

    python benchmark.py --query-encoder models/student              # the paper: all 15 data sets
    python benchmark.py --datasets scifact nfcorpus --document-encoder models/all-MiniLM-L6-v2 \\
        --query-encoder models/student --score-function cos_sim
    python benchmark.py --datasets path/to/my/collection …          # a folder in BEIR's layout
    torchrun --nproc-per-node 4 benchmark.py …                      # several GPUs, or CPUs
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        benchmark.py …                                 # several machines, one shared file system

Documents are embedded and indexed once per document encoder; then only queries are embedded. With
--query-encoder the document encoder's own queries are scored on the same index, and retention is
the share of its nDCG@10 that the query encoder keeps. A collection of any size streams through a
few gigabytes of memory, and a run that was killed goes on where it was.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from disret import command_line, distributed
from disret.command_line import UserError, about, is_main_process, positive, say
from disret.data.catalog import datasets
from disret.data.collection import (
    Collection,
    NoJudgments,
    Qrels,
    check_name,
    default_split,
    find_collections,
    is_present,
)
from disret.data.download import mirror_from
from disret.devices import resolve_device, resolve_dtype, share_of_cores, world_size
from disret.encode.batches import normalised
from disret.encode.stages import Stages
from disret.files import check_writable
from disret.paths import HOME
from disret.retrieve.index import Index, TooLarge, open_index
from disret.retrieve.metrics import to_run
from disret.retrieve.score_file import ScoreFile, average_parts, summary
from disret.retrieve.search import check_gpu_faiss, search
from disret.serve.backends import BACKENDS, Encoder, ExportedEncoder, TorchEncoder
from disret.tables import Row, append_run, format_table, read_runs

HITS = 50_000_000  # held at once, 12 bytes each, of the queries of several encoders
ADVICE = {
    TooLarge: "use --index-dtype float32",
    NoJudgments: "distill.py --queries and ispeed.py --queries need none",
}


@command_line.advised(ADVICE)
def main() -> None:
    """Load the encoders, then score them on one data set after another."""
    args = parse_args()
    check_before_long_work(args)

    distributed.join()
    args.device = resolve_device(args.device)
    if args.gpu_search == "faiss":
        with about("--gpu-search faiss"):
            check_gpu_faiss()
    args.dtype = distributed.decided_by_first(partial(resolve_dtype, args.dtype, args.device))
    scores = ScoreFile(
        args.output, args.k_values, args.save_runs,
        score_function=args.score_function, dtype=args.dtype, index_dtype=args.index_dtype,
    )  # fmt: skip
    stages = Stages()
    teacher = TorchEncoder(args.document_encoder, args.device, args.dtype, args.batch_size, stages)
    students = [
        load_student(args, name, backend, teacher, stages)
        for name in args.query_encoder
        for backend in args.query_backend
    ]
    # The teacher first: retention is measured against it.
    contestants = students if students and args.no_baseline else [teacher, *students]

    rows: list[Row] = []
    for name in args.datasets:
        with stages.measure("download", 1):
            collections = find_collections(name, args.mirror)
        split = args.split or default_split(name)
        rows += score_dataset(args, collections, split, teacher, contestants, scores)
    if is_main_process():
        append_run(args.output.with_suffix(".json"), stages.report(vars(args), args.device))
        print(format_table(summary(rows, scores.main_metric)))
        print(f"\n{format_table(stages.rows())}")
        print(f"\nEvery metric is in {args.output}.")
    distributed.leave()


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--datasets", nargs="+", default=list(datasets()), metavar="NAME|DIR",
        help="data sets, or directories in BEIR's layout (default: the paper's 15)")
    add("--document-encoder", default="msmarco-bert-base-dot-v5", metavar="MODEL",
        help="model that embeds the documents (default: %(default)s)")
    add("--query-encoder", nargs="+", default=[], metavar="MODEL",
        help="models that embed the queries, each scored by itself (default: the document encoder)")
    add("--query-backend", nargs="+", choices=BACKENDS, default=["torch"],
        help="what embeds the queries of --query-encoder: torch, or what distill.py --export made "
        "of the model, in float32 (export) or int8 (default: torch)")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="results, a row for each data set as it finishes; rows that it holds already are not "
        "computed again; what the run took goes to a .json file beside it (default: "
        "benchmarks/results.csv)")
    add("--extension", choices=["flat"], default="flat", help="kind of index: exact search")
    add("--k-values", nargs="+", type=positive, default=[10, 100], metavar="K",
        help="cut-offs of the metrics (default: 10 100)")
    add("--score-function", choices=["dot", "cos_sim"], default="dot",
        help="dot product or cosine of the angle (default: dot)")
    add("--dtype", choices=["auto", "bfloat16", "float16", "float32"], default="auto",
        help="precision of the encoders (default: bfloat16 where the device has it, float16 on "
        "other GPUs)")
    add("--index-dtype", choices=["float16", "float32"], default="float16",
        help="precision of the vectors on disk (default: float16)")
    add("--batch-size", type=positive, metavar="N",
        help="encode as many tokens at once as N texts of maximum length have; what does not fit "
        "into memory is halved (default: 4,096 tokens on the CPU, 65,536 on CUDA)")
    add("--gpu-search", choices=["torch", "faiss"], default="torch",
        help="what searches on CUDA; faiss needs requirements-gpu.txt (default: torch)")
    add("--no-baseline", action="store_true",
        help="do not score the document encoder's own queries")
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if args.query_backend != ["torch"] and not args.query_encoder:
        parser.error("--query-backend is of --query-encoder, which is missing")
    if args.output.suffix == ".json":
        parser.error("--output is a CSV table; what the run took goes to a .json file beside it")
    args.k_values = sorted(set(args.k_values))
    args.mirror = mirror_from(args.mirror)
    return args


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse unknown data sets, missing splits and an output that cannot be written."""
    for name in args.datasets:
        check_name(name)
        if is_present(name):
            for collection in find_collections(name):
                collection.check_split(args.split or default_split(name))
    check_writable(args.output)
    read_runs(args.output.with_suffix(".json"))
    if args.save_runs:
        check_writable(args.save_runs / "run")


def load_student(
    args: argparse.Namespace, name: str, backend: str, teacher: TorchEncoder, stages: Stages
) -> Encoder:
    """An encoder of queries, if its vectors are of the index's dimension."""
    if backend == "torch":
        student = TorchEncoder(name, args.device, args.dtype, args.batch_size, stages)
    else:
        student = ExportedEncoder(name, backend, share_of_cores(world_size()), stages)
    if student.size.dimension != teacher.size.dimension:
        raise UserError(
            f"{name} gives {student.size.dimension} dimensions, but the index of {teacher.name} "
            f"has {teacher.size.dimension}: it is not a query encoder for this index."
        )
    return student


# --- Scoring ------------------------------------------------------------------------------------


def score_dataset(
    args: argparse.Namespace,
    collections: Sequence[Collection],
    split: str,
    teacher: TorchEncoder,
    contestants: Sequence[Encoder],
    scores: ScoreFile,
) -> list[Row]:
    """Score every contestant on a data set; each row goes to the output as soon as it is known.

    Args:
        collections: one, or the parts of a data set that counts as their average.

    Returns:
        A row for each contestant.
    """
    for collection in collections:
        collection.check_split(split)
    rows: list[Row] = []
    by_part: list[list[tuple[Row, dict[str, float]]]] = [[] for _ in contestants]
    for collection in collections:
        content = distributed.decided_by_first(partial(collection.fingerprint, split))
        identities = [
            scores.identify(collection.name, split, content, teacher, contestant)
            for contestant in contestants
        ]
        known = [scores.scores(identity) for identity in identities]
        missing = {}
        for contestant, identity, found in zip(contestants, identities, known, strict=True):
            if found is None:
                missing[contestant] = identity
            else:
                say(f"{collection.name}, {contestant.name}: in {args.output} already.")
        computed = iter(())
        if missing:
            target = open_target(args, collection, split, teacher, scores)
            computed = evaluate(args, target, missing, scores)
        rows = []
        for identity, found, parts in zip(identities, known, by_part, strict=True):
            parts.append((identity, next(computed) if found is None else found))
            rows.append(scores.add(*parts[-1]))
    if len(collections) > 1:
        rows = [scores.add(*average_parts(parts)) for parts in by_part]
    return rows


class Target(NamedTuple):
    """What queries are scored against: a collection's judged queries and its documents' index."""

    name: str
    queries: dict[str, str]
    qrels: Qrels
    index: Index


def open_target(
    args: argparse.Namespace,
    collection: Collection,
    split: str,
    teacher: TorchEncoder,
    scores: ScoreFile,
) -> Target:
    """Read and check a collection, then embed and index its documents with the teacher."""
    queries = collection.queries()
    qrels = collection.qrels(split, queries)
    judged = {document for grades in qrels.values() for document in grades}

    def check(ids: Sequence[str]) -> None:
        collection.check_judged(split, judged, judged.intersection(ids))
        scores.runs.check_ids(ids, "document")

    scores.runs.check_ids(qrels, "query")
    index = open_index(
        collection, teacher, args.score_function, args.index_dtype, args.extension, check
    )
    return Target(collection.name, {query: queries[query] for query in qrels}, qrels, index)


def evaluate(
    args: argparse.Namespace, target: Target, wanted: dict[Encoder, Row], scores: ScoreFile
) -> Iterator[dict[str, float]]:
    """Embed the queries with each encoder, search, and score.

    The queries of many encoders go through the index together, which is read once for them.

    Args:
        wanted: encoders, and what tells their rows from others.

    Yields:
        For each encoder, the metrics, and the numbers of documents and of queries scored.
    """
    count = len(target.queries)
    depth = scores.depth + 1  # a query's own document, if retrieved, does not count
    encoders, at_once = list(wanted), max(1, HITS // (count * depth))
    for start in range(0, len(encoders), at_once):
        group = encoders[start : start + at_once]
        vectors = np.concatenate([query_vectors(args, target, encoder) for encoder in group])
        stages = group[0].stages
        with stages.measure("search", len(vectors)):
            found = search(target.index, vectors, depth, args.device, args.gpu_search)
            target.index.check_unchanged()
        for number, encoder in enumerate(group):
            own = slice(number * count, (number + 1) * count)
            with stages.measure("score", count):
                metrics = distributed.decided_by_first(
                    partial(score, target, found, own, wanted[encoder], scores)
                )
            yield {**metrics, "documents": target.index.documents, "queries": count}


def query_vectors(args: argparse.Namespace, target: Target, encoder: Encoder) -> np.ndarray:
    """The embeddings of the queries, float32 [n_queries, dimension]."""
    vectors = encoder.encode_query(list(target.queries.values()))
    if not np.isfinite(vectors).all():
        raise UserError(f"{encoder.name} gives embeddings that are not numbers on {target.name}.")
    return normalised(vectors) if args.score_function == "cos_sim" else vectors


def score(
    target: Target,
    found: tuple[np.ndarray, np.ndarray],
    own: slice,
    identity: Row,
    scores: ScoreFile,
) -> dict[str, float]:
    """The metrics of one encoder's hits, which are some rows of all that was found."""
    values, rows = (column[own] for column in found)
    hits = target.index.ids().take(rows)
    run = to_run(list(target.queries), hits, values, scores.depth)
    return scores.score(identity, target.qrels, run)


if __name__ == "__main__":
    command_line.run(main)
