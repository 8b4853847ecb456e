#!/usr/bin/env python
"""How far an approximate index must look for a student's queries, and how long that takes.

    python beyond/approximate.py --datasets scifact --score-function cos_sim \\
        --document-encoder models/all-MiniLM-L6-v2 --query-encoder models/student@int8 \\
        --extension HNSW32 --search-parameters efSearch=16,32,64,128
    python beyond/approximate.py --queries log.tsv --index documents.faiss --ids ids.txt …   # yours

The farther such an index looks, the more it finds of what exact search finds. A student's queries
may need more of that than the teacher's, which costs some of the time that the smaller encoder
saves. This prints what the student needs to find as much as the teacher, and the speed-up that is
left. Speeds of different runs do not compare, so that each run measures all, and adds its rows.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np

from disret import command_line
from disret.command_line import UserError, progress_bar, tell, threads
from disret.data.collection import Collection, Qrels, default_split, find_collections
from disret.data.download import mirror_from
from disret.data.queries import read_queries
from disret.devices import resolve_device, resolve_dtype, world_size
from disret.encode.encoders import Encoder, check_dimensions, open_encoder, query_vectors
from disret.encode.timings import Timings, seconds
from disret.files import check_writable, text_sha256
from disret.paths import HOME
from disret.retrieve.approximate import (
    COLUMNS,
    RECALL,
    TIMES,
    empty_index,
    good_setting,
    open_approximate,
    parse_settings,
    reaching,
    set_parameters,
)
from disret.retrieve.faiss_file import FaissFile, index_file
from disret.retrieve.foreign import ForeignIndex, open_foreign
from disret.retrieve.ids import Ids
from disret.retrieve.index import Index, open_index
from disret.retrieve.metrics import metrics
from disret.retrieve.runs import Run, identify, to_run
from disret.retrieve.scores import encoder_of
from disret.retrieve.search import by_document, search
from disret.tables import Row, append_rows, format_table, read_rows

K = 10
DEPTH = 100  # exact hits among which ties are looked for
TIMED = 1000  # queries that are timed, at the most
TIES = 1e-4  # by which a score may miss the 10th, in lengths of the 10th where that is above 1
NDCG, OVERLAP = f"NDCG@{K}", f"overlap@{K}"
SHOWN = ("setting", RECALL, NDCG, OVERLAP, *TIMES)


class Task(NamedTuple):
    """Queries by id, and judgments and documents, which a log lacks; SHA-256 of all of it."""

    name: str
    split: str
    content: str
    queries: dict[str, str]
    qrels: Qrels
    collection: Collection | None


def main() -> None:
    """Of each data set, or a log: open its indexes, embed the queries, search and time them."""
    args = parse_args()
    settings = parse_settings(args.search_parameters)
    tasks = list(tasks_of(args))
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    opened = partial(open_encoder, device=device, dtype=dtype)
    teacher = opened(args.document_encoder, options=args.service_option)
    encoders = [teacher, *(opened(each, num_threads=args.threads) for each in args.query_encoder)]
    check_dimensions(teacher, encoders[1:])
    check_before_long_work(args, len(tasks), settings[0], teacher.dimension)

    for task in tasks:
        documents, index = open_indexes(args, task, teacher)
        queries = list(task.queries.values())
        vectors = np.stack([query_vectors(each, queries, args.score_function) for each in encoders])
        exact = exact_runs(documents, index, task, vectors, device)
        ids = documents.ids()
        found = measure(index, ids, task, encoders, vectors, exact, settings, args.threads)
        documents.check_unchanged()
        name, content, precision = args.extension, task.content, args.index_dtype
        if args.index:
            name, precision = args.index.name, documents.description
            content = text_sha256([content, documents.fingerprint])
        about = partial(identify, task.name, task.split, content, teacher, dtype=dtype,
                        score_function=args.score_function, index_dtype=precision)  # fmt: skip
        start = {"datetime": datetime.now().isoformat(" ", "seconds"), "index": name}
        rows = [[{**start, **about(encoder), **row} for row in own]
                for encoder, own in zip(encoders, found, strict=True)]  # fmt: skip
        append_rows(args.output, list(chain(*rows)))
        table = [{"query encoder": encoder_of(row), **{name: row[name] for name in SHOWN}}
                 for row in chain(*rows)]  # fmt: skip
        tell("\n".join([format_table(table), "", *answers(*rows), ""]))
    tell(f"Every setting is in {args.output}.")


def exact_runs(
    documents: Index | ForeignIndex, index: FaissFile, task: Task, vectors: np.ndarray, device: str
) -> list[Run]:
    """What exact search finds with each encoder's queries; nothing without vectors to look at.

    `vectors` are those of the queries, float32 [n_encoders, n_queries, dimension].
    """
    queries, depth = np.concatenate(vectors), min(DEPTH + 1, documents.documents)
    if isinstance(documents, Index):
        scores, rows = search(documents, queries, depth, device)
    elif index.exhaustive() is not None:
        scores, rows = by_document(index.search_exactly, documents.ids(), queries, depth)
    else:
        return []
    hits = np.split(documents.ids().take(rows), len(vectors))
    pairs = zip(hits, np.split(scores, len(vectors)), strict=True)
    return [to_run(task.queries, *own, depth) for own in pairs]


def measure(
    index: FaissFile,
    ids: Ids,
    task: Task,
    encoders: Sequence[Encoder],
    vectors: np.ndarray,
    exact: Sequence[Run],
    settings: Sequence[Mapping[str, float]],
    threads: int,
) -> list[list[Row]]:
    """Search an index with each encoder's queries and each setting, all at once and one by one.

    Args:
        encoders, vectors, exact: the teacher first; as in `exact_runs`.
        threads: of the CPU, while single queries are timed.

    Returns:
        Of each encoder a row for each setting. Means over the queries, without documents that have
        the query's own id: `recall@10`, the share of the exact search's ten best (and of what ties
        with the tenth) that is among the ten found; `NDCG@10`, where there are judgments;
        `overlap@10`, the share of the ten best of the teacher's exact search. Medians of up to
        1,000 single queries, in milliseconds: `encode_ms`, `search_ms` and `total_ms`. What cannot
        be known is None: recall and overlap without exact hits, the time of an encoder elsewhere.
    """
    depth = min(DEPTH + 1, index.documents)
    own_is_hit = any(len(hits) < depth for run in exact for hits in run.values())
    count = min(K + (own_is_hit if exact else bool(task.qrels)), index.documents)
    wanted = [[best(hits) for hits in run.values()] for run in exact]
    of_teacher = [set(islice(hits, K)) for hits in exact[0].values()] if exact else []
    alone = [[query] for query in task.queries.values()]
    encoding = [
        seconds(partial(each.run, batch_size=1), alone, threads, TIMED) if each.is_local else None
        for each in encoders
    ]
    rows: list[list[Row]] = [[] for _ in encoders]
    with progress_bar(total=len(settings) * len(encoders), desc="search", unit="setting") as bar:
        for setting in settings:
            set_parameters(index.index, setting, str(index.path))
            label = ", ".join(f"{name} {value:.12g}" for name, value in setting.items())
            for number, own in enumerate(vectors):  # in turn, so that a drift of speed meets all
                scores, found = by_document(index.search, ids, own, count)
                run = to_run(task.queries, ids.take(found), scores, K)
                searching = seconds(partial(index.search, k=count), own[:, None], threads, TIMED)
                both = None if encoding[number] is None else encoding[number] + searching
                times = zip(TIMES, (encoding[number], searching, both), strict=True)
                rows[number].append({
                    "setting": label or "the defaults",
                    RECALL: share(run, wanted[number]) if exact else None,
                    NDCG: metrics(task.qrels, run, [K])[NDCG] if task.qrels else None,
                    OVERLAP: share(run, of_teacher) if exact else None,
                    **{name: None if taken is None else round(1e3 * median(taken), 4)
                       for name, taken in times},
                    "threads": threads, "documents": index.documents, "queries": len(own),
                })  # fmt: skip
                bar.update()
    return rows


def best(hits: Mapping[str, float]) -> set[str]:
    """The ten best documents, and those that score as the tenth does."""
    tenth = min(islice(hits.values(), K), default=0.0)
    least = tenth - TIES * max(1, abs(tenth))
    return {id for id, score in hits.items() if score >= least}


def share(run: Run, wanted: Sequence[set[str]]) -> float:
    """The mean share of the first ten that are wanted, among those found."""
    pairs = zip(run.values(), wanted, strict=True)
    shares = (len(some & hits.keys()) / max(1, min(K, len(some))) for hits, some in pairs)
    return round(mean(shares), 4)


def answers(teacher: Sequence[Row], *students: Sequence[Row]) -> Iterator[str]:
    """What each student needs to find as much as the teacher does, and its speed-up then."""
    title = f"{teacher[0]['dataset']}, {teacher[0]['index']}"
    if teacher[0][RECALL] is None:
        yield f"{title}: {RECALL} cannot be measured, as the index does not hold whole vectors."
        return
    of_teacher = good_setting(teacher)
    said = f"the teacher's {RECALL} at {of_teacher['setting']} ({of_teacher[RECALL]:.3f})"
    for student in students:
        what = f"reaches {said}"
        if not (reached := reaching(student, of_teacher)):
            reached = max(student, key=lambda row: row[RECALL])
            what = f"does not reach {said} with what was tried: {reached[RECALL]:.3f}"
        speed = ""
        if of_teacher["total_ms"] is not None and reached["total_ms"] is not None:
            times = [f"{of_teacher[name] / reached[name]:.3g}x" for name in TIMES]
            speed = f"; encoding is {times[0]} as fast, encoding and search together {times[2]}"
        yield f"{title}, {encoder_of(student[0])}: {what} with {reached['setting']}{speed}."


def tasks_of(args: argparse.Namespace) -> Iterator[Task]:
    """The log, or the data sets; each part of one in parts by itself."""
    if args.queries:
        texts = list(dict.fromkeys(read_queries(args.queries)))
        queries = {f"\n{number}": text for number, text in enumerate(texts)}  # no document's id
        yield Task(Path(args.queries[0]).name, "log", text_sha256(texts), queries, {}, None)
    for name in args.datasets or ():
        split = args.split or default_split(name)
        for collection in find_collections(name, args.mirror):
            collection.check_split(split)
            content = collection.fingerprint(split)
            yield Task(collection.name, split, content, *collection.judged(split), collection)


def open_indexes(
    args: argparse.Namespace, task: Task, teacher: Encoder
) -> tuple[Index | ForeignIndex, FaissFile]:
    """The index of a task's documents, and what is searched with other parameters."""

    def check(ids: Iterable[str]) -> None:
        if task.collection:
            task.collection.check_judged(task.split, task.qrels, ids)

    if args.index:
        wanted = teacher.dimension, args.score_function, bool(task.qrels), teacher.made_by
        index = open_foreign(args.index, args.ids, *wanted)
        check(index.ids())
        return index, FaissFile(index.path)
    flat = open_index(task.collection, teacher, args.score_function, args.index_dtype, check)
    return flat, open_approximate(flat, args.extension, args.score_function, Timings())


