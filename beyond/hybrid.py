#!/usr/bin/env python
"""What words add to vectors: BM25, dense runs, and both by reciprocal rank fusion.

    python benchmark.py --query-encoder models/student --save-runs runs …
    python beyond/hybrid.py --dataset scifact runs/scifact.test.*.trec --output hybrid.csv

BM25 is that of `bm25s`, on English words without stop words. A fused score is the sum of
1 / (60 + rank) over both (Cormack, Clarke and Büttcher, SIGIR 2009).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from disret.command_line import argument_parser, run, tell
from disret.data.collection import Collection, judged_collection
from disret.files import check_writable
from disret.retrieve.metrics import compare, per_query
from disret.retrieve.runs import Run, read_run, to_run
from disret.tables import append_rows, format_table, read_rows

CANDIDATES = 100  # of each side
CONSTANT = 60  # how little the very first ranks count before the next


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="TREC run files")
    parser.add_argument("--dataset", required=True, metavar="NAME|DIR")
    parser.add_argument("--split", help="default: test; dev for msmarco")
    parser.add_argument("--output", type=Path, metavar="CSV", help="add the rows to this table")
    args = parser.parse_args()
    if args.output:
        check_writable(args.output)
        read_rows(args.output, ["dataset", "run", "with BM25"])

    collection, qrels = judged_collection(args.dataset, args.split)
    runs = {path.name: read_run(path, qrels) for path in args.runs}
    queries = collection.queries()
    words = bm25_run(collection, {query: queries[query] for query in qrels})
    rows = [{"run": "BM25", "NDCG@10": per_query(qrels, words).mean()}]
    for name, vectors in runs.items():
        found = compare(per_query(qrels, vectors), per_query(qrels, fused([words, vectors])))
        columns = {"NDCG@10": found.pop("first"), "with BM25": found.pop("second")}
        rows.append({"run": name, **columns, **found})
    if args.output:
        append_rows(args.output, [{"dataset": collection.name, **row} for row in rows])
    shown = [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    tell(format_table(shown))


def bm25_run(collection: Collection, queries: Mapping[str, str]) -> Run:
    """The documents that BM25 finds best for each query, CANDIDATES at most.

    Documents, title and text, are held in memory. One without a word of the query is no hit.

    Args:
        queries: texts by id.
    """
    import bm25s

    documents = list(collection.documents())
    ids = np.array([document.id for document in documents], dtype=object)
    words = bm25s.tokenize([document.text for document in documents], show_progress=False)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    asked = bm25s.tokenize(list(queries.values()), show_progress=False, return_ids=False)
    depth = min(CANDIDATES + 1, len(documents))
    rows, scores = index.retrieve(asked, k=depth, show_progress=False)
    hits = np.where(scores > 0, ids[rows], "")
    return to_run(list(queries), hits, scores, CANDIDATES)


def fused(runs: Sequence[Run]) -> Run:
    """The runs by reciprocal rank fusion of their first CANDIDATES."""
    found: Run = {}
    for one in runs:
        for query, hits in one.items():
            scores = found.setdefault(query, {})
            best = sorted(hits, key=hits.get, reverse=True)[:CANDIDATES]
            for rank, document in enumerate(best, start=1):
                scores[document] = scores.get(document, 0.0) + 1 / (CONSTANT + rank)
    return found


if __name__ == "__main__":
    run(main)
