#!/usr/bin/env python
"""What words add to vectors: BM25, dense runs, and both by reciprocal rank fusion.

    python benchmark.py --query-encoder models/student --save-runs runs …
    python beyond/hybrid.py --dataset scifact runs/scifact.test.*.trec --output hybrid.csv

BM25 is that of `bm25s`, on English words without stop words.
"""

from pathlib import Path

from disret.command_line import argument_parser, run, tell
from disret.data.collection import judged_collection
from disret.files import check_writable
from disret.retrieve.metrics import compare, per_query
from disret.retrieve.runs import read_run
from disret.retrieve.words import Words, fused
from disret.tables import append_rows, format_table, read_rows


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
    words = Words(collection.documents()).run({query: queries[query] for query in qrels})
    rows = [{"run": "BM25", "NDCG@10": per_query(qrels, words).mean()}]
    for name, vectors in runs.items():
        found = compare(per_query(qrels, vectors), per_query(qrels, fused([words, vectors])))
        columns = {"NDCG@10": found.pop("first"), "with BM25": found.pop("second")}
        rows.append({"run": name, **columns, **found})
    if args.output:
        append_rows(args.output, [{"dataset": collection.name, **row} for row in rows])
    shown = [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    tell(format_table(shown))


if __name__ == "__main__":
    run(main)
