#!/usr/bin/env python
"""Score query encoders on BEIR over the document index of one encoder.

    python benchmark.py --query-encoder models/student              # the paper: all 15 data sets
    python benchmark.py --datasets scifact nfcorpus --document-encoder models/all-MiniLM-L6-v2 \\
        --query-encoder models/student --score-function cos_sim
    python benchmark.py --datasets path/to/my/collection …          # a folder in BEIR's layout
    python benchmark.py --queries log.tsv --index documents.faiss --document-encoder T \\
        --query-encoder models/student                  # your index, no judgments: agreement with T
    python benchmark.py --datasets scifact --query-encoder models/student --extension HNSW32 \\
        --search-parameters efSearch=16,32,64,128       # how far must the student's search look?
    torchrun --nproc-per-node 4 benchmark.py …                      # several GPUs, or CPUs
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        benchmark.py …                                 # several machines, one shared file system

Documents are embedded and indexed once per document encoder; then only queries are embedded. With
--query-encoder the document encoder's own queries are scored on the same index, and retention is
the share of its nDCG@10 that the query encoder keeps. A collection of any size streams through a
few gigabytes of memory, and a run that was killed goes on where it was.

The table of scores is that of exact search, or of --index as it is. With --extension or
--search-parameters a second table, RESULTS.sweep.csv, says what an approximate index finds of it
with each setting, in how many milliseconds, and the answer is printed: what the student needs to
find as much as the teacher, and the speed-up that is left.
"""

import argparse
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from disret import command_line, distributed
from disret.command_line import UserError, about, is_main_process, positive, say, threads
from disret.data.catalog import datasets
from disret.data.collection import (
    NoJudgments,
    check_name,
    default_split,
    find_collections,
    is_present,
)
from disret.data.download import mirror_from
from disret.data.query_files import query_source, read_queries
from disret.data.vectors import read_vectors, split
from disret.devices import resolve_device, resolve_dtype, share_of_cores, world_size
from disret.encode.service import NoKey, Service, host_of, is_address, parsed_options
from disret.encode.timings import Timings
from disret.files import check_writable, text_sha256
from disret.paths import HOME
from disret.retrieve.agreement import agreement
from disret.retrieve.agreement import summary as agreement_summary
from disret.retrieve.existing import ExistingIndex, open_existing
from disret.retrieve.failures import failures, write_worst
from disret.retrieve.hits import Hits, find_hits
from disret.retrieve.index import TooLarge, open_index
from disret.retrieve.metrics import to_run
from disret.retrieve.runs import run_name
from disret.retrieve.scores import Scores, average_parts, encoder_of, summary
from disret.retrieve.search import check_gpu_faiss
from disret.retrieve.settings import parse_settings
from disret.retrieve.sweep_file import SweepFile
from disret.retrieve.tasks import Target, Task, tasks_of
from disret.serve.backends import (
    BACKENDS,
    Encoder,
    ExportedEncoder,
    ServiceEncoder,
    TorchEncoder,
    VectorEncoder,
)
from disret.tables import Row, append_run, format_table, read_runs

