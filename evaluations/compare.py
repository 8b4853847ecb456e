#!/usr/bin/env python
"""How sure the retention of each encoder is, query by query.

    python benchmark.py … --save-runs models/runs --output evaluations/students/scores.csv
    python evaluations/compare.py evaluations/students --runs models/runs
    python evaluations/compare.py evaluations/recipes --runs models/recipes/runs \\
        --baseline models/recipes/baseline

Writes comparison.csv: for each encoder of scores.csv retention on each data set, its mean and the
95 % interval of the mean (paired bootstrap over queries), overlap@10 with the teacher, and how it
was trained. With a baseline, the difference of the means and p, how often it would be as large if
each query's two scores changed places at random.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from disret.command_line import argument_parser, run
from disret.data.collection import find_collections
from disret.files import read_json
from disret.retrieve.metrics import RESAMPLES, p_value, per_query
from disret.retrieve.runs import read_run, run_path
from disret.retrieve.scores import newest_scores
from disret.tables import read_rows, write_rows

if TYPE_CHECKING:
    import numpy as np

DEPTH = 100  # of the runs of benchmark.py with its default cut-offs
# Of collections that are no data sets of BEIR.
FOLDERS = {name: f"benchmarks/raw/{name}" for name in ("pydocs", "stackfaq", "trecdl19")}


def presentations(report: dict) -> int:
    """How often a student was shown a text, all texts together, by its distillation.json."""
    return report["validation_mse"][-1]["step"] * report["arguments"]["train_batch_size"]


def training_seconds(report: dict) -> float | None:
    """How long a student was trained; unknown of one that was stopped in between."""
    return None if report.get("resumed_at_step") else report.get("seconds", {}).get("training")


def retention_interval(
    students: "Sequence[np.ndarray]", teachers: "Sequence[np.ndarray]"
) -> tuple[float, float]:
    """95 % interval of mean retention over data sets, in percent, paired over queries.

    Args:
        students, teachers: by data set, a score for each query, of the same queries.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def ratio(student: "np.ndarray", teacher: "np.ndarray", axis: int) -> "np.ndarray":
        return 100 * student.mean(axis) / teacher.mean(axis)

    options = {"paired": True, "vectorized": True, "method": "percentile", **RESAMPLES}
    draws = [
        bootstrap(pair, ratio, **options).bootstrap_distribution
        for pair in zip(students, teachers, strict=True)
    ]
    # The sets are drawn independently: their distributions, each in its own order, are averaged.
    rng = np.random.default_rng(0)
    low, high = np.percentile(np.mean([rng.permutation(d) for d in draws], axis=0), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, help="holds scores.csv")
    parser.add_argument("--runs", type=Path, required=True, help="--save-runs of benchmark.py")
    parser.add_argument("--baseline", metavar="ENCODER", help="compare the others with this one")
    args = parser.parse_args()

    import numpy as np

    encoders = newest_scores(read_rows(args.folder / "scores.csv"))
    teacher = next(iter(encoders))
    datasets = list(encoders[teacher])
    scores: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    for dataset in datasets:
        (collection,) = find_collections(FOLDERS.get(dataset, dataset))
        qrels = collection.qrels("test", collection.queries())
        for name, rows in encoders.items():
            run = read_run(run_path(args.runs, rows[dataset], DEPTH), qrels)
            scores[name].append(per_query(qrels, run))

    def shares(name: str) -> np.ndarray:
        """Of every query, the part of the mean retention that it makes, in percent."""
        pairs = zip(scores[name], scores[teacher], strict=True)
        parts = [100 * own / whole.sum() / len(datasets) for own, whole in pairs]
        return np.concatenate(parts)

    lines = []
    for name, rows in encoders.items():
        low, high = retention_interval(scores[name], scores[teacher])
        first = next(iter(rows.values()))
        report = read_json(Path(first["query_encoder"]) / "distillation.json") or {}
        line = {
            "encoder": first["query_encoder"],
            "backend": first["query_backend"],
            "validation_mse": min(p["mse"] for p in report["validation_mse"]) if report else None,
            "training_seconds": training_seconds(report),
            "presentations": presentations(report) if report else None,
            **{f"{dataset} retention": rows[dataset]["retention"] for dataset in datasets},
            "mean": round(mean(rows[dataset]["retention"] for dataset in datasets), 2),
            "low": round(low, 2),
            "high": round(high, 2),
        }
        if name != teacher:
            overlaps = [rows[dataset].get("overlap@10") for dataset in datasets]
            line["overlap@10"] = round(mean(overlaps), 4) if all(overlaps) else None
        if args.baseline and name != args.baseline:
            differences = shares(name) - shares(args.baseline)
            line["difference"] = round(float(differences.sum()), 2)
            line["p"] = round(p_value(differences), 4)
        lines.append(line)
        print(f"{name}: {line['mean']:.1f} % ({low:.1f} to {high:.1f})")
    write_rows(args.folder / "comparison.csv", lines)


if __name__ == "__main__":
    run(main)
