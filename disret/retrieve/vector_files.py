"""Files of vectors: .npy and Parquet, mapped or streamed, and exact search in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from disret.command_line import UserError, progress_bar
from disret.data.text_files import IDS, named, parquet, parquet_column, parts
from disret.data.vectors import VECTOR_COLUMNS, is_of_vectors, one_column
from disret.files import readable
from disret.retrieve.ids import Ids, read_ids
from disret.retrieve.index import BLOCK
from disret.retrieve.search import search_with_faiss


@dataclass
class VectorFile:
    """Vectors on disk, which are searched by reading them all.

    Attributes:
        description: such as "float16 vectors, inner product".
        read: streams them from the first: float32, float16 or float64 [some, dimension], each block
            to be used before the next is asked for.
        own_ids: the ids in the file; None if there are none.
    """

    path: Path
    files: Sequence[Path]
    dimension: int
    documents: int
    description: str
    read: Callable[[], Iterator[np.ndarray]]
    own_ids: Callable[[], Ids | None] = lambda: None
    is_scaled: bool = False
    is_ordered: ClassVar[bool] = True

    def rank_by(self, score_function: str) -> None:
        """Scale the vectors as `dot` or `cos_sim` needs them."""
        if score_function == "cos_sim":
            self.is_scaled = True
            self.description = self.description.replace("inner product", "cosine")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the greatest product; `UserError` if a value is not a number."""
        return search_with_faiss(self._blocks(), queries, k, "cpu")

    def _blocks(self) -> Iterator[np.ndarray]:
        import faiss

        first = 0
        with progress_bar(total=self.documents, desc="search", unit="doc", delay=2) as bar:
            for stored in self.read():
                block = np.array(stored, dtype=np.float32, order="C")
                finite = np.isfinite(block).all(axis=1)
                if not finite.all():
                    row = first + int(np.argmin(finite))
                    raise UserError(f"row {row} of {self.path} has values that are not numbers.")
                if self.is_scaled:
                    faiss.normalize_L2(block)
                yield block
                first += len(block)
                bar.update(len(block))


def open_npy(path: Path) -> VectorFile:
    """The rows of a matrix that `numpy.save` wrote, mapped."""
    try:
        matrix = np.load(readable(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OverflowError, OSError) as error:
        what = "of Python objects" if "Python objects" in str(error) else "cut off or none"
        raise UserError(f"{path} should be a NumPy array of numbers, but is {what}.") from None
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8:
        raise UserError(f"{path} has values of {matrix.dtype} in {matrix.ndim} dimensions; it "
                        "should have a row for each document, of float16, 32 or 64.")  # fmt: skip

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(matrix), BLOCK):
            yield matrix[start : start + BLOCK]

    what = f"{matrix.dtype} vectors, inner product"
    return VectorFile(path, [path], *matrix.shape[::-1], what, read)


def open_parquet(path: Path) -> VectorFile:
    """A column of vectors of a Parquet file, or of a folder of them in their order, streamed.

    It is the first that is called as in `VECTOR_COLUMNS`, or else the only one of lists of floats.
    The ids are in the column that is called as in `IDS`.
    """
    import pyarrow.compute as pc

    with parquet(path) as table:
        schema, count = table.schema, table.count_rows()
    name = one_column(str(path), "vectors", schema, VECTOR_COLUMNS, is_of_vectors)
    dimension = len(next(parquet_column(path, name))[0].as_py() or ()) if count else 0
    if count and not dimension:
        raise UserError(f"row 0 of {path} has no vector.")

    def read() -> Iterator[np.ndarray]:
        first = 0
        for column in parquet_column(path, name):
            column = getattr(column, "storage", column)  # of a tensor
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            for row in np.flatnonzero(lengths != dimension):
                place = f"row {first + row} of {path}"
                raise UserError(f"{place} has {lengths[row]} values, not {dimension}.")
            yield column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
            first += len(column)

    def own_ids() -> Ids | None:
        found = [name for name in schema.names if named(name) in IDS]
        if len(found) > 1:
            names = " or ".join(f"{path.name}#{column}" for column in found)
            raise UserError(f"{path} has several columns of ids; name one, as in {names}.")
        return read_ids(f"{path}#{found[0]}") if found else None

    kind = f"vectors of column {name}, inner product"
    return VectorFile(path, parts(path), dimension, count, kind, read, own_ids)
