"""Files of vectors: .npy, .fvecs and Parquet, mapped or streamed, and exact search in them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from disret.command_line import UserError, progress_bar, say
from disret.data.vectors import VECTOR_COLUMNS, is_of_vectors, one_column
from disret.files import readable
from disret.retrieve.ids import Ids, column_ids
from disret.retrieve.index import BLOCK

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

ID_COLUMNS = ("docid", "doc_id", "pid", "corpus-id", "corpus_id", "docno", "_id", "id",
              "document_id")  # fmt: skip


@dataclass
class VectorFile:
    """Vectors on disk, which are searched by reading them all.

    Attributes:
        files: `path`, or those in it.
        kind: what they are, such as "float16 vectors".
        read: streams them from the first: float32, float16 or float64 [some, dimension], each block
            to be used before the next is asked for.
        own_ids: the ids in the file; None if there are none.
        is_scaled: each is scaled to length 1 on the way.
    """

    path: Path
    files: Sequence[Path]
    dimension: int
    documents: int
    kind: str
    read: Callable[[], Iterator[np.ndarray]]
    own_ids: Callable[[], Ids | None] = lambda: None
    is_scaled: bool = False
    is_ordered: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """Such as "float16 vectors, cosine"."""
        return f"{self.kind}, {'cosine' if self.is_scaled else 'inner product'}"

    def rank_by(self, score_function: str) -> None:
        """Scale the vectors as `dot` or `cos_sim` needs them."""
        self.is_scaled = score_function == "cos_sim"

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the greatest product; arguments and result as of `ForeignIndex.search`.

        Raises:
            UserError: a vector has a value that is not a number.
        """
        import faiss
        from faiss.contrib.exhaustive_search import knn_ground_truth

        return knn_ground_truth(queries, self._blocks(), k, faiss.METRIC_INNER_PRODUCT, ngpu=0)

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
    except (ValueError, EOFError, OverflowError, OSError):
        raise UserError(f"{path} is no NumPy array of numbers, or it is cut off.") from None
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8:
        raise UserError(
            f"{path} has values of {matrix.dtype} in {matrix.ndim} dimensions; it should have a "
            "row for each document, of float16, 32 or 64."
        )
    return _mapped(path, matrix)


def open_fvecs(path: Path) -> VectorFile:
    """The vectors of a file in which each, of float32, has its dimension before it, mapped."""
    dimension = int(np.fromfile(readable(path), dtype="<i4", count=1).sum())  # 0 of an empty file
    if dimension < 1 or path.stat().st_size % (4 * (dimension + 1)):
        raise UserError(f"{path} is no .fvecs file, or it is cut off.")
    rows = np.memmap(path, dtype="<f4", mode="r").reshape(-1, dimension + 1)
    return _mapped(path, rows[:, 1:])


def _mapped(path: Path, matrix: np.ndarray) -> VectorFile:
    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(matrix), BLOCK):
            yield matrix[start : start + BLOCK]

    return VectorFile(path, [path], *matrix.shape[::-1], f"{matrix.dtype} vectors", read)


def open_parquet(path: Path) -> VectorFile:
    """A column of vectors of a Parquet file, or of a folder of them in their order, streamed.

    It is the first that is called as in `VECTOR_COLUMNS`, or else the only one of lists of floats.
    The ids are in the column that is called as in `ID_COLUMNS`, in letters of either case.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with _whole(path) as table:
        schema, count = table.schema, table.count_rows()
    name = one_column(str(path), "vectors", schema, VECTOR_COLUMNS, is_of_vectors)
    dimension = len(next(_column(path, name))[0].as_py() or ()) if count else 0
    if count and not dimension:
        raise UserError(f"row 0 of {path} has no vector.")

    def read() -> Iterator[np.ndarray]:
        first = 0
        for column in _column(path, name):
            column = getattr(column, "storage", column)  # of a tensor
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            for row in np.flatnonzero(lengths != dimension):
                raise UserError(
                    f"row {first + row} of {path} has {lengths[row]} values, not {dimension}."
                )
            yield column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
            first += len(column)

    def own_ids() -> Ids | None:
        found = [name for name in schema.names if name.lower() in ID_COLUMNS]
        if len(found) > 1:
            raise UserError(f"{path} has several columns of ids ({', '.join(found)}); keep one.")
        if not found:
            return None
        column = f"column {found[0]} of {path}"
        say(f"The ids of the documents are {column}.")
        return column_ids(pa.chunked_array(list(_column(path, found[0]))), column)

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return VectorFile(path, files, dimension, count, f"vectors of column {name}", read, own_ids)


def _column(path: Path, name: str) -> Iterator["pa.Array"]:
    """A column in parts of BLOCK rows or fewer, in order."""
    with _whole(path) as table:
        for batch in table.to_batches(columns=[name], batch_size=BLOCK, batch_readahead=1):
            if len(batch):
                yield batch.column(name)


@contextmanager
def _whole(path: Path) -> Iterator["pads.Dataset"]:
    """Parquet as one table; what is wrong with a file is a sentence."""
    import pyarrow as pa
    from pyarrow import dataset

    try:
        files = sorted(map(str, path.glob("*.parquet"))) if path.is_dir() else str(readable(path))
        yield dataset.dataset(files, format="parquet")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{path} is no Parquet, or cut off or damaged: {reason}.") from None
