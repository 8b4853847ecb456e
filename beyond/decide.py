#!/usr/bin/env python
"""Is a student worth it here, and which? One table, one sentence, and a page to pass on.

    python beyond/decide.py --teacher models/teacher --students models/two models/static@int8 \\
        --rivals models/small bm25 --datasets path/to/collection --score-function cos_sim \\
        --queries log.csv --qps 100 --price 0.02
    python beyond/decide.py --teacher https://HOST/v1#NAME --students models/static@int8 \\
        --index documents.parquet --queries log.csv            # without judgments

Beside the students stand a linear map from each small model (fitted to the log), the rivals, which
embed the documents anew or need no vectors, and the best student with BM25. Of each: nDCG@10, what
it keeps, milliseconds of a query with its search in an HNSW graph at a loss of 1 %, memory, and
dollars, once and a month. All is timed on one thread of the CPU. Without judgments, the share of
the teacher's ten best that is found takes the place of nDCG@10, and rivals are left out: they rank
by themselves. The verdict is that of the first rule that holds:

1. unclear: fewer than 50 queries, or an interval wider than ±6 points of what the best student
   keeps; or no judgments, and students that found as much kept from less to more than 85 %.
2. rival: one scores higher than the best student by more than chance (p < 0.05), 85 % of the
   teacher or more, and answers no slower than it.
3. teacher: no student keeps 85 %; or it answers in 20 ms, and a student costs as much a month.
4. student: the fastest of those that are not below the best one by more than chance.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from disret import command_line
from disret.command_line import UserError, one_line, positive_float, say, shortened, tell
from disret.data.collection import (
    Collection,
    Qrels,
    default_split,
    find_collections,
    texts_by_id,
)
from disret.data.download import mirror_from
from disret.data.queries import apart_from, read_queries, untrained
from disret.data.text_files import PARQUET, suffix_of
from disret.devices import resolve_dtype
from disret.distil.closed_form import TEXTS, ridge
from disret.encode.batches import normalised
from disret.encode.encoders import CHARACTERS, Encoder, check_dimensions, named, open_encoder
from disret.encode.encoders import query_vectors as vectors_of
from disret.encode.timings import Timings, cpu_threads, seconds
from disret.files import check_writable, read_json, whole_file, write_json
from disret.paths import HOME
from disret.retrieve.agreement import agreement, retained_range
from disret.retrieve.approximate import open_approximate, set_parameters
from disret.retrieve.foreign import ForeignIndex, open_foreign
from disret.retrieve.index import Index, open_index
from disret.retrieve.metrics import compare, interval, per_query
from disret.retrieve.runs import Run, to_run
from disret.retrieve.search import search
from disret.retrieve.words import Words, fused
from disret.tables import Row, format_table

K, DEPTH = 10, 100
NDCG, OVERLAP = "ndcg_cut.10", "recall.10"  # of the judged, of the teacher's ten best
MOST, WORST = 1000, 5  # queries of a log that are compared; that are shown, and hits of each
FEWEST, WIDEST = 50, 6.0  # judged queries; points of retention, half an interval
LEAST, FAST = 85.0, 20.0  # percent that is kept; milliseconds that nobody notices
GRAPH, EFFORTS, LOSS = "HNSW32", (16, 32, 64, 128, 256, 512), 0.01
LETTERS = 40  # of a text to train on, where reports do not say
LETTERS_SHOWN = 90  # of a document
TIMED = 200  # queries, and documents, that are timed
MONTH = 730  # hours
PAGE = Path(__file__).with_suffix(".html")


class Candidate(NamedTuple):
    """A way to answer queries.

    Attributes:
        kind: teacher, student, linear map, rival, or with BM25.
        ndcg: nDCG@10 of each judged query, or overlap@10 of each of a log, float64 [n_queries].
        encode_ms, total_ms: medians of a query, alone and with its search.
        once, month: dollars; once None where nothing tells it.
        per_core: queries a second; None for a service.
        run: its hits, best first; of a row of two that are fused, the student's.
    """

    name: str
    kind: str
    ndcg: np.ndarray
    encode_ms: float
    total_ms: float
    memory_mb: float
    once: float | None
    month: float
    per_core: float | None
    run: Run


def main() -> None:
    args = parse_args()
    check_writable(args.output / "report.html")
    opened = partial(open_encoder, dtype=resolve_dtype(args.dtype, "cpu"), num_threads=1)
    teacher = opened(args.teacher, options=args.service_option)
    students = [opened(name) for name in args.students]
    check_dimensions(teacher, students)
    if not (args.index or teacher.model):
        raise UserError(f"{teacher.name} embeds no documents here: name their index.")
    rivals = [opened(name) for name in args.rivals if name != "bm25"]
    if other := [rival.name for rival in rivals if not rival.model]:
        raise UserError(
            f"{', '.join(other)} embeds no documents here: a rival is a model, or bm25."
        )
    log, asked = read_queries(args.queries) if args.queries else [], []
    if not args.datasets:
        folders = [student.name for student in students]
        asked = list(dict.fromkeys(untrained(args.queries, log, folders)))[:MOST]
        log = apart_from(asked, log)
    log = log[:TEXTS]
    if rivals and not log:
        say("note: without a log of queries, no linear map from a rival is tried.")
    collections = list(chain.from_iterable(
        find_collections(name, mirror_from(args.mirror)) for name in args.datasets
    ))  # fmt: skip
    if args.index and len(collections) > 1:
        raise UserError("an index is of one collection without parts; name that.")
    if not teacher.is_local:
        teacher.announce(log + asked, args.price)
    reports = []
    for collection in collections or [None]:
        name, qrels = Path((args.queries or [""])[0]).name, {}
        queries = {f"query {n}": text for n, text in enumerate(asked)}
        if collection:
            name = collection.name
            queries, qrels = collection.judged(default_split(name))
        of = args, collection, queries
        found = list(candidates(*of, qrels, teacher, students, rivals, log))
        reports.append(report := {
            "collection": name, "queries": len(found[0].ndcg), "judged": collection is not None,
            "measure": "nDCG@10" if collection else "overlap@10",
            "rows": [row_of(one, found[0]) for one in found],
            **dict(zip(("verdict", "choice", "reason"), verdict(found, bool(collection)),
                       strict=True)),
            "worst": worst(*of, found),
            "note": "" if collection or not args.rivals else "Without judgments, nothing tells how "
                    f"well others rank: {', '.join(args.rivals)} left out.",
        })  # fmt: skip
        tell(f"\n{name}, {report['queries']}{' judged' if collection else ''} queries\n")
        tell(format_table([shown(row, report["measure"]) for row in report["rows"]]))
        tell("\n" + "\n".join(filter(None, (report["note"], report["reason"]))))
    settings = {key: getattr(args, key) for key in ("qps", "price", "core_hour")}
    command = command_line.invocation()
    write_json(args.output / "report.json", {"command": command, **settings, "reports": reports})
    write_page(args.output / "report.html", {"command": command, **settings, "reports": reports})
    tell(f"\nThe page to pass on is {args.output / 'report.html'}.")
    for report in reports:
        tell("verdict: " + " | ".join(report[key] for key in ("verdict", "choice", "collection")))


# --- What is compared -----------------------------------------------------------------------------


def candidates(
    args: argparse.Namespace, collection: Collection | None, queries: dict[str, str], qrels: Qrels,
    teacher: Encoder, students: Sequence[Encoder], rivals: Sequence[Encoder], log: list[str],
) -> Iterator[Candidate]:  # fmt: skip
    """All ways to answer the queries, of a collection or of a log, the teacher first."""
    if collection:
        check = partial(collection.check_judged, default_split(collection.name), qrels)
    texts = list(queries.values())
    alone = [[text] for text in texts[:TIMED]]
    by_score = partial(vectors_of, score_function=args.score_function)

    def index_of(encoder: Encoder) -> Index:
        return open_index(collection, encoder, args.score_function, "float16", check)

    def run_of(index: Index | ForeignIndex, vectors: np.ndarray) -> Run:
        scores, rows = search(index, vectors, min(DEPTH + 1, index.documents))
        return to_run(list(queries), index.ids().take(rows), scores, DEPTH)

    def made(encoder: Encoder, kind: str, index: Index | ForeignIndex, vectors: np.ndarray,
             run: Run, name: str = "", once: float | None = 0.0) -> Candidate:  # fmt: skip
        encode = median_ms(partial(encoder.run, batch_size=1), alone)
        both = encode + graph_ms(index, args.score_function, vectors[:TIMED])
        month = own_month(args, both)
        if not encoder.is_local:
            letters = sum(map(len, texts)) / len(texts)
            sent = args.qps * MONTH * 3600 * letters / CHARACTERS / 1e6
            month = own_month(args, both - encode) + sent * args.price
        size, per_core = encoder.weight_bytes / 1e6, 1e3 / both if encoder.is_local else None
        quality = per_query(qrels, run, NDCG if collection else OVERLAP)
        return Candidate(name or named(encoder.name, encoder.backend), kind, quality, encode, both,
                         size, once, month, per_core, run)  # fmt: skip

    index = index_of(teacher) if not args.index else open_foreign(
        args.index, args.ids, teacher.dimension, args.score_function, True, teacher.made_by
    )  # fmt: skip
    if args.index and collection:
        check(index.ids())
    found: list[Candidate] = []
    for encoder in (teacher, *students):
        vectors = by_score(encoder, texts)
        run = run_of(index, vectors)
        if not qrels:  # the teacher's own hits are what should be found
            qrels = {query: dict.fromkeys(islice(hits, K), 1) for query, hits in run.items()}
        kind, once = ("student", training_cost(args, encoder, teacher))
        if encoder is teacher:
            kind, once = "teacher", 0.0
        found.append(made(encoder, kind, index, vectors, run, once=once))
    targets = by_score(teacher, log) if log and rivals else None
    for encoder in rivals:
        start = time.perf_counter()
        states = by_score(encoder, texts)
        if targets is not None:
            weight, bias = ridge(by_score(encoder, log), targets)
            mapped = normalised(states @ weight.T + bias)
            cost = (time.perf_counter() - start) / 3600 * args.core_hour
            name = f"linear map from {named(encoder.name, encoder.backend)}"
            run = run_of(index, mapped)
            found.append(made(encoder, "linear map", index, mapped, run, name, cost))
        if collection:
            anew = index_of(encoder)
            cost = embedding_cost(args, encoder, collection, anew.documents)
            found.append(made(encoder, "rival", anew, states, run_of(anew, states), once=cost))
    yield from found
    if collection and "bm25" in args.rivals:
        words = Words(collection.documents())
        run, taken = words.run(queries), median_ms(words.retrieve, alone)
        yield Candidate("BM25", "rival", per_query(qrels, run), 0.0, taken, 0.0, 0.0,
                        own_month(args, taken), 1e3 / taken, run)  # fmt: skip
        best = best_student(found)
        both = per_query(qrels, fused([run, best.run]))
        total = best.total_ms + taken
        yield best._replace(name=f"{best.name} with BM25", kind="with BM25", ndcg=both,
                            total_ms=total, month=own_month(args, total),
                            per_core=1e3 / total)  # fmt: skip


def median_ms(call: Callable, things: Sequence) -> float:
    """Of a call, on one thread of the CPU."""
    return 1e3 * float(np.median(seconds(call, things, 1, TIMED)))


def graph_ms(flat: Index | ForeignIndex, score_function: str, vectors: np.ndarray) -> float:
    """The median time of a search in a graph that loses 1 % of what these queries find exactly.

    An index of another program is searched as it is.
    """
    graph, count = flat, min(K, flat.documents)
    if isinstance(flat, Index):
        graph = open_approximate(flat, GRAPH, score_function, Timings())
        exact = search(flat, vectors, count)[1]
        for effort in EFFORTS:
            set_parameters(graph.index, {"efSearch": effort}, GRAPH)
            hits = exact, graph.search(vectors, count)[1]
            found = agreement(*hits, vectors, vectors, [count])[f"overlap@{count}"].mean()
            if found >= 1 - LOSS:
                break
        else:
            say(f"note: at efSearch {effort}, the graph still loses {1 - found:.1%}.")
    return median_ms(partial(graph.search, k=count), vectors[:, None])


def best_student(found: Sequence[Candidate]) -> Candidate:
    return max((one for one in found if one.kind == "student"), key=lambda one: one.ndcg.mean())


def worst(args: argparse.Namespace, collection: Collection | None, queries: dict[str, str],
          found: Sequence[Candidate]) -> list[dict[str, Any]]:  # fmt: skip
    """The queries on which the best student loses most, with its hits and the teacher's."""
    sides = teacher, best = found[0], best_student(found)
    ids, lost = list(queries), teacher.ndcg - best.ndcg
    least = [(ids[n], n) for n in np.argsort(-lost, kind="stable")[:WORST] if lost[n] > 0]
    hits = {id: [list(islice(one.run[id], WORST)) for one in sides] for id, _ in least}
    wanted, pairs = set(chain(*chain(*hits.values()))), iter(())
    if collection or suffix_of(args.index) in PARQUET:
        of = collection.folder if collection else args.index
        pairs = texts_by_id(str(of), collection is None)
    documents = {id: shortened(one_line(text), LETTERS_SHOWN) for id, text in pairs if id in wanted}
    return [
        {"query": queries[id], "student": best.name, "scores": [teacher.ndcg[n], best.ndcg[n]],
         "hits": [[[hit, documents.get(hit, "")] for hit in side] for side in hits[id]]}
        for id, n in least
    ]  # fmt: skip


