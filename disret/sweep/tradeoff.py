"""The closing table: what the student keeps, and how much faster it is.

python -m disret.sweep.tradeoff --scores benchmarks/results.csv --speed speed.csv
"""

from pathlib import Path

from disret.command_line import UserError, argument_parser, run, tell
from disret.encode.encoders import named
from disret.retrieve.scores import mean_retention, newest_scores, read_scores
from disret.tables import format_table, read_rows

METRIC = "NDCG@10"
# What is used of a table of speeds.
TIMED = (
    "encoder", "backend", "batch_size", "queries_per_second", "speedup", "layers", "parameters",
)  # fmt: skip


def report(scores: Path, speed: Path) -> str:
    """Join the newest rows of `benchmark.py` and `ispeed.py` by encoder and backend.

    Speeds are those of the largest batch size, averaged over the query sets.

    Returns:
        A table with a row for each timed encoder.

    Raises:
        UserError: the two files have no encoder in common.
    """
    import pandas

    newest = newest_scores(read_scores(scores))
    timings = pandas.DataFrame(read_rows(speed, TIMED), columns=TIMED)
    timings["name"] = list(map(named, timings["encoder"], timings["backend"]))
    largest = timings["batch_size"] == timings["batch_size"].max()
    timed = timings[largest & timings["name"].isin(newest)]
    if timed.empty:
        raise UserError(f"{scores} and {speed} have no encoder in common.")
    rows = []
    for name, own in timed.groupby("name", sort=False):
        first, scored = own.iloc[0], newest[name]
        share, speedup = mean_retention(scored.values()), own["speedup"].mean()
        rows.append({
            "encoder": name,
            "layers": first.layers,
            "parameters": f"{first.parameters / 1e6:.1f} M",
            **{f"nDCG@10 {dataset}": f"{row[METRIC]:.4f}" for dataset, row in scored.items()},
            "retention %": None if share is None else round(share, 1),
            f"queries/s (batch {first.batch_size})": round(own["queries_per_second"].mean(), 1),
            "speed-up": f"{speedup:.1f}x",
        })  # fmt: skip
    return format_table(rows)


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.sweep.tradeoff")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of benchmark.py")
    parser.add_argument("--speed", type=Path, required=True, help="CSV of ispeed.py")
    args = parser.parse_args()
    tell(report(args.scores, args.speed))


if __name__ == "__main__":
    run(main)
