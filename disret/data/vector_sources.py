"""Rows of a text and its vector, from files in the usual formats and from the hub."""

import gzip
import itertools
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from disret.command_line import UserError, shortened
from disret.data.arrow_columns import column_kinds, column_texts
from disret.data.hub_data import BLOCK, FORM, HUB, Stream, first_line, look_up, parse_name
from disret.files import readable

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_COLUMNS = ("text", "query", "sentence")
VECTOR_COLUMNS = ("embedding", "vector", "emb", "embeddings")

Row = tuple[int, Any, np.ndarray]  # its number from 1, a text or what stands for it, float32


class Source(NamedTuple):
    """A file or data set: about how many rows it has (0 where nothing tells), and the rows."""

    name: str
    count: int
    rows: Iterator[Row]
    unit: str = "row"

    def place(self, number: int) -> str:
        return f"{self.name}, {self.unit} {number}"


def version(name: str) -> str:
    """What is different once the content of a source is: path, size and time, or the revision.

    Raises:
        UserError: there is no such source, or its name says no format.
    """
    if name.startswith(HUB):
        if parse_name(name).column:
            raise UserError(f"{name}: columns of vectors are not named; write {FORM}.")
        return look_up(name).revision
    _reader(name)
    path = readable(Path(name)).resolve()
    return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"


def open_source(name: str, revision: str) -> Source:
    """Open a source; what is wrong with a row is raised when the rows are read.

    Args:
        name: as `read_vectors` takes it.
        revision: that of a data set of the hub, as `version` gives it.

    Raises:
        UserError: it is damaged, or has no columns of texts and of vectors.
    """
    return _hub(name, revision) if name.startswith(HUB) else _reader(name)(Path(name))


def _reader(name: str) -> Callable[[Path], Source]:
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".jsonl.gz": _jsonl, ".npz": _npz}
    for suffix, reader in readers.items():
        if name.endswith(suffix):
            return reader
    raise UserError(f"{name} is neither {HUB}NAME nor a file in {', '.join(readers)}.")


def _columns(name: str, kinds: dict[str, str]) -> tuple[str, str]:
    """The columns of texts and of vectors, by name or else by kind."""

    def choose(what: str, names: tuple[str, ...], kind: str, also: str) -> str:
        named = [column for column in names if kinds.get(column) in (kind, also)]
        of_kind = [column for column, other in kinds.items() if other == kind]
        if named or len(of_kind) == 1:
            return (named or of_kind)[0]
        there = ", ".join(f"{column} ({kind})" for column, kind in kinds.items()) or "none"
        raise UserError(
            f"{name}: no column of {what} is called {', '.join(names[:-1])} or {names[-1]}, or is "
            f"the only one; there are: {there}."
        )

    texts = choose("texts", TEXT_COLUMNS, "text", "text")
    return texts, choose("vectors", VECTOR_COLUMNS, "floats", "integers")


@contextmanager
def _whole(file: Path, form: str, *damage: type[Exception]) -> Iterator[None]:
    try:
        yield
    except damage as error:
        raise UserError(f"{file} is not a whole {form} file: {first_line(error)}.") from None


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found later
        return values.astype("<f4", copy=False)


# --- Parquet --------------------------------------------------------------------------------------


def _parquet(file: Path) -> Source:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    damage = (pa.ArrowException, OSError, ValueError, KeyError)  # of a name that is there twice
    with _whole(file, "Parquet", *damage):
        # Else a row group, perhaps the whole file, is read as one.
        opened = ParquetFile(file, buffer_size=1 << 18, pre_buffer=False)
        count, schema = opened.metadata.num_rows, opened.schema_arrow
    columns = _columns(str(file), column_kinds(schema))

    def rows() -> Iterator[Row]:
        with opened, _whole(file, "Parquet", *damage):
            batches = opened.iter_batches(BLOCK, columns=list(columns), use_threads=False)
            yield from _arrow_rows(batches, columns)

    return Source(str(file), count, rows())


def _arrow_rows(batches: "Iterable[pa.RecordBatch]", columns: tuple[str, str]) -> Iterator[Row]:
    import pyarrow.compute as pc

    numbers = itertools.count(1)
    for batch in batches:
        texts, vectors = (batch.column(column) for column in columns)
        values = _float32(vectors.flatten().to_numpy(zero_copy_only=False))
        lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy(zero_copy_only=False)
        ends = lengths.cumsum()
        for text, start, end in zip(column_texts(texts), ends - lengths, ends, strict=True):
            yield next(numbers), text, values[start:end]