TEACHER = "msmarco-bert-base-dot-v5"
ADVICE = {
    NoKey: "set the variable OPENAI_API_KEY",
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
    timings = Timings()
    teacher = load_teacher(args, timings)
    index = open_own_index(args, teacher)
    scores = open_score_file(args, index)
    sweeps = open_sweep_file(args, teacher)
    students = [
        load_student(args, name, backend, teacher, timings)
        for name in args.query_encoder
        for backend in args.query_backend
    ]
    # The teacher first: retention is measured against it. Without judgments it has no score.
    leave_out = not args.judged or (students and args.no_baseline)
    contestants = students if leave_out else [teacher, *students]

    rows: list[Row] = []
    for name in args.datasets:
        with timings.measure("download", 1):
            tasks = tasks_of(name, args.split, args.mirror, read_log(args, teacher))
        rows += score_dataset(args, tasks, teacher, contestants, scores, sweeps, index)
    if is_main_process():
        append_run(args.output.with_suffix(".json"), timings.report(vars(args), args.device))
        print("\n".join([format_table(summary(rows, scores.main_metric)), *scores.comparisons()]))
        if sweeps:
            print(f"\n{sweeps.report()}")
        print(f"\n{format_table(timings.rows())}")
        print(f"\nEvery metric is in {args.output}.")
    distributed.leave()


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--datasets", nargs="+", metavar="NAME|DIR",
        help="data sets, or directories in BEIR's layout (default: the paper's 15)")
    add("--document-encoder", metavar="MODEL",
        help="model that embeds the documents, or the address of a service that embedded those of "
        f"--index (default: {TEACHER})")
    add("--document-vectors", nargs="+", metavar="FILE",
        help="instead of the encoder, the vectors that it gave to queries: the --teacher-vectors "
        "of distill.py; those that it validated on, if there are no --queries and --datasets")
    add("--service-model", metavar="NAME", help="the model, as the service calls it")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to the service")
    add("--index", type=Path, metavar="PATH",
        help="search this index, as it is, instead of one that is built here: FAISS of any kind, "
        ".npy, .fvecs, .parquet or a folder of benchmarks/faiss")
    add("--ids", type=Path, metavar="FILE", help="document ids of --index, one a line")
    add("--queries", nargs="+", type=query_source, metavar="FILE",
        help="a query log (a file, or as in distill.py a data set of the hub) instead of "
        "--datasets: agreement with the document encoder's own queries")
    add("--max-queries", type=positive, metavar="N", help="of --queries, the first N")
    add("--worst", type=Path, metavar="DIR",
        help="write there, for each query encoder, the ten queries on which it agrees least")
    add("--query-encoder", nargs="+", default=[], metavar="MODEL",
        help="models that embed the queries, each scored by itself (default: the document encoder)")
    add("--query-backend", nargs="+", choices=BACKENDS, default=["torch"],
        help="what embeds the queries of --query-encoder: torch, or what disret.serve.export made "
        "of the model, in float32 (export) or int8 (default: torch)")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="results, a row for each data set as it finishes; rows that it holds already are not "
        "computed again; what the run took goes to a .json file beside it (default: "
        "benchmarks/results.csv)")
    add("--extension", default="flat", metavar="KIND",
        help="also search an index of this kind, made of the same vectors: what FAISS's index "
        "factory takes, such as HNSW32, IVF1024,Flat, SQ8 or PQ48,RFlat (default: flat, exact)")
    add("--search-parameters", nargs="+", default=[], metavar="NAME=V,V",
        help="search the index of --extension, or the FAISS file of --index, with each value of "
        "a parameter such as efSearch, nprobe or k_factor_rf; others may have one value")
    add("--threads", type=threads, metavar="N",
        help="of the CPU, while that times single queries (default: 1)")
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
    check_index_arguments(args, parser)
    args.k_values = sorted(set(args.k_values))
    args.mirror = mirror_from(args.mirror)
    return args