def check_before_long_work(
    args: argparse.Namespace, tasks: int, setting: Mapping[str, float], dimension: int
) -> None:
    """Refuse what cannot be timed, searched or written."""
    if world_size() > 1:
        raise UserError("single queries are timed by one process, without torchrun.")
    if args.index:
        if tasks != 1:
            raise UserError("an index is of one data set without parts; name it, or a log.")
        set_parameters(FaissFile(index_file(args.index)).index, setting, str(args.index))
    else:
        empty = empty_index(args.extension, dimension, args.score_function)
        set_parameters(empty, setting, args.extension)
    check_writable(args.output)
    read_rows(args.output, COLUMNS)


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--datasets", nargs="+", metavar="NAME|DIR", help="as in benchmark.py")
    asked.add_argument("--queries", nargs="+", metavar="FILE", help="a log, for an --index")
    index = parser.add_mutually_exclusive_group(required=True)
    index.add_argument("--extension", metavar="KIND",
        help="of FAISS's index factory, such as HNSW32, IVF1024,Flat, SQ8 or PQ48,RFlat")
    index.add_argument("--index", type=Path, metavar="FILE", help="a FAISS index that is there")
    add("--ids", metavar="FILE[#COLUMN]|rows", help="its document ids, one a line")
    add("--search-parameters", nargs="+", default=[], metavar="NAME=V,V",
        help="values of efSearch, nprobe, k_factor_rf …; of one parameter several, of others one")
    add("--document-encoder", nargs="+", required=True, metavar="NAME", help="the teacher")
    add("--query-encoder", nargs="+", default=[], metavar="NAME",
        help="the students: models, or their exports (models/student@int8)")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to a service")
    add("--split", help="split of the judgments (default: test; dev for msmarco)")
    add("--score-function", choices=["dot", "cos_sim"], default="dot", help="(default: dot)")
    add("--threads", type=threads, default=1, help="of the CPU, for single queries (default: 1)")
    add("--output", type=Path, default=HOME / "benchmarks" / "approximate.csv", metavar="CSV",
        help="the table, to which rows are added (default: benchmarks/approximate.csv)")
    add("--dtype", choices=command_line.DTYPES, default="auto",
        help="precision of the encoders (default: bfloat16 where the device has it)")
    add("--index-dtype", choices=["float16", "float32"], default="float16",
        help="precision of the exact vectors on disk (default: float16)")
    # fmt: on
    command_line.add_device(parser)
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if args.queries and not args.index:
        parser.error("--queries are of documents that are there: name their --index")
    args.mirror = mirror_from(args.mirror)
    return args


if __name__ == "__main__":
    command_line.run(main)
