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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from disret.command_line import UserError, argument_parser, is_main_process, run, say
from disret.data.catalog import datasets
from disret.data.collection import (
    Collection,
    check_name,
    default_split,
    find_collections,
    is_present,
)
from disret.data.download import mirror_from
from disret.files import check_writable
from disret.paths import HOME
from disret.serve.backends import BACKENDS

if TYPE_CHECKING:
    import numpy as np

    from disret.encode.batches import BatchEncoder
    from disret.encode.stages import Stages
    from disret.retrieve.index import Index


class Encoder(NamedTuple):
    name: str
    weights: str  # fingerprint
    max_length: int  # tokens
    dimension: int
    encode_query: Callable[[list[str]], "np.ndarray"]  # float32 [n_queries, dimension]
    backend: str = "torch"
    batches: "BatchEncoder | None" = None  # of torch


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
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
        "of the model, in float32 (onnx) or int8 (default: torch)")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="results, a row for each data set as it finishes; rows that it holds already are not "
        "computed again; what the run took goes to a .json file beside it (default: "
        "benchmarks/results.csv)")
    add("--extension", choices=["flat"], default="flat", help="kind of index: exact search")
    add("--k-values", nargs="+", type=int, default=[10, 100], metavar="K",
        help="cut-offs of the metrics (default: 10 100)")
    add("--score-function", choices=["dot", "cos_sim"], default="dot",
        help="dot product or cosine of the angle (default: dot)")
    add("--dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="precision of the encoders (default: bfloat16 where the device has it)")
    add("--index-dtype", choices=["float16", "float32"], default="float16",
        help="precision of the vectors on disk (default: float16)")
    add("--batch-size", type=int, metavar="N",
        help="encode as many tokens at once as N texts of maximum length have; what does not fit "
        "into memory is halved (default: 4,096 tokens on the CPU, 65,536 on CUDA)")
    add("--no-baseline", action="store_true",
        help="do not score the document encoder's own queries")
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    add("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")
    add("--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)")
    # fmt: on
    args = parser.parse_args()
    if min(args.k_values) < 1:
        parser.error(f"--k-values must be positive, got {min(args.k_values)}")
    if args.query_backend != ["torch"] and not args.query_encoder:
        parser.error("--query-backend is of --query-encoder, which is missing")
    if args.output.suffix == ".json":
        parser.error("--output is a CSV table; what the run took goes to a .json file beside it")
    if args.batch_size is not None and args.batch_size < 1:
        parser.error(f"--batch-size must be positive, got {args.batch_size}")
    args.k_values = sorted(set(args.k_values))
    return args


def main() -> None:
    args = parse_args()
    mirror = mirror_from(args.mirror)
    check_before_long_work(args)

    from disret import distributed
    from disret.devices import resolve_device, resolve_dtype
    from disret.encode.stages import Stages
    from disret.retrieve.score_file import main_metric, summary
    from disret.tables import append_run, format_table, read_rows

    distributed.join()
    done = distributed.decided_by_first(lambda: read_rows(args.output))
    args.device = resolve_device(args.device)
    args.dtype = distributed.decided_by_first(partial(resolve_dtype, args.dtype, args.device))
    stages = Stages()
    teacher = load(args, args.document_encoder, stages)
    students = [
        load(args, name, stages) if backend == "torch" else load_export(name, backend, stages)
        for name in args.query_encoder
        for backend in args.query_backend
    ]
    for student in students:
        check_dimensions(teacher, student)
    # The teacher first: retention is measured against it.
    contestants = students if students and args.no_baseline else [teacher, *students]

    rows = []
    for dataset in args.datasets:
        with stages.measure("download", 1):
            collections = find_collections(dataset, mirror)
        split = args.split or default_split(dataset)
        rows += score_dataset(args, collections, split, teacher, contestants, done, stages)
    if is_main_process():
        append_run(args.output.with_suffix(".json"), vars(args), args.device, stages.rows())
        print(format_table(summary(rows, main_metric(args.k_values))))
        print(f"\n{format_table(stages.rows())}")
        print(f"\nEvery metric is in {args.output}.")
    distributed.leave()


def score_dataset(
    args: argparse.Namespace,
    collections: Sequence[Collection],
    split: str,
    teacher: Encoder,
    contestants: Sequence[Encoder],
    done: Sequence[dict],
    stages: "Stages",
) -> list[dict]:
    """Score every contestant on a data set; each row goes to the output as soon as it is known.

    Args:
        collections: one, or the parts of a data set that counts as their average.
        done: rows of earlier runs, which are not computed again.

    Returns:
        A row for each contestant.
    """
    from disret import distributed
    from disret.retrieve.score_file import average_parts, find_row, identify, scores_of

    for collection in collections:
        collection.check_split(split)
    known = list(done)
    scored: list[list[tuple[dict, dict]]] = [[] for _ in contestants]  # by part
    for collection in collections:
        rows = []
        content = distributed.decided_by_first(partial(collection.fingerprint, split))
        target = None  # opened when the first contestant needs it
        for contestant, parts in zip(contestants, scored, strict=True):
            identity = identify(
                collection.name, content, split, args.score_function, teacher[:3], contestant[:3],
                args.dtype, args.index_dtype, contestant.backend,
            )  # fmt: skip
            earlier = find_row(known, identity, args.k_values)
            run_is_there = distributed.decided_by_first(
                partial(has_run_file, args, collection, split, contestant)
            )
            if earlier is not None and run_is_there:
                say(f"{collection.name}, {contestant.name}: in {args.output} already.")
                scores = scores_of(earlier, args.k_values)
            else:
                target = target or open_target(args, collection, split, teacher)
                scores = evaluate(args, target, contestant, stages)
            parts.append((identity, scores))
            rows.append(add_row(args, known, identity, scores))
    if len(collections) > 1:
        rows = [add_row(args, known, *average_parts(parts)) for parts in scored]
    return rows


def add_row(args: argparse.Namespace, known: list[dict], identity: dict, scores: dict) -> dict:
    """Complete a row with retention, and save it unless the output has it."""
    from disret.retrieve.metrics import retention
    from disret.retrieve.score_file import assemble, baseline_of, find_row, main_metric
    from disret.tables import append_row

    earlier = find_row(known, identity, args.k_values)
    metric = main_metric(args.k_values)
    kept = None
    if baseline_of(identity) == identity:
        kept = 100.0
    elif teacher := find_row(known, baseline_of(identity), args.k_values):
        kept = retention(scores[metric], float(teacher[metric]))
    row = assemble(identity, scores, kept)
    is_new = earlier is None or (earlier["retention"] is None and kept is not None)
    if is_new and is_main_process():
        append_row(args.output, row)
    known.append(row)
    return row


class Target(NamedTuple):
    """What queries are scored against: a collection's split, checked, and its documents' index."""

    collection: Collection
    split: str
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    index: "Index"


def open_target(
    args: argparse.Namespace, collection: Collection, split: str, teacher: Encoder
) -> Target:
    """Read and check a collection, then embed and index its documents with the teacher."""
    from disret.retrieve.index import open_index

    queries = collection.queries()
    qrels = collection.qrels(split, queries)
    judged = {document for grades in qrels.values() for document in grades}
    index = open_index(
        collection,
        teacher.batches,
        teacher.name,
        teacher.weights,
        args.dtype,
        args.score_function,
        args.index_dtype,
        before_encoding=lambda ids: collection.check_judged(
            split, judged, judged.intersection(ids)
        ),
        extension=args.extension,
    )
    queries = {query_id: queries[query_id] for query_id in qrels}
    return Target(collection, split, queries, qrels, index)


def evaluate(
    args: argparse.Namespace, target: Target, contestant: Encoder, stages: "Stages"
) -> dict[str, float]:
    """Search with the contestant's queries, and score.

    Returns:
        The metrics, and the numbers of documents and of queries scored.
    """
    import numpy as np

    from disret import distributed
    from disret.encode.batches import normalised
    from disret.retrieve.metrics import metrics, to_run, write_trec_run
    from disret.retrieve.search import search

    queries = list(target.queries)
    vectors = contestant.encode_query(list(target.queries.values()))
    if not np.isfinite(vectors).all():
        raise UserError(
            f"{contestant.name} gives embeddings that are not numbers on {target.collection.name}."
        )
    if args.score_function == "cos_sim":
        vectors = normalised(vectors)

    # One hit more than asked for: a query's own document, if retrieved, does not count.
    k = depth(args)
    with stages.measure("search", len(queries)):
        found = search(target.index, vectors, k + 1, args.device)
        target.index.check_unchanged()

    def score() -> dict[str, float]:
        with stages.measure("score", len(queries)):
            scores, rows = found
            hits = to_run(queries, target.index.ids().take(rows), scores, k)
            if args.save_runs:
                path = run_file(args, target.collection, target.split, contestant)
                write_trec_run(path, hits, Path(contestant.name).name)
            return metrics(target.qrels, hits, args.k_values)

    counts = {"documents": target.index.documents, "queries": len(queries)}
    return {**distributed.decided_by_first(score), **counts}


def depth(args: argparse.Namespace) -> int:
    """How many hits the metrics look at; MRR@10 needs ten."""
    return max(10, *args.k_values)


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse unknown data sets, missing splits and an output that cannot be written."""
    from disret.tables import read_runs

    for name in args.datasets:
        check_name(name)
        if is_present(name):
            for collection in find_collections(name):
                collection.check_split(args.split or default_split(name))
    check_writable(args.output)
    read_runs(args.output.with_suffix(".json"))
    if args.save_runs:
        check_writable(args.save_runs / "run")


def load(args: argparse.Namespace, name: str, stages: "Stages") -> Encoder:
    from disret.encode.batches import BatchEncoder
    from disret.encode.models import fingerprint, load_encoder, set_precision

    model = load_encoder(name, args.device)
    weights = fingerprint(model)
    set_precision(model, args.dtype)
    batches = BatchEncoder(model, args.batch_size, stages)
    return Encoder(
        name, weights, model.max_seq_length, model.get_embedding_dimension(), batches.encode_query,
        batches=batches,
    )  # fmt: skip


def load_export(name: str, backend: str, stages: "Stages") -> Encoder:
    from disret.devices import share_of_cores, world_size
    from disret.serve.backends import ExportedQueries

    export = ExportedQueries(name, backend, share_of_cores(world_size()))
    encode_query = partial(export.encode_query, stages=stages)
    return Encoder(
        name, export.weights, export.max_length, export.size.dimension, encode_query, backend
    )


def check_dimensions(teacher: Encoder, student: Encoder) -> None:
    if student.dimension != teacher.dimension:
        raise UserError(
            f"{student.name} gives {student.dimension} dimensions, but the index of {teacher.name} "
            f"has {teacher.dimension}: it is not a query encoder for this index."
        )


def run_file(
    args: argparse.Namespace, collection: Collection, split: str, contestant: Encoder
) -> Path:
    """Named by all that decides its content but the teacher's weights and the collection's text."""
    encoder = f"{Path(contestant.name).name}-{contestant.weights[:8]}"
    data = f"{collection.name.replace('/', '-')}.{split}"
    precision = f"{args.dtype}-{args.index_dtype}"
    kind = f"{args.score_function}.{precision}.top{depth(args)}"
    return args.save_runs / f"{data}.{encoder}.{kind}.trec"


def has_run_file(
    args: argparse.Namespace, collection: Collection, split: str, contestant: Encoder
) -> bool:
    """Whether the run file is there, or not asked for."""
    return not args.save_runs or run_file(args, collection, split, contestant).exists()


if __name__ == "__main__":
    run(main)
