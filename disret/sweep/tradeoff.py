"""The closing table and figure: what the student keeps, and how much faster it is.

python -m disret.sweep.tradeoff --scores benchmarks/results.csv --speed speed.csv \\
    --figure tradeoff.png
"""

from pathlib import Path
from statistics import fmean

from disret.command_line import UserError, argument_parser, figure_path, run
from disret.retrieve.scores import encoder_of, mean_retention, newest_scores, read_scores
from disret.sweep.plots import plot_tradeoff, timed_on
from disret.tables import Row, format_table, read_rows

METRIC = "NDCG@10"
# What is used of a table of speeds.
TIMED = (
    "encoder", "backend", "dataset", "batch_size", "queries_per_second", "speedup", "layers",
    "parameters", "device",
)  # fmt: skip


def report(scores: Path, speed: Path, figure: Path) -> str:
    """Join the newest rows of `benchmark.py` and `ispeed.py` by encoder and backend.

    Speeds are those of the largest batch size, averaged over the query sets.

    Returns:
        A table with a row for each timed encoder; the figure is written.

    Raises:
        UserError: the two files have no encoder in common.
    """
    newest = newest_scores(read_scores(scores))
    timings = read_rows(speed, TIMED)
    largest = max((row["batch_size"] for row in timings), default=0)
    timed: dict[str, list[Row]] = {}
    for row in timings:
        name = encoder_of({"query_backend": row["backend"], "query_encoder": row["encoder"]})
        if row["batch_size"] == largest and name in newest:
            timed.setdefault(name, []).append(row)
    if not timed:
        raise UserError(f"{scores} and {speed} have no encoder in common.")
    rows, points = [], []
    for encoder, of_sets in timed.items():
        size, scored = of_sets[0], newest[encoder]
        speedup = fmean(row["speedup"] for row in of_sets)
        share = mean_retention(scored.values())
        rows.append({
            "encoder": encoder,
            "layers": size["layers"],
            "parameters": f"{size['parameters'] / 1e6:.1f} M",
            **{f"nDCG@10 {dataset}": f"{row[METRIC]:.4f}" for dataset, row in scored.items()},
            "retention %": None if share is None else round(share, 1),
            f"queries/s (batch {largest})":
                round(fmean(row["queries_per_second"] for row in of_sets), 1),
            "speed-up": f"{speedup:.1f}x",
        })  # fmt: skip
        if share is not None:
            points.append((f"{Path(encoder).name} ({size['layers']} layers)", speedup, share))
    sets = dict.fromkeys(dataset for encoder in timed for dataset in newest[encoder])
    used = [row for of_sets in timed.values() for row in of_sets]
    plot_tradeoff(points, figure, f"retention on {', '.join(sets)}; {timed_on(used)}")
    return format_table(rows)


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.sweep.tradeoff")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of benchmark.py")
    parser.add_argument("--speed", type=Path, required=True, help="CSV of ispeed.py")
    parser.add_argument("--figure", type=figure_path, required=True, help="a .png, .pdf or .svg")
    args = parser.parse_args()
    print(report(args.scores, args.speed, args.figure))
    print(f"\nFigure: {args.figure}")


if __name__ == "__main__":
    run(main)
