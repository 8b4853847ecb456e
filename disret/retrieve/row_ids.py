"""The document ids of an index that is there already: lines of a file, numbers, or the rows."""

import codecs
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from disret.command_line import UserError
from disret.files import readable
from disret.retrieve.document_ids import DocumentIds, each_once

CHUNK = 1 << 24  # bytes of a file of ids that are checked together


class LineIds(DocumentIds):
    """The lines of a file that another program wrote; row -1, which is no hit, has the id "".

    The last line may lack its end, and lines may end as on Windows.

    Args:
        path: UTF-8, an id a line.

    Raises:
        UserError: there is no such file, or it is empty or not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        last = ""
        try:
            with readable(path).open("rb") as file:
                chunks = iter(lambda: file.read(CHUNK), b"")
                for text in codecs.iterdecode(chunks, "utf-8"):
                    last = text[-1:] or last
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8; it should have a document id a line.") from None
        if not last:
            raise UserError(f"{path} is empty; it should have a document id a line.")
        super().__init__(path)
        if last != "\n":
            self._ends = np.append(self._ends, len(self._bytes))

    def __getitem__(self, row: int) -> str:
        return "" if row == -1 else super().__getitem__(row).removesuffix("\r")

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n").removesuffix("\r")


class RowIds(Sequence[str]):
    """The document id of each row; row -1, which is no hit, has the id ""."""

    @abstractmethod
    def _of(self, rows: np.ndarray) -> Sequence[str]:
        """The ids of rows that are there, int64 [n], rising."""

    def __getitem__(self, row: int) -> str:
        if not -1 <= row < len(self):
            raise IndexError(row)
        return self.take(np.array([row]))[0]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The ids of many rows, repeated ones read once.

        Args:
            rows: int64, any shape.

        Returns:
            str objects, of the same shape.
        """
        return each_once(rows, self._of)


class NumberIds(RowIds):
    """Numbers as text: those that an index has noted, or else the rows.

    Args:
        count: how many rows there are.
        numbers: int64 [count], one for each row.
    """

    def __init__(self, count: int, numbers: np.ndarray | None = None) -> None:
        self._count = count
        self._numbers = numbers

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self._count) if self._numbers is None else self._numbers)

    def _of(self, rows: np.ndarray) -> list[str]:
        return [str(n) for n in (rows if self._numbers is None else self._numbers[rows]).tolist()]
