"""What the files of measurements say, and how the tables write it."""

from pathlib import Path

from disret.retrieve.scores import newest_scores
from disret.tables import Row, read_rows

HERE = Path(__file__).resolve().parent
METRIC = "NDCG@10"
STUDENTS = HERE / "texts"
TEACHER = "models/all-MiniLM-L6-v2"
# The students of the first table, as the tables call them.
NAMES = {
    TEACHER: "all-MiniLM-L6-v2, the teacher",
    "models/reach/two-texts-2m": "two layers",
    "models/reach/one-texts": "one layer",
    "models/reach/static-words": "no layer (static)",
}


def compared(folder: Path, key: tuple[str, str]) -> Row:
    """The row of comparison.csv of an encoder and backend."""
    rows = read_rows(folder / "comparison.csv")
    return next(row for row in rows if (row["encoder"], row["backend"]) == key)


def compared_by_name(folder: Path) -> dict[str, Row]:
    """The rows of comparison.csv of encoders in torch, by the last part of their names."""
    rows = read_rows(folder / "comparison.csv")
    return {Path(row["encoder"]).name: row for row in rows if row["backend"] == "torch"}


def scores(folder: Path) -> dict[tuple[str, str], dict[str, Row]]:
    """The newest scores by encoder and backend, then by data set."""
    rows = read_rows(folder / "scores.csv")
    return newest_scores(rows, lambda row: (row["query_encoder"], row["query_backend"]))


def timed(file: Path, batch_size: int, dataset: str | None = None) -> dict[tuple[str, str], Row]:
    """The rows of a speed file by encoder and backend."""
    return {
        (row["encoder"], row["backend"]): row
        for row in read_rows(file)
        if row["batch_size"] == batch_size and dataset in (None, row["dataset"])
    }


def newest_searches(file: Path) -> dict[str, list[Row]]:
    """The rows of the last run on each data set and index, by these two as a title has them."""
    newest: dict[str, list[Row]] = {}
    for row in read_rows(file):
        group = newest.setdefault(f"{row['dataset']}, {row['index']}", [])
        if group and group[-1]["datetime"] != row["datetime"]:
            group.clear()
        group.append(row)
    return newest


def percent(value: float) -> str:
    return f"{value:.1f} %"


def times(value: float) -> str:
    return f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


def minutes(seconds: float | None) -> str | None:
    """A time of training; none is known of a student without one."""
    return None if seconds is None else f"{seconds / 60:.0f} min"


def interval(row: Row) -> str:
    if row["low"] == row["high"]:
        return percent(row["mean"])
    return f"{percent(row['mean'])} ({row['low']:.1f} to {row['high']:.1f})"
