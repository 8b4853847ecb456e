#!/usr/bin/env python
"""How far students agree with their teacher: an index and a log of queries, and no judgments.

    python beyond/agree.py --index documents.faiss --ids ids.txt --queries log.csv \\
        --document-encoder https://HOST/v1#NAME --query-encoder models/student models/student@int8
    python beyond/agree.py --index documents.parquet --query-encoder models/student \\
        --document-encoder vectors.parquet     # on those of its texts that distill.py holds out

The index is searched as it is, by the teacher's own queries and by each student's. Of each student
this prints the overlap@10 (the share of the teacher's ten best that it finds), how often the first
hit is the same, the rank-biased overlap and the cosine of the queries less the teacher's mean,
each with a 95 % interval, and whether the students differ. The table of scores gets a row for each,
with more measures.

Of a log that a student was trained on, only the queries that distill.py held out are compared.
"""

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from disret import command_line
from disret.command_line import UserError, positive, say, tell
from disret.data.collection import texts_by_id
from disret.data.queries import read_queries, untrained
from disret.data.text_files import PARQUET, suffix_of
from disret.devices import resolve_device, resolve_dtype, world_size
from disret.encode.encoders import Encoder, check_dimensions, open_encoder, query_vectors
from disret.files import check_writable, text_sha256
from disret.paths import HOME
from disret.retrieve.agreement import agreement, retained, summary, write_worst
from disret.retrieve.foreign import open_foreign
from disret.retrieve.ids import Ids
from disret.retrieve.metrics import comparisons
from disret.retrieve.runs import check_ids, identify, run_name, run_path, run_tag, write_run
from disret.retrieve.scores import encoder_of, read_scores
from disret.retrieve.search import search
from disret.tables import Row, append_rows, format_table

WORST = 10  # queries that are shown, and hits of each side


def main() -> None:
    """Open the encoders, the log and the index; embed, search and compare; write and print."""
    args = parse_args()
    check_before_long_work(args)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    opened = partial(open_encoder, device=device, dtype=dtype)
    teacher = opened(args.document_encoder, options=args.service_option, long_texts="skip")
    students = [opened(name) for name in args.query_encoder]
    check_dimensions(teacher, students)
    encoders = [teacher, *students]
    name, queries = read_log(args, encoders)
    of_index = teacher.dimension, args.score_function
    index = open_foreign(args.index, args.ids, *of_index, False, teacher.made_by)
    ids = index.ids()
    if args.save_runs:
        check_ids(ids, "document")
    if args.texts and args.worst and set(ids).isdisjoint(id for id, _ in texts_of(args)):
        raise UserError(f"{args.texts} has no text of a document of {args.index}: other ids.")
    if long := teacher.skipped(queries):
        say(f"{len(long):,} queries are left out, as the teacher gives no vector of them.")
        queries = [query for query in queries if query not in long]
        if not queries:
            raise UserError(f"{teacher.name} takes none of the queries.")

    scores = args.score_function or ""  # the index's own ranking is all that matters
    vectors = [query_vectors(each, queries, scores) for each in encoders]
    found = search(index, np.concatenate(vectors), max(10, *args.k_values), device)
    index.check_unchanged()
    values, rows = (np.split(each, len(encoders)) for each in found)
    hits = np.split(ids.document_numbers(found[1]), len(encoders))

    now = datetime.now().isoformat(" ", "seconds")
    content = text_sha256([text_sha256(queries), index.fingerprint])
    about = partial(identify, name, "log", content, teacher, dtype=dtype,
                    score_function=scores, index_dtype=index.description)  # fmt: skip
    measure = f"overlap@{10 if 10 in args.k_values else args.k_values[0]}"
    identities = [{"datetime": now, **about(encoder)} for encoder in encoders]
    table, overlaps, least = [], {}, []
    for n, identity in enumerate(identities[1:], start=1):
        per_query = agreement(hits[0], hits[n], vectors[0], vectors[n], args.k_values)
        table.append({**identity, **summary(per_query), "retention": None,
                      "documents": index.documents, "queries": len(queries)})  # fmt: skip
        overlaps[encoder_of(identity)] = per_query[measure]
        worst = np.argsort(per_query["rbo"], kind="stable")[:WORST]
        sides = [ids.take(side[worst, :WORST]) for side in (rows[0], rows[n])]
        least.append((identity, [queries[row] for row in worst], per_query["rbo"][worst], sides))
    append_rows(args.output, table)
    tell(format_table([shown(row, measure) for row in table]))
    meant = dict.fromkeys(retained(row[measure]) for row in table if measure == "overlap@10")
    said = [*comparisons(name, measure, overlaps), *meant]
    tell("\n".join([*said, f"Every measure is in {args.output}."]))
    for each in zip(identities, rows, values, strict=True) if args.save_runs else ():
        save_run(args.save_runs, ids, *each)
    if args.worst:
        wanted = {id for *_, sides in least for id in np.concatenate(sides).flat}
        texts = {id: text for id, text in texts_of(args) if id in wanted}
        for identity, asked, scores, sides in least:
            path = args.worst / f"{run_name(identity)}.md"
            write_worst(path, asked, scores, *sides, texts)
            say(f"{path}: where {encoder_of(identity)} agrees least.")


