#!/usr/bin/env python
"""What each student keeps, and whether it differs from the first, query by query.

    python benchmark.py … --query-encoder models/recipes/* --save-runs models/recipes/runs \\
        --output evaluations/recipes/scores.csv
    python evaluations/recipes/compare.py --baseline models/recipes/baseline \\
        --runs models/recipes/runs

Writes a table of the rows in scores.csv: retention on each data set, its mean, the difference of
the mean from the baseline's, and p, how often that would be as large if each query's two scores
changed places at random.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from disret.command_line import argument_parser, run
from disret.data.collection import find_collections
from disret.files import read_json, whole_file
from disret.retrieve.significance import p_value, per_query
from disret.tables import read_rows

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--baseline", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    args = parser.parse_args()

    import numpy as np

    weights, kept = {}, {}
    for row in read_rows(HERE / "scores.csv"):
        weights[row["query_encoder"]] = row["query_weights"]
        kept.setdefault(row["query_encoder"], {})[row["dataset"]] = float(row["retention"])
        teacher = row["document_encoder"]
    places = {"pydocs": "benchmarks/raw/pydocs"}
    datasets = list(kept[teacher])
    qrels = {}
    for dataset in datasets:
        (collection,) = find_collections(places.get(dataset, dataset))
        qrels[dataset] = collection.qrels("test", collection.queries())

    def of_queries(encoder: str, dataset: str) -> np.ndarray:
        name = f"{Path(encoder).name}-{weights[encoder][:8]}"
        (path,) = args.runs.glob(f"{dataset}.test.{name}.*.trec")
        return np.array(list(per_query(qrels[dataset], path).values()))

    def shares(encoder: str) -> np.ndarray:
        """Of every query, the part of the mean retention that it makes, in percent."""
        parts = []
        for dataset in datasets:
            scores = of_queries(encoder, dataset)
            whole = of_queries(teacher, dataset).mean() * len(scores) * len(datasets)
            parts.append(100 * scores / whole)
        return np.concatenate(parts)

    baseline = shares(args.baseline)
    lines = [
        f"| student | validation MSE | {' | '.join(datasets)} | mean | difference | p |",
        "|---" * (len(datasets) + 5) + "|",
    ]
    for encoder in kept:
        if encoder == teacher:
            continue
        differences = shares(encoder) - baseline
        p = p_value(differences)
        curve = (read_json(Path(encoder) / "distillation.json") or {}).get("validation_mse")
        mse = f"{curve[-1]['mse']:.2e}" if curve else ""
        columns = [f"{kept[encoder][dataset]:.1f}" for dataset in datasets]
        mean = np.mean(list(kept[encoder].values()))
        is_baseline = encoder == args.baseline
        columns += [f"{mean:.1f}", "" if is_baseline else f"{differences.sum():+.1f}"]
        columns += ["" if is_baseline else "< 0.001" if p < 0.001 else f"{p:.3f}"]
        lines.append(f"| {Path(encoder).name} | {mse} | {' | '.join(columns)} |")
    table = "\n".join(lines) + "\n"
    with whole_file(HERE / "table.md") as partial:
        partial.write_text(table)
    print(table)


if __name__ == "__main__":
    run(main)
