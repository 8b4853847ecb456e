"""The closing table and figure: what the student keeps, and how much faster it is.

python -m disret.sweep.tradeoff --scores benchmarks/results.csv --speed speed.csv \\
    --figure tradeoff.png
"""

from pathlib import Path
from statistics import fmean

from disret.command_line import UserError, argument_parser, figure_path, run
from disret.encode.encoders import named
from disret.retrieve.scores import mean_retention, newest_scores, read_scores
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
    timings: dict[str, list[Row]] = {}
    for row in read_rows(speed, TIMED):
        name = named(row["encoder"], row["backend"])
        timings.setdefault(name, []).append(row)
    largest = max((row["batch_size"] for rows in timings.values() for row in rows), default=0)
    rows, points = [], []
    for encoder, timed in timings.items():
        scored = newest.get(encoder, {})
        if not scored:
            continue
        timed = [row for row in timed if row["batch_size"] == largest]
        queries, speedup = (
            fmean(row[column] for row in timed) for column in ("queries_per_second", "speedup")
        )
        share = mean_retention(scored.values())
        rows.append({
            "encoder": encoder,
            "layers": timed[0]["layers"],
            "parameters": f"{timed[0]['parameters'] / 1e6:.1f} M",
            **{f"nDCG@10 {dataset}": f"{row[METRIC]:.4f}" for dataset, row in scored.items()},
            "retention %": None if share is None else round(share, 1),
            f"queries/s (batch {largest})": round(queries, 1),
            "speed-up": f"{speedup:.1f}x",
        })  # fmt: skip
        if share is not None:
            name = f"{Path(encoder).name} ({timed[0]['layers']} layers)"
            points.append({"name": name, "speedup": speedup, "retention": share})
    if not rows:
        raise UserError(f"{scores} and {speed} have no encoder in common.")
    sets = dict.fromkeys(name for encoder in timings for name in newest.get(encoder, {}))
    used = [row for timed in timings.values() for row in timed if row["batch_size"] == largest]
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