def check_index_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what does not go together; a query log takes the place of the data sets."""
    if args.document_vectors and (args.document_encoder or args.service_model):
        parser.error("--document-vectors take the place of a --document-encoder")
    args.document_encoder = args.document_encoder or TEACHER
    if is_address(args.document_encoder) != bool(args.service_model):
        parser.error("--service-model is the model of a service, the address --document-encoder")
    if args.service_model:
        host_of(args.document_encoder)
        parsed_options(args.service_option)
    if args.queries and args.datasets:
        parser.error("--queries and --datasets exclude each other")
    if not args.index and (args.ids or args.queries or args.service_model or args.document_vectors):
        parser.error(
            "--ids, --queries, --document-vectors and a service need the documents' --index"
        )
    if args.search_parameters or args.extension != "flat":
        check_sweep_arguments(args, parser)
    elif args.threads:
        parser.error("--threads are of single queries on an approximate --extension or --index")
    args.judged = not (args.queries or (args.document_vectors and not args.datasets))
    if not args.judged and not args.query_encoder:
        parser.error("a log compares each --query-encoder with the document encoder's own queries")
    if not args.judged and args.no_baseline:
        parser.error("a log is compared with the baseline, which --no-baseline leaves out")
    if args.index and args.judged and len(args.datasets or []) != 1:
        parser.error("--index is of one data set: name it with --datasets, or a log with --queries")
    log = args.queries or args.document_vectors
    args.datasets = args.datasets or (list(datasets()) if args.judged else [Path(log[0]).name])


def check_sweep_arguments(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what does not go with a sweep."""
    if args.index and args.extension != "flat":
        parser.error("--extension is the kind of an index that is built here, --index another's")
    if not args.index and args.extension == "flat":
        parser.error("--search-parameters are of an approximate index: name its --extension")
    if args.no_baseline:
        parser.error("students are compared with the baseline, which --no-baseline leaves out")
    if world_size() > 1:
        parser.error("single queries are timed by one process, without torchrun")
    with about("--search-parameters"):
        parse_settings(args.search_parameters)
    args.threads = args.threads or 1


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse unknown data sets, missing splits and an output that cannot be written."""
    for name in args.datasets if args.judged else []:
        check_name(name)
        if is_present(name):
            for collection in find_collections(name):
                collection.check_split(args.split or default_split(name))
    check_writable(args.output)
    read_runs(args.output.with_suffix(".json"))
    for folder in filter(None, (args.save_runs, args.worst)):
        check_writable(folder / "run")


def load_teacher(args: argparse.Namespace, timings: Timings) -> Encoder:
    """What embedded the documents, or will; or what is left of it, the vectors of queries."""
    if args.document_vectors:
        name = Path(args.document_vectors[0]).name
        return VectorEncoder(read_vectors(args.document_vectors), name, timings)
    if args.service_model:
        options = parsed_options(args.service_option)
        return ServiceEncoder(Service(args.document_encoder, args.service_model, options), timings)
    return TorchEncoder(args.document_encoder, args.device, args.dtype, args.batch_size, timings)


def open_own_index(args: argparse.Namespace, teacher: Encoder) -> ExistingIndex | None:
    """The index that the user has, if it fits the encoder."""
    if not args.index:
        return None
    with about("--index"):
        return open_existing(args.index, args.ids, teacher.size.dimension, args.score_function)


def open_score_file(args: argparse.Namespace, index: ExistingIndex | None) -> Scores:
    """The output, and what its rows have in common."""
    return Scores(
        args.output, args.k_values, args.save_runs, judged=args.judged,
        score_function=args.score_function, dtype=args.dtype,
        index_dtype=index.description if index else args.index_dtype,
    )  # fmt: skip


def open_sweep_file(args: argparse.Namespace, teacher: Encoder) -> SweepFile | None:
    """The table beside the output, if an approximate index is to be searched, and it can be."""
    if not args.search_parameters and args.extension == "flat":
        return None
    sweeps = SweepFile(
        args.output.with_suffix(".sweep.csv"), parse_settings(args.search_parameters),
        args.threads, args.score_function, args.extension, args.index,
    )  # fmt: skip
    sweeps.check(teacher.size.dimension)
    return sweeps


def load_student(
    args: argparse.Namespace, name: str, backend: str, teacher: Encoder, timings: Timings
) -> Encoder:
    """An encoder of queries, if its vectors are of the index's dimension."""
    if backend == "torch":
        student = TorchEncoder(name, args.device, args.dtype, args.batch_size, timings)
    else:
        of_cpu = args.threads or share_of_cores(world_size())
        student = ExportedEncoder(name, backend, of_cpu, timings)
    if student.size.dimension != teacher.size.dimension:
        raise UserError(
            f"{name} gives {student.size.dimension} dimensions, but the index of {teacher.name} "
            f"has {teacher.size.dimension}: it is not a query encoder for this index."
        )
    return student


def read_log(args: argparse.Namespace, teacher: Encoder) -> list[str] | None:
    """The queries of a log, or those that vectors are held out for; None of data sets."""
    if args.judged:
        return None
    if args.queries:
        return read_queries(args.queries, args.max_queries)
    held_out = split(teacher.vectors)[1][: args.max_queries]
    return [teacher.vectors.texts[row] for row in held_out]


# --- Scoring ------------------------------------------------------------------------------------


def score_dataset(
    args: argparse.Namespace,
    tasks: Sequence[Task],
    teacher: Encoder,
    contestants: Sequence[Encoder],
    scores: Scores,
    sweeps: SweepFile | None,
    index: ExistingIndex | None,
) -> list[Row]:
    """Score every contestant on a data set; each row goes to the output as soon as it is known.

    Args:
        sweeps: if there is one, every encoder searches an approximate index as well.
        index: to be searched instead of one that is built here.

    Returns:
        A row for each contestant.
    """
    rows: list[Row] = []
    by_part: list[list[tuple[Row, dict[str, float]]]] = [[] for _ in contestants]
    for task in tasks:
        content = text_sha256([task.content, index.fingerprint]) if index else task.content
        identities = {
            encoder: scores.identify(task.name, task.split, content, teacher, encoder)
            for encoder in dict.fromkeys([teacher, *contestants])
        }
        known = [scores.scores(identities[contestant]) for contestant in contestants]
        missing = {}
        for contestant, found in zip(contestants, known, strict=True):
            if found is None:
                missing[contestant] = identities[contestant]
            else:
                say(f"{task.name}, {contestant.name}: in {args.output} already.")
        computed = iter(())
        if missing or sweeps:
            target = open_target(args, task, teacher, scores, sweeps, index)
            wanted = contestants if sweeps else missing
            hits = hits_of(args, target, teacher, wanted, scores.depth, sweeps)
            if sweeps:
                hits = dict(hits).items()
            computed = evaluate(args, target, hits, teacher, missing, scores)
        rows = []
        for contestant, found, parts in zip(contestants, known, by_part, strict=True):
            parts.append((identities[contestant], next(computed) if found is None else found))
            rows.append(scores.add(*parts[-1]))
        if sweeps:
            sweeps.measure(target, dict(hits), identities, teacher.timings)
    if len(tasks) > 1:
        rows = [scores.add(*average_parts(parts)) for parts in by_part]
    return rows


