"""Result tables: CSV files that grow row by row, and what the terminal shows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from disret.command_line import UserError
from disret.files import read_json, whole_file, write_json


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file, none when there is no file; empty cells are None.

    Raises:
        UserError: the file is not a CSV table.
    """
    import pandas

    if not path.exists():
        return []
    try:
        table = pandas.read_csv(path, dtype=object, keep_default_na=False)
    except (OSError, ValueError):  # pandas' own errors among them
        raise UserError(f"{path} exists and is not a CSV table; name another file.") from None
    return [
        {key: value if value != "" else None for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; columns are those of all rows, in order of appearance."""
    import pandas

    with whole_file(path) as partial:
        pandas.DataFrame(list(rows)).to_csv(partial, index=False)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a results file; two processes that do so at once both succeed."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        write_rows(path, [*read_rows(path), row])


def append_run(
    path: Path, arguments: Mapping[str, Any], device: str, stages: Sequence[Mapping[str, Any]]
) -> None:
    """Add what a run took to a JSON file, a list of runs: arguments, machine, versions, stages.

    Args:
        stages: those of rank 0, which has its share of documents to encode, and all queries.
    """
    import torch
    from filelock import FileLock

    from disret.devices import device_name, versions, world_size

    on_gpu = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
    run = {
        "datetime": datetime.now().isoformat(" ", "seconds"),
        "arguments": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in arguments.items()
            if value is not None
        },
        "device": device_name(device),
        "processes": world_size(),
        "peak_gpu_memory_mb": round(on_gpu / 1e6) if on_gpu else None,
        "versions": versions(),
        "stages": list(stages),
    }
    with FileLock(path.with_name(f".{path.name}.lock")):
        write_json(path, [*read_runs(path), run])


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs in a JSON file of `append_run`, none when there is no file.

    Raises:
        UserError: the file is something else.
    """
    runs = read_json(path)
    if path.exists() and not isinstance(runs, list):
        raise UserError(f"{path} exists and is not a list of runs; name another --output.")
    return runs or []


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an aligned table, numbers to the right; a column that a row lacks stays blank."""
    if not rows:
        return "(no rows)"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    texts = [["" if row.get(c) is None else str(row[c]) for c in columns] for row in rows]
    cells = [columns, *texts]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(_is_number(line[i]) for line in cells[1:]) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%x") or "0")
    except ValueError:
        return False
    return True