# --- What it costs --------------------------------------------------------------------------------


def own_month(args: argparse.Namespace, milliseconds: float) -> float:
    """Dollars a month of so many cores, one at least, as answer the queries one by one."""
    return max(1, math.ceil(args.qps * milliseconds / 1e3)) * args.core_hour * MONTH


def training_cost(args: argparse.Namespace, student: Encoder, teacher: Encoder) -> float | None:
    """Dollars of a student's texts and of one core, as its report has them, if that has all."""
    report = read_json(Path(student.name) / "distillation.json") or {}
    if not report or report.get("resumed_at_step") or report.get("processes", 1) > 1:
        return None
    seconds = sum(report["seconds"].values())
    texts = sum(report["queries"].values()) if not teacher.is_local else 0
    return seconds / 3600 * args.core_hour + texts * LETTERS / CHARACTERS / 1e6 * args.price


def embedding_cost(
    args: argparse.Namespace, encoder: Encoder, collection: Collection, documents: int
) -> float:
    """Dollars to embed the documents anew, by the time that some take."""
    texts = [document.text for document in islice(collection.documents(), 0, 7 * TIMED, 7)]
    with cpu_threads(1):
        start = time.perf_counter()
        encoder.run(texts, 32)
        taken = time.perf_counter() - start
    return taken / len(texts) * documents / 3600 * args.core_hour


