"""The document ids of an index by row: lines of a text file, or the values of a column."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError, say, shortened
from disret.data.text_files import IDS, PARQUET, file_of, open_table, parquet_column, suffix_of

if TYPE_CHECKING:
    import pyarrow as pa

NOT_AN_ID = r'^\s*$|[\t\x00]|^[{"]'  # blank, a table, UTF-16, JSON, quoted CSV
BLOCK = 1 << 16  # ids that are made Python's own together


class Ids:
    """An id for each row, in memory; several rows may have one, as the passages of a document.

    Args:
        values: text or whole numbers, without nulls; numbers are told as text.
    """

    def __init__(self, values: "pa.Array | np.ndarray") -> None:
        import pyarrow as pa

        self.values = pa.array(values) if isinstance(values, np.ndarray) else values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from map(str, self.values[start : start + BLOCK].to_pylist())

    @cached_property
    def are_unique(self) -> bool:
        """Whether no two rows have one id."""
        return len(self.values.unique()) == len(self)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The ids of rows, int64 of any shape, as str objects; "" for -1, which is no hit."""
        unique, places = np.unique(rows, return_inverse=True)
        ids = np.full(len(unique), "", dtype=object)
        ids[unique >= 0] = list(map(str, self.values.take(unique[unique >= 0]).to_pylist()))
        return ids[places].reshape(rows.shape)

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Numbers that are equal where the rows' ids are, for this call; -1, no hit, stays."""
        unique, places = np.unique(np.maximum(rows, 0), return_inverse=True)
        codes = self.values.take(unique).dictionary_encode().indices.to_numpy()
        return np.where(rows < 0, -1, codes[places].reshape(rows.shape))


def own_ids(path: Path) -> Ids:
    """The lines of a file that this project wrote, each an id whatever it looks like."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = path.read_text(encoding="utf-8").removesuffix("\n")
    return Ids(pc.split_pattern(pa.array([text], pa.large_string()), "\n").values)


def read_ids(name: str) -> Ids:
    """The document ids of FILE[#COLUMN]; empty last lines do not count.

    Raises:
        UserError: there is no such file or column, several could be meant, or a line is no id.
    """
    import pyarrow as pa

    path, wanted = file_of(name)
    table = open_table(path, wanted)
    number = 0 if len(table.columns) == 1 and not wanted else table.column(IDS, wanted)
    if number is None:
        raise table.unclear("ids")
    called = f"column {table.columns[number]} of {path}"
    if table.first is None:
        say(f"The ids of the documents are {called}.")
    if suffix_of(path) in PARQUET:
        parts = list(parquet_column(path, table.columns[number]))
        return column_ids(pa.chunked_array(parts), called)
    rows = table.rows(number)  # of JSON perhaps with numbers that are larger than Arrow's
    found = [(n, "" if v is None else str(v) if type(v) is int else v) for n, (v,) in rows]
    while found[1:] and found[-1][1] == "":
        found.pop()
    for line, value in found or [(1, "")]:
        if re.search(NOT_AN_ID, str(value)):
            raise UserError(f"line {line} of {path} is {shortened(str(value))!r}; it should be a "
                            "document id and nothing else.")  # fmt: skip
    try:
        values = pa.chunked_array([pa.array([value for _, value in found])])
    except pa.ArrowException:
        raise UserError(f"{path} has document ids of several types; write them as text.") from None
    return column_ids(values, f"{path}")


def column_ids(column: "pa.ChunkedArray", name: str) -> Ids:
    """The values of a column; `UserError`, by its name, for one that is no text or whole number."""
    import pyarrow as pa
    from pyarrow import compute as pc
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, text = column.type, pa.large_string()
    try:
        if types.is_floating(kind) or types.is_decimal(kind):
            column = column.cast(pa.int64())
        elif not re.fullmatch("u?int.*|(large_)?(string|binary)(_view)?", str(kind)):
            raise pa.ArrowInvalid
        values = column.cast(text).combine_chunks()
    except pa.ArrowException:
        raise UserError(f"{name} has {kind} values that are no text or whole numbers.") from None
    row = pc.index(pc.fill_null(values, ""), pa.scalar("", text)).as_py()
    if row != -1:
        raise UserError(f"{name} has no document id in row {row}.")
    return Ids(values)
