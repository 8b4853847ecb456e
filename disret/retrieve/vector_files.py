"""Files of vectors: .npy, .fvecs and Parquet, mapped or streamed, and exact search in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError, progress_bar
from disret.files import readable
from disret.retrieve.document_ids import DocumentIds
from disret.retrieve.index import BLOCK
from disret.retrieve.row_ids import NumberIds, RowIds

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

VECTOR_COLUMNS = ("embedding", "vector", "emb")
ID_COLUMNS = ("id", "_id", "document_id")


@dataclass(frozen=True)
class Vectors:
    """Vectors on disk, which are searched by reading them all.

    Attributes:
        description: what they are, such as "float16 vectors".
        read: streams them from the first: float32, float16 or float64 [some, dimension], each block
            to be used before the next is asked for.
        ids: the document id of each row.
        is_unit: they have length 1 already.
        is_scaled: each is scaled to length 1 on the way.
    """

    path: Path
    dimension: int
    documents: int
    description: str
    read: Callable[[], Iterator[np.ndarray]]
    ids: RowIds | DocumentIds
    is_unit: bool = False
    is_scaled: bool = False

    def for_score(self, score_function: str) -> "Vectors":
        """The same vectors, scaled as `dot` or `cos_sim` needs them."""
        name = "cosine" if score_function == "cos_sim" else "inner product"
        return replace(
            self,
            description=f"{self.description}, {name}",
            is_scaled=score_function == "cos_sim" and not self.is_unit,
        )

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the vectors of the greatest product with each query.

        Args:
            queries: float32 [n_queries, dimension].
            k: hits for each, at most the number of documents.

        Returns:
            Scores float32 [n_queries, k], falling, and rows int64 [n_queries, k].

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
                with np.errstate(over="ignore"):  # a float64 beyond float32 is named below
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


def open_npy(path: Path) -> Vectors:
    """The rows of a matrix that `numpy.save` wrote, mapped."""
    try:
        matrix = np.load(readable(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OverflowError, OSError):
        raise UserError(f"{path} cannot be read as a NumPy array; it may be cut off.") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
        raise UserError(f"{path} should have two dimensions, a row for each document.")
    if matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8:
        raise UserError(f"{path} has values of {matrix.dtype}, not of float16, 32 or 64.")

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(matrix), BLOCK):
            yield matrix[start : start + BLOCK]

    count, dimension = matrix.shape
    return Vectors(path, dimension, count, f"{matrix.dtype} vectors", read, NumberIds(count))


def open_fvecs(path: Path) -> Vectors:
    """The vectors of a file in which each, of float32, has its dimension before it, mapped."""
    if not readable(path).stat().st_size:
        raise UserError(f"{path} has no vectors.")
    if path.stat().st_size < 4:
        raise UserError(f"{path} is no .fvecs file.")
    values = np.memmap(path, dtype="<i4", mode="r", shape=path.stat().st_size // 4)
    dimension = int(values[0])
    if dimension < 1 or path.stat().st_size % (4 * (dimension + 1)):
        raise UserError(f"{path} is no .fvecs file, or it is cut off.")
    rows = values.reshape(-1, dimension + 1)

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            if (wrong := block[:, 0] != dimension).any():
                row = int(np.argmax(wrong))
                raise UserError(
                    f"row {start + row} of {path} says that it has {block[row, 0]} dimensions, "
                    f"but the first has {dimension}."
                )
            yield block[:, 1:].view("<f4")

    return Vectors(path, dimension, len(rows), "float32 vectors", read, NumberIds(len(rows)))


def open_parquet(path: Path) -> Vectors:
    """A column of vectors, and one of ids if it is there, streamed.

    The vectors are the only column of lists of floats, or the one called `embedding`, `vector` or
    `emb`; the ids are the column `id`, `_id` or `document_id`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(readable(path), memory_map=True)
    except (pa.ArrowException, OSError):
        raise UserError(f"{path} cannot be read as a Parquet file; it may be cut off.") from None
    schema, count = file.schema_arrow, file.metadata.num_rows
    found = [field.name for field in schema if _is_vector(field.type)]
    name = found[0] if len(found) == 1 else next((n for n in VECTOR_COLUMNS if n in found), None)
    if name is None:
        which = f"several ({', '.join(found)})" if found else "no"
        raise UserError(f"{path} has {which} columns of lists of floats; one must be 'embedding'.")

    kind = schema.field(name).type
    dimension = getattr(kind, "list_size", 0)
    if not dimension and count:
        value = next(_batches(file, path, name, 1))[0]
        dimension = len(value) if value.is_valid else 0

    def read() -> Iterator[np.ndarray]:
        first = 0
        for column in _batches(file, path, name, BLOCK):
            yield _matrix(column, dimension, path, first)
            first += len(column)

    ids = next((name for name in ID_COLUMNS if _has_ids(schema, name)), None)
    return Vectors(
        path,
        dimension,
        count,
        f"{kind.value_type} vectors of column {name}",
        read,
        _ColumnIds(path, file, ids) if ids else NumberIds(count),
    )


def _is_vector(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_floating(kind.value_type)


def _has_ids(schema: "pa.Schema", name: str) -> bool:
    import pyarrow.types as types

    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind)


def _batches(file: "pq.ParquetFile", path: Path, name: str, rows: int) -> Iterator["pa.Array"]:
    import pyarrow as pa

    try:
        for batch in file.iter_batches(batch_size=rows, columns=[name]):
            yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"column {name} of {path} cannot be read: {reason}") from None


def _matrix(column: Any, dimension: int, path: Path, first: int) -> np.ndarray:
    """The vectors of a column's part, which begins at a row; raise `UserError` for another size."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    if (wrong := lengths != dimension).any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"row {first + row} of {path} has {lengths[row]} values, but the first has {dimension}."
        )
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)


class _ColumnIds(RowIds):
    """The values of a column as text, read anew by row groups each time."""

    def __init__(self, path: Path, file: "pq.ParquetFile", name: str) -> None:
        self._path, self._file, self._name = path, file, name

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[str]:
        for column in _batches(self._file, self._path, self._name, BLOCK):
            yield from self._texts(column)

    def _of(self, rows: np.ndarray) -> list[str]:
        found: list[str] = []
        first = 0
        for column in _batches(self._file, self._path, self._name, BLOCK):
            start, end = np.searchsorted(rows, [first, first + len(column)])
            if start < end:
                found += self._texts(column.take(rows[start:end] - first))
            first += len(column)
        return found

    def _texts(self, column: "pa.Array") -> Sequence[str]:
        if column.null_count:
            raise UserError(f"column {self._name} of {self._path} lacks the id of a document.")
        return [str(value) for value in column.to_pylist()]