# --- The verdict ----------------------------------------------------------------------------------


def verdict(found: Sequence[Candidate], judged: bool = True) -> tuple[str, str, str]:
    """Verdict, what to take, and the reason in a sentence, by the rules at the top."""
    teacher = found[0]
    best = best_student(found)
    low, high = kept_interval(best, teacher)
    count, half = len(teacher.ndcg), (high - low) / 2
    enough = partial(keeps_enough, teacher=teacher, judged=judged)
    what = partial(what_it_keeps, teacher=teacher, judged=judged)
    if count < FEWEST or half > WIDEST:
        return "unclear", best.name, (
            f"Too few queries to tell: {count} are {'judged' if judged else 'there'}, and "
            f"{best.name} {what(best)}, with an interval of ±{half:.0f} points; "
            f"{'judge' if judged else 'log'} more."
        )  # fmt: skip
    for rival in sorted(found, key=lambda one: -one.ndcg.mean()):
        fits = rival.total_ms <= teacher.total_ms and kept(rival, teacher) >= LEAST
        if rival.kind == "rival" and fits:
            against = compare(best.ndcg, rival.ndcg)
            if against["difference"] > 0 and against["p"] < 0.05:
                cost = f"${rival.once:,.2f}" if rival.once >= 0.005 else "less than a cent"
                how = f"embeds the documents anew for {cost} and " if rival.once else ""
                return "rival", rival.name, (
                    f"Do not distil: {rival.name} {how}scores {rival.ndcg.mean():.4f}, the best "
                    f"student {best.ndcg.mean():.4f} (p = {against['p']:.3f})."
                )  # fmt: skip
    if enough(best) is None:
        return "unclear", best.name, (
            f"Overlap alone does not tell: {best.name} {what(best)}; judge {FEWEST} queries or "
            "more, or train on more kinds of text."
        )  # fmt: skip
    if not enough(best):
        return "teacher", teacher.name, (
            f"Stay with the teacher: the best student, {best.name}, {what(best)}; more kinds of "
            "text, or more layers, keep more."
        )  # fmt: skip
    fit = [one for one in found if one.kind == "student"
           and (one is best or (d := compare(best.ndcg, one.ndcg))["difference"] >= 0
                or d["p"] >= 0.05)]  # fmt: skip
    chosen = min(filter(enough, fit), key=lambda one: one.total_ms)
    if teacher.total_ms <= FAST and chosen.month >= teacher.month:
        return "teacher", teacher.name, (
            f"Stay with the teacher: it answers in {teacher.total_ms:.1f} ms, and at this rate "
            f"costs ${teacher.month:,.0f} a month, as {chosen.name} does."
        )  # fmt: skip
    return "student", chosen.name, (
        f"Take {chosen.name}: it {what(chosen)}, in {chosen.total_ms:.2f} ms instead of "
        f"{teacher.total_ms:.1f}, for ${chosen.month:,.0f} a month instead of "
        f"${teacher.month:,.0f}."
    )  # fmt: skip


