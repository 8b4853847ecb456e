#!/usr/bin/env python
"""How far students agree with their teacher: an index and a log of queries, and no judgments.

    python beyond/agree.py --index documents.faiss --ids ids.txt --queries held-out.tsv \\
        --document-encoder https://HOST/v1#NAME --query-encoder models/student models/student@int8
    python beyond/agree.py --index documents.faiss --ids ids.txt --query-encoder models/student \\
        --document-encoder vectors.parquet     # on those of its texts that distill.py holds out

The index is searched as it is, by the teacher's own queries and by each student's. Of each student
this prints the overlap@10 (the share of the teacher's ten best that it finds), how often the first
hit is the same, the rank-biased overlap and the cosine of the queries, each with a 95 % interval,
and whether the students differ. The table of scores gets a row for each, with more measures.
"""

import argparse
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from disret import command_line
from disret.command_line import UserError, positive, say
from disret.data.collection import check_name, find_collections
from disret.data.queries import read_queries
from disret.data.vectors import split
from disret.devices import resolve_device, resolve_dtype, world_size
from disret.encode.encoders import Encoder, check_dimensions, open_encoder, query_vectors
from disret.files import check_writable, text_sha256
from disret.paths import HOME
from disret.retrieve.agreement import agreement, summary, write_worst
from disret.retrieve.foreign import file_or_rows, open_foreign
from disret.retrieve.metrics import comparisons
from disret.retrieve.runs import identify, run_name
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
    teacher = opened(args.document_encoder, options=args.service_option)
    students = [opened(name) for name in args.query_encoder]
    check_dimensions(teacher, students)
    name, queries = read_log(args, teacher)
    index = open_foreign(args.index, args.ids, teacher.dimension, args.score_function)
    ids = index.ids()

    scores = args.score_function or ""  # the index's own ranking is all that matters
    vectors = [query_vectors(each, queries, scores) for each in (teacher, *students)]
    _, rows = search(index, np.concatenate(vectors), max(10, *args.k_values), device)
    index.check_unchanged()
    hits = np.split(ids.document_numbers(rows), len(vectors))

    now = datetime.now().isoformat(" ", "seconds")
    content = text_sha256([text_sha256(queries), index.fingerprint])
    about = partial(identify, name, "log", content, teacher, dtype=dtype,
                    score_function=scores, index_dtype=index.description)  # fmt: skip
    measure = f"overlap@{10 if 10 in args.k_values else args.k_values[0]}"
    table, overlaps = [], {}
    for student, own_vectors, own_hits in zip(students, vectors[1:], hits[1:], strict=True):
        per_query = agreement(hits[0], own_hits, vectors[0], own_vectors, args.k_values)
        row = {"datetime": now, **about(student), **summary(per_query), "retention": None,
               "documents": index.documents, "queries": len(queries)}  # fmt: skip
        table.append(row)
        overlaps[encoder_of(row)] = per_query[measure]
        if args.worst:
            worst = np.argsort(per_query["rbo"], kind="stable")[:WORST]
            sides = [ids.take(side[worst, :WORST]) for side in (hits[0], own_hits)]
            texts = texts_of(args.texts, set(np.concatenate(sides).flat))
            path = args.worst / f"{run_name(row)}.md"
            asked = [queries[number] for number in worst]
            write_worst(path, asked, per_query["rbo"][worst], *sides, texts)
            say(f"{path}: where {encoder_of(row)} agrees least.")
    append_rows(args.output, table)
    print(format_table([shown(row, measure) for row in table]))
    print("\n".join([*comparisons(name, measure, overlaps), f"Every measure is in {args.output}."]))


def read_log(args: argparse.Namespace, teacher: Encoder) -> tuple[str, list[str]]:
    """The name of a log and its queries, each once; of vectors, those that they hold out."""
    if args.queries:
        texts = read_queries(args.queries, args.max_queries)
        return Path(args.queries[0]).name, list(dict.fromkeys(texts))
    if teacher.backend != "vectors":
        raise UserError(f"{teacher.name} has no queries of its own; name a log of queries.")
    held_out = split(teacher.vectors)[1][: args.max_queries]
    return teacher.name, [teacher.vectors.texts[row] for row in held_out]


def texts_of(collection: str | None, ids: set[str]) -> dict[str, str]:
    """The texts of some documents by id, where there is a collection to read them from."""
    parts = find_collections(collection) if collection else []
    documents = (document for part in parts for document in part.documents())
    return {document.id: document.text for document in documents if document.id in ids}


def shown(row: Row, overlap: str) -> Row:
    """A line of the printed table: measures, each ± half of its 95 % interval."""
    line = {"query encoder": encoder_of(row)}
    for name, title in ((overlap, overlap), ("first", "first hit"), ("rbo", "rank-biased overlap"),
                        ("cosine", "cosine")):  # fmt: skip
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
    if args.texts:
        check_name(args.texts)


def parse_args() -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--index", type=Path, required=True, metavar="PATH",
        help="FAISS of any kind, .npy, .fvecs, .parquet or a folder of benchmarks/faiss")
    add("--ids", type=file_or_rows, metavar="FILE|rows", help="its document ids, one a line")
    add("--queries", nargs="+", metavar="FILE", help="the log, as distill.py takes it")
    add("--max-queries", type=positive, metavar="N", help="of the log, the first N")
    add("--document-encoder", nargs="+", required=True, metavar="NAME",
        help="the teacher: a model, a service (https://HOST/v1#NAME), or files of its vectors")
    add("--query-encoder", nargs="+", required=True, metavar="NAME",
        help="the students: models, or their exports (models/student@int8)")
    add("--service-option", nargs="+", default=[], metavar="KEY=VALUE",
        help="more fields of each request to a service")
    add("--score-function", choices=["dot", "cos_sim"],
        help="check that the index ranks so, and scale vectors for cosines (default: as it does)")
    add("--k-values", nargs="+", type=positive, default=[10, 100], metavar="K",
        help="cut-offs of the overlap (default: 10 100)")
    add("--worst", type=Path, metavar="DIR",
        help="write there the ten queries on which each student agrees least")
    add("--texts", metavar="NAME|DIR", help="the collection whose texts these show beside the ids")
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
