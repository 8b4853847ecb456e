"""Tables: CSV files that grow row by row, JSON lists of runs, and what is printed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from disret.command_line import UserError
from disret.files import lock, read_json, readable, whole_file, write_json

Row = dict[str, Any]
# Columns that hold numbers, in the tables of the scripts and of evaluations/. Metrics have an @ in
# their name, and the retention on one data set ends in that word.
NUMBERS = frozenset((
    "presentations",
    "retention", "mean", "low", "high", "documents", "batch_size",
    "queries_per_second", "spread_percent", "speedup", "p50_ms", "p95_ms", "p99_ms", "queries",
    "layers", "parameters", "peak_memory_mb", "threads", "value", "validation_mse",
    "training_seconds", "difference", "float32_mb", "int8_mb", "int8_mean_cosine",
    "with BM25", "rbo", "first", "cosine", "centred cosine", "squared_distance", "encode_ms",
    "search_ms", "total_ms",
))  # fmt: skip


def read_rows(path: Path, needed: Collection[str] = ()) -> list[Row]:
    """The rows of a results file, none when there is no file.

    Args:
        needed: columns without which the table is another one.

    Returns:
        Numbers where a column holds numbers, texts elsewhere, and None for an empty cell.

    Raises:
        UserError: the file is not such a table, or has a text where a number belongs.
    """
    import pandas

    if not path.exists():
        return []
    try:
        table = pandas.read_csv(readable(path), dtype=str, keep_default_na=False)
    except ValueError:  # pandas' own errors among them
        raise UserError(f"{path} exists and is not a CSV table; name another file.") from None
    if missing := [name for name in needed if name not in table.columns]:
        raise UserError(
            f"{path} is another table: it has no column {', '.join(missing)}; name another file."
        )
    return [
        {column: _value(path, column, cell) for column, cell in row.items()}
        for row in table.to_dict("records")
    ]


def _value(path: Path, column: str, cell: str) -> str | float | int | None:
    ends = (" retention", " low", " high")
    if not cell or not (column in NUMBERS or "@" in column or column.endswith(ends)):
        return cell or None
    try:
        return int(cell) if cell.isdecimal() else float(cell)
    except ValueError:
        raise UserError(f"{path} has no number in its column {column}: {cell!r}.") from None


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; columns are those of all rows, in order of appearance."""
    import pandas

    with whole_file(path) as partial:
        pandas.DataFrame(list(rows), dtype=object).to_csv(partial, index=False)


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a results file; two processes that do so at once both succeed."""
    with lock(path):
        write_rows(path, [*read_rows(path), *rows])


def append_run(path: Path, run: Mapping[str, Any]) -> None:
    """Add what a run took to a JSON file, a list of runs, with the time of day."""
    now = datetime.now().isoformat(" ", "seconds")
    with lock(path):
        write_json(path, [*read_runs(path), {"datetime": now, **run}])


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs in a JSON file of `append_run`, none when there is no file.

    Raises:
        UserError: the file is something else.
    """
    if not path.exists():
        return []
    runs = read_json(readable(path))
    if not isinstance(runs, list):
        raise UserError(f"{path} exists and is not a list of runs; name another file.")
    return runs


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the terminal shows them; a column that a row lacks stays blank."""
    return markdown_table(rows, "simple")


def markdown_table(rows: Sequence[Mapping[str, Any]], style: str = "pipe") -> str:
    """The same as a Markdown table, or in another style of tabulate's."""
    import pandas

    if not rows:
        return "(no rows)"
    table = pandas.DataFrame(list(rows), dtype=object)
    table = table.where(table.notna(), "").astype(str)
    # What begins with a digit or is blank, such as `2.7x`, is a number to the reader.
    are_numbers = [table[column].str.match(r"$|[-+]?\d").all() for column in table]
    sides = ["right" if is_number else "left" for is_number in are_numbers]
    return table.to_markdown(index=False, tablefmt=style, disable_numparse=True, colalign=sides)
