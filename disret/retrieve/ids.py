"""The document ids of an index by row: lines of a text file, or the values of a column."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError, shortened
from disret.files import readable

if TYPE_CHECKING:
    import pyarrow as pa

NOT_AN_ID = r'^\s*$|[\t\x00]|^[{"]'  # blank, a table, UTF-16, JSON, quoted CSV
TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
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


def read_ids(path: Path, is_own: bool = False) -> Ids:
    """The lines of a text file; a byte order mark and empty last lines do not count.

    Args:
        is_own: this project wrote it, so that each line is an id whatever it looks like.

    Raises:
        UserError: there is no such file, it is not UTF-8, or a line is no id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        text = readable(path).read_text(encoding="utf-8-sig")  # which makes every end of line \n
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text; it should have a document id a line.") from None
    lines = pc.split_pattern(pa.array([text.rstrip("\n")], pa.large_string()), "\n").values
    row = -1 if is_own else pc.index(pc.match_substring_regex(lines, NOT_AN_ID), True).as_py()
    if row != -1:
        said = f"line {row + 1} of {path} is {shortened(lines[row].as_py())!r}"
        raise UserError(f"{said}; it should be a document id and nothing else.")
    return Ids(lines)


def column_ids(column: "pa.ChunkedArray", name: str) -> Ids:
    """The values of a column, however Arrow stores them.

    Args:
        name: what the column is called in errors.

    Raises:
        UserError: some are neither text nor whole numbers, or missing.
    """
    import pyarrow as pa
    from pyarrow import compute as pc
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, as_text = column.type, pa.large_string()
    is_text = str(kind) in TEXTS
    try:
        if not (is_text or types.is_integer(kind) or types.is_floating(kind)):
            raise pa.ArrowInvalid
        values = column.cast(as_text if is_text else pa.int64()).combine_chunks()
    except pa.ArrowInvalid:
        raise UserError(f"{name} has {kind} values that are no text or whole numbers.") from None
    row = pc.index(pc.fill_null(values.cast(as_text), ""), pa.scalar("", as_text)).as_py()
    if row != -1:
        raise UserError(f"{name} has no document id in row {row}.")
    return Ids(values)
