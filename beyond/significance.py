#!/usr/bin/env python
"""Whether two query encoders differ, query by query.

    python benchmark.py --query-encoder models/a models/b --save-runs runs …
    python beyond/significance.py --dataset scifact \\
        runs/scifact.test.models--a.torch.….trec runs/scifact.test.models--b.torch.….trec

A data set of 300 queries moves by a point by chance. The test asks how often the mean difference of
nDCG@10 would be as large if each query's two scores changed places at random.
"""

from pathlib import Path

from disret.command_line import argument_parser, run, tell
from disret.data.collection import judged_collection
from disret.retrieve.metrics import compare, per_query
from disret.retrieve.runs import read_run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("first", type=Path, help="TREC run file")
    parser.add_argument("second", type=Path, help="TREC run file")
    parser.add_argument("--dataset", required=True, metavar="NAME|DIR")
    parser.add_argument("--split", help="default: test; dev for msmarco")
    args = parser.parse_args()

    _, qrels = judged_collection(args.dataset, args.split)
    runs = [read_run(path, qrels) for path in (args.first, args.second)]
    found = compare(*(per_query(qrels, run) for run in runs))
    tell(
        f"nDCG@10 {found['first']:.4f} and {found['second']:.4f}, {found['difference']:+.4f}: "
        f"better on {found['better']}, worse on {found['worse']} of {len(qrels)} queries, "
        f"p = {found['p']:.4f}"
    )


if __name__ == "__main__":
    run(main)