def open_target(
    args: argparse.Namespace,
    task: Task,
    teacher: Encoder,
    scores: Scores,
    sweeps: SweepFile | None,
    index: ExistingIndex | None,
) -> Target:
    """Read and check a collection, then embed and index its documents, unless there is an index."""
    queries, qrels, check_judged = task.read()

    def check(ids: Collection[str]) -> None:
        check_judged(ids)
        scores.runs.check_ids(ids, "document")
        if sweeps:
            sweeps.check_count(len(ids), teacher.size.dimension)

    scores.runs.check_ids(queries, "query")
    if index:
        check(index.ids())
    else:
        index = open_index(task.collection, teacher, args.score_function, args.index_dtype, check)
    return Target(task.name, queries, qrels, index, task.collection)


def hits_of(
    args: argparse.Namespace,
    target: Target,
    teacher: Encoder,
    wanted: Iterable[Encoder],
    depth: int,
    sweeps: SweepFile | None,
) -> Iterator[tuple[Encoder, Hits | None]]:
    """Embed the queries with the teacher, for comparison, and with each encoder, and search."""
    encoders = list(dict.fromkeys([*([] if args.no_baseline else [teacher]), *wanted]))
    depth = max(depth, sweeps.depth if sweeps else 0)
    return find_hits(target, encoders, depth + 1, args.score_function, args.device, args.gpu_search)


def evaluate(
    args: argparse.Namespace,
    target: Target,
    found: Iterable[tuple[Encoder, Hits | None]],
    teacher: Encoder,
    wanted: dict[Encoder, Row],
    scores: Scores,
) -> Iterator[dict[str, float]]:
    """Score the hits of encoders, by the teacher's hits as well.

    Args:
        found: encoders and their hits, the teacher's first.
        wanted: encoders, and what tells their rows from others.

    Yields:
        For each encoder, the metrics, agreement with the teacher, and the numbers of documents and
        of queries.
    """
    count = len(target.queries)
    reference = None
    for encoder, hits in found:
        hits = hits and hits.best(scores.depth + 1)  # a query's own document does not count
        reference = hits if encoder is teacher else reference
        if encoder in wanted:
            with encoder.timings.measure("score", count):
                values = distributed.decided_by_first(
                    partial(score, args, target, wanted[encoder], hits, reference, scores)
                )
            yield {**values, "documents": target.index.documents, "queries": count}


def score(
    args: argparse.Namespace,
    target: Target,
    identity: Row,
    hits: Hits,
    reference: Hits | None,
    scores: Scores,
) -> dict[str, float]:
    """What is measured of one encoder's hits, beside the teacher's if these are there."""
    values = {}
    if target.qrels:
        documents = target.index.ids().take(hits.rows)
        run = to_run(list(target.queries), documents, hits.scores, scores.depth)
        values = scores.score(identity, target.qrels, run)
    if reference is None or hits is reference:
        return values
    per_query = agreement(
        reference.rows, hits.rows, reference.vectors, hits.vectors, scores.k_values
    )
    name = f"overlap@{scores.cut}"
    scores.per_query.setdefault(target.name, {})[encoder_of(identity)] = per_query[name]
    if args.worst:
        path = args.worst / f"{run_name(identity)}.md"
        write_worst(path, failures(target, per_query, reference.rows, hits.rows))
        say(f"{path}: where {identity['query_encoder']} agrees least.")
    return {**values, **agreement_summary(per_query)}


if __name__ == "__main__":
    command_line.run(main)
