"""The ids of millions of documents, on disk, by row."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np


class DocumentIds(Sequence[str]):
    """The lines of a text file; of each only its end, 8 bytes, is held in memory.

    Args:
        path: UTF-8, an id a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._ends = np.flatnonzero(self._bytes == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        start = self._ends[row - 1] + 1 if row else 0
        return self._bytes[start : self._ends[row]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        with self._path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line[:-1]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The ids of many rows, repeated ones read once.

        Args:
            rows: int64, any shape.

        Returns:
            str objects, of the same shape.
        """
        return each_once(rows, lambda some: [self[row] for row in some.tolist()])


def each_once(rows: np.ndarray, ids_of: Callable[[np.ndarray], Sequence[str]]) -> np.ndarray:
    """The ids of many rows, repeated ones asked for once; row -1, which is no hit, has the id "".

    Args:
        rows: int64, any shape.
        ids_of: the ids of rows that are there, int64 [n], rising.

    Returns:
        str objects, of the same shape.
    """
    unique, places = np.unique(rows, return_inverse=True)
    ids = np.full(len(unique), "", dtype=object)
    ids[unique >= 0] = ids_of(unique[unique >= 0])
    return ids[places].reshape(rows.shape)