def read_log(args: argparse.Namespace, encoders: Sequence[Encoder]) -> tuple[str, list[str]]:
    """The name of a log and its queries, each once; of vectors, those that they hold out."""
    teacher, *students = encoders
    if args.queries:
        folders = [student.name for student in students]
        texts = untrained(args.queries, read_queries(args.queries), folders)
        return Path(args.queries[0]).name, list(dict.fromkeys(texts))[: args.max_queries]
    if not teacher.texts:
        raise UserError(f"{teacher.name} has no queries of its own; name a log of queries.")
    return teacher.name, teacher.texts[1][: args.max_queries]


def save_run(folder: Path, ids: Ids, identity: Row, rows: np.ndarray, scores: np.ndarray) -> None:
    """Write hits as a TREC run; queries have their numbers in the log, from 1."""
    hits = ids.take(rows)
    pairs = enumerate(zip(hits.tolist(), scores.tolist(), strict=True), start=1)
    run = {str(n): {id: score for id, score in zip(*pair, strict=True) if id} for n, pair in pairs}
    write_run(run_path(folder, identity, hits.shape[1]), run, run_tag(identity))


def texts_of(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Ids and texts of documents: from a table, a collection, or the index itself, if any."""
    is_own = not (args.texts or args.ids) and suffix_of(args.index) in PARQUET
    if not (is_own or args.texts):
        return iter(())
    return texts_by_id(str(args.index) if is_own else args.texts, is_own)


def shown(row: Row, overlap: str) -> Row:
    """A line of the printed table: measures, each ± half of its 95 % interval."""
    line = {"query encoder": encoder_of(row)}
    for name, title in ((overlap, overlap), ("first", "first hit"), ("rbo", "rank-biased overlap"),
                        ("centred cosine", "centred cosine")):  # fmt: skip
        line[title] = f"{row[name]:.3f} ± {(row[f'{name} high'] - row[f'{name} low']) / 2:.3f}"
    return line


def check_before_long_work(args: argparse.Namespace) -> None:
    """Refuse several processes, and outputs that cannot be written."""
    if world_size() > 1:
        raise UserError("agreement is measured by one process, without torchrun.")
    check_writable(args.output)
    read_scores(args.output)
    if args.worst:
        check_writable(args.worst / "worst.md")
    texts_of(args)
    if args.save_runs:
        check_writable(args.save_runs / "run")


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--index", type=Path, required=True, metavar="PATH",
        help="FAISS of any kind, .npy, .parquet or a folder of benchmarks/faiss")
    add("--ids", metavar="FILE[#COLUMN]|rows", help="its document ids, one a line")
    add("--queries", nargs="+", metavar="FILE", help="the log, as distill.py takes it")
    add("--max-queries", type=positive, metavar="N", help="of the log, the first N")
    add("--document-encoder", nargs="+", required=True, metavar="NAME",
        help="the teacher: a model, a service (https://HOST/v1#NAME), or files of its vectors")
    add("--query-encoder", nargs="+", required=True, metavar="NAME",
        help="the students: models, or their exports (models/student@int8)")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to a service")
    add("--score-function", choices=["dot", "cos_sim"],
        help="of .npy and Parquet (default: dot); a FAISS index ranks as it does")
    add("--k-values", nargs="+", type=positive, default=[10, 100], metavar="K",
        help="cut-offs of the overlap (default: 10 100)")
    add("--worst", type=Path, metavar="DIR",
        help="write there the ten queries on which each student agrees least")
    add("--texts", metavar="FILE|NAME|DIR",
        help="a table with ids and texts, or a collection, whose texts these show beside the ids")
    add("--save-runs", type=Path, metavar="DIR", help="write TREC run files there")
    add("--output", type=Path, default=HOME / "benchmarks" / "results.csv", metavar="CSV",
        help="table of scores, to which rows are added (default: benchmarks/results.csv)")
    add("--dtype", choices=command_line.DTYPES, default="auto",
        help="precision of the encoders (default: bfloat16 where the device has it)")
    # fmt: on
    command_line.add_device(parser)
    args = parser.parse_args()
    args.k_values = sorted(set(args.k_values))
    return args


if __name__ == "__main__":
    command_line.run(main)