def keeps_enough(one: Candidate, teacher: Candidate, judged: bool) -> bool | None:
    """Whether it keeps `LEAST` percent; None where an overlap has meant both."""
    if judged:
        return kept(one, teacher) >= LEAST
    _, low, high = retained_range(one.ndcg.mean())
    return None if low < LEAST <= high else low >= LEAST


def what_it_keeps(one: Candidate, teacher: Candidate, judged: bool) -> str:
    """The same in words, with the interval."""
    low, high = kept_interval(one, teacher)
    share = f"{kept(one, teacher):.0f} % of the teacher"
    if judged:
        return f"keeps {share} ({low:.0f} to {high:.0f})"
    _, least, most = retained_range(one.ndcg.mean())
    return (
        f"finds {share}'s ten best ({low:.0f} to {high:.0f}), with which students kept {least} to "
        f"{most} % of nDCG@10"
    )


def kept(one: Candidate, teacher: Candidate) -> float:
    return 100 * float(one.ndcg.mean() / max(teacher.ndcg.mean(), 1e-12))


def kept_interval(one: Candidate, teacher: Candidate, resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the share, in percent, by a paired bootstrap over queries."""
    chance = np.random.default_rng(0)
    picks = chance.integers(0, len(one.ndcg), (resamples, len(one.ndcg)))
    shares = one.ndcg[picks].mean(axis=1) / np.maximum(teacher.ndcg[picks].mean(axis=1), 1e-12)
    low, high = np.percentile(100 * shares, (2.5, 97.5))
    return float(low), float(high)


# --- What is shown --------------------------------------------------------------------------------


def row_of(one: Candidate, teacher: Candidate) -> Row:
    low, high = interval(one.ndcg)
    values = {key: value for key, value in one._asdict().items() if key not in ("ndcg", "run")}
    return {**values, "ndcg": float(one.ndcg.mean()), "low": low, "high": high,
            "kept": kept(one, teacher)}  # fmt: skip


def shown(row: Row, measure: str) -> Row:
    return {
        "": row["name"], "kept" if measure == "nDCG@10" else "found": f"{row['kept']:.1f} %",
        f"{measure} (95 %)": f"{row['ndcg']:.4f} ({row['low']:.3f} to {row['high']:.3f})",
        "a query": f"{row['total_ms']:.2f} ms", "encoding": f"{row['encode_ms']:.2f} ms",
        "a month": f"${row['month']:,.0f}",
        "once": "unknown" if row["once"] is None else f"${row['once']:,.2f}",
        "queries/s, a core": f"{row['per_core']:,.0f}" if row["per_core"] else "",
        "memory": f"{row['memory_mb']:.0f} MB", "kind": row["kind"],
    }  # fmt: skip


def write_page(path: Path, report: dict[str, Any]) -> None:
    """One file, which asks nothing of anywhere."""
    data = json.dumps(report, ensure_ascii=False).replace("<", "\\u003c")
    with whole_file(path) as partial:
        page = PAGE.read_text(encoding="utf-8").replace("/* the report */ null", data)
        partial.write_text(page, encoding="utf-8")


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--teacher", required=True, metavar="ENCODER")
    add("--students", nargs="+", required=True, metavar="ENCODER")
    add("--rivals", nargs="+", default=[], metavar="MODEL|bm25", help="that take its place")
    add("--datasets", nargs="+", default=[], metavar="NAME|DIR",
        help="with judgments (without: a log's agreement on an --index)")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE", help="as distill.py's")
    add("--index", type=Path, metavar="PATH", help="of the teacher's documents, if it is there")
    add("--ids", metavar="FILE[#COLUMN]|rows", help="its document ids, one a line")
    add("--queries", nargs="+", metavar="FILE", help="a log, to fit linear maps to, or to agree on")
    add("--score-function", choices=["dot", "cos_sim"], default="dot", help="default: dot")
    add("--qps", type=positive_float, default=10.0, help="queries a second (default: 10)")
    add("--price", type=positive_float, default=0.02,
        help="dollars of a million tokens of a service (default: 0.02)")
    add("--core-hour", type=positive_float, default=0.04,
        help="dollars of a core of your machines, an hour (default: 0.04)")
    add("--output", type=Path, default=HOME / "benchmarks" / "decision", metavar="DIR",
        help="for report.html and report.json (default: benchmarks/decision)")
    add("--dtype", choices=command_line.DTYPES, default="auto", help="of the encoders")
    # fmt: on
    command_line.add_mirror(parser)
    args = parser.parse_args()
    if teacher_is_rival := {args.teacher, *args.students} & set(args.rivals):
        raise UserError(f"{', '.join(sorted(teacher_is_rival))} is named twice.")
    if not (args.datasets or (args.index and args.queries)):
        parser.error("name --datasets with judgments, or an --index and --queries to agree on")
    return args


if __name__ == "__main__":
    command_line.run(main)