# --- JSON lines -----------------------------------------------------------------------------------


def _jsonl(file: Path) -> Source:
    first = next(_json_objects(file), None)
    if first is None:
        return Source(str(file), 0, iter(()))
    _, size, record = first
    columns = _columns(str(file), {name: _json_kind(value) for name, value in record.items()})
    size_of_all = file.stat().st_size * (2 if file.suffix == ".gz" else 1)

    def rows() -> Iterator[Row]:
        for number, _, record in _json_objects(file):
            text, vector = (record.get(column) for column in columns)
            if _json_kind(vector) not in ("floats", "integers"):
                reason = f'"{columns[1]}" is no list of numbers'
                raise UserError(f"{file}, line {number}: {reason}.")
            yield number, text, _float32(np.array(vector, np.float64))

    return Source(str(file), size_of_all // size, rows(), "line")


def _json_objects(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Number, bytes and object of each line that is not blank."""
    with (
        _whole(file, "gzip", gzip.BadGzipFile, zlib.error, EOFError),
        gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream,
    ):
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line, parse_int=_whole_number)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                shown = shortened(line.decode(errors="replace").strip())
                raise UserError(f"{file}, line {number}: no JSON object: {shown!r}.")
            yield number, len(line), record


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # at worst infinite, found later


def _json_kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    kinds = set(map(type, value)) if isinstance(value, list) else set()
    if kinds and kinds <= {int, float}:
        return "floats" if float in kinds else "integers"
    return type(value).__name__


# --- NumPy's archives -----------------------------------------------------------------------------


def _npz(file: Path) -> Source:
    damage = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError, RuntimeError)
    with _whole(file, "npz", *damage):
        archive = zipfile.ZipFile(file)
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not {"texts", "embeddings"} <= {*names}:
            there = ", ".join(names) or "none"
            raise UserError(f"{file} lacks the arrays texts and embeddings; there are: {there}.")
        shape, texts = _npz_array(archive, "texts", "U")
        vectors_shape, vectors = _npz_array(archive, "embeddings", "fiu")
    if (len(shape), len(vectors_shape)) != (1, 2) or shape[0] != vectors_shape[0]:
        raise UserError(
            f"{file}: texts has the shape {shape} and embeddings {vectors_shape}; "
            "[n] and [n, dimension] are wanted."
        )

    def rows() -> Iterator[Row]:
        with archive, _whole(file, "npz", *damage):
            all_texts = itertools.chain.from_iterable(block.tolist() for block in texts)
            all_vectors = itertools.chain.from_iterable(map(_float32, vectors))
            numbers = itertools.count(1)
            yield from zip(numbers, all_texts, all_vectors, strict=False)

    return Source(str(file), shape[0], rows())


def _npz_array(
    archive: zipfile.ZipFile, name: str, kinds: str
) -> tuple[tuple[int, ...], Iterator[np.ndarray]]:
    """Shape and blocks of an array, read as they are wanted; one in Fortran's order is a block."""
    stream = archive.open(f"{name}.npy")
    headers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, fortran_order, dtype = headers[np.lib.format.read_magic(stream)[0]](stream)
    if dtype.kind not in kinds:
        wanted = "unicode texts" if kinds == "U" else "numbers"
        found = "pickled objects, which are not read" if dtype.hasobject else f"values of {dtype}"
        raise UserError(f"{archive.filename}: {name} has {found}; {wanted} are wanted.")

    def blocks() -> Iterator[np.ndarray]:
        if fortran_order:
            with np.load(archive.filename, allow_pickle=False) as arrays:
                yield arrays[name]
            return
        for start in range(0, shape[0], BLOCK):
            part = (min(BLOCK, shape[0] - start), *shape[1:])
            content = stream.read(int(np.prod(part)) * dtype.itemsize)
            yield np.frombuffer(content, dtype).reshape(part)

    return shape, blocks()


# --- The hub --------------------------------------------------------------------------------------


def _hub(name: str, revision: str) -> Source:
    stream = Stream(name, revision)

    def rows() -> Iterator[Row]:
        batches = stream.batches()
        if (first := next(batches, None)) is not None:
            columns = _columns(name, column_kinds(first.schema))
            yield from _arrow_rows(itertools.chain([first], batches), columns)

    return Source(name, stream.count, rows())
