"""The closing table and figure: what the student keeps, and how much faster it is.

python -m disret.sweep.tradeoff --scores benchmarks/results.csv --speed speed.csv \\
    --figure tradeoff.png
"""

from pathlib import Path

from disret.command_line import UserError, argument_parser, run
from disret.retrieve.score_file import encoder_of
from disret.sweep.plots import plot_tradeoff
from disret.tables import format_table, read_rows

METRIC = "NDCG@10"


def report(scores: Path, speed: Path, figure: Path) -> str:
    """Join the newest rows of `benchmark.py` and `ispeed.py` by encoder and backend.

    Speeds are those of the largest batch size, averaged over the query sets.

    Returns:
        A table with a row for each timed encoder; the figure is written.

    Raises:
        UserError: the two files have no encoder in common.
    """
    timings = [
        {**row, "encoder": encoder_of({"query_backend": row.get("backend"),
                                       "query_encoder": row["encoder"]})}
        for row in read_rows(speed)
    ]  # fmt: skip
    newest = {(encoder_of(row), row["dataset"]): row for row in read_rows(scores)}
    largest = max((int(row["batch_size"]) for row in timings), default=0)
    rows, points = [], []
    for encoder in dict.fromkeys(row["encoder"] for row in timings):
        scored = [row for (name, _), row in newest.items() if name == encoder]
        if not scored:
            continue
        timed = [
            row for row in timings
            if row["encoder"] == encoder and int(row["batch_size"]) == largest
        ]  # fmt: skip
        kept = [float(row["retention"]) for row in scored if row["retention"] is not None]
        line = {
            "encoder": encoder,
            "layers": timed[0]["layers"],
            "parameters": f"{int(timed[0]['parameters']) / 1e6:.1f} M",
            **{f"nDCG@10 {row['dataset']}": f"{float(row[METRIC]):.4f}" for row in scored},
            "retention %": round(_mean(kept), 1) if kept else None,
            f"queries/s (batch {largest})": round(_mean_of(timed, "queries_per_second"), 1),
            "speed-up": f"{_mean_of(timed, 'speedup'):.1f}x",
        }
        rows.append(line)
        if kept:
            name = f"{Path(encoder).name} ({line['layers']} layers)"
            points.append(
                {"name": name, "speedup": _mean_of(timed, "speedup"), "retention": _mean(kept)}
            )
    if not rows:
        raise UserError(f"{scores} and {speed} have no encoder in common.")
    plot_tradeoff(points, figure)
    return format_table(rows)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_of(rows: list[dict], column: str) -> float:
    return _mean([float(row[column]) for row in rows])


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.sweep.tradeoff")
    parser.add_argument("--scores", type=Path, required=True, help="CSV of benchmark.py")
    parser.add_argument("--speed", type=Path, required=True, help="CSV of ispeed.py")
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    print(report(args.scores, args.speed, args.figure))
    print(f"\nFigure: {args.figure}")


if __name__ == "__main__":
    run(main)
