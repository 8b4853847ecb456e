"""Texts with embeddings that somebody has already, to distil from."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret import paths
from disret.command_line import UserError, progress_bar, say, shortened
from disret.data.hub import BLOCK, FORM, HUB, Stream, look_up, parse_name, reading
from disret.data.queries import columns_of, is_of_texts
from disret.data.text_files import IDS, QUERY_IDS, TEXTS, is_text, named, objects, suffix_of
from disret.files import checksum_path, is_as_noted, kept, text_sha256, version_of

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".npz")  # but for .npz, perhaps with .gz
SAME = 0.9999  # cosine of two vectors of a text that differ by a service's noise alone
VECTOR_COLUMNS = ("embedding", "vector", "emb", "embeddings")

Row = tuple[str, Any, Any]  # where it stands; a text and a vector, or what is in their place


@dataclass(frozen=True)
class Vectors:
    """Texts and their embeddings, float32 [n, dimension], memory-mapped; SHA-256 of both."""

    texts: list[str]
    embeddings: np.ndarray
    sha256: str

    @cached_property
    def _places(self) -> dict[str, int]:
        """Rows of texts, and of texts without the spaces around them, as query files have them."""
        rows = list(enumerate(self.texts))
        stripped = {text.strip(): row for row, text in reversed(rows)}
        return stripped | {text: row for row, text in rows}

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The rows of some texts, int64 [n_texts].

        Raises:
            UserError: one has no vector.
        """
        absent = [text for text in texts if text not in self._places]
        if absent:
            others = f", and of {len(absent) - 1:,} others" if absent[1:] else ""
            raise UserError(f"there is no vector of {shortened(absent[0])!r}{others}.")
        return np.array([self._places[text] for text in texts], dtype=np.int64)


def read_vectors(sources: Sequence[str]) -> Vectors:
    """Read texts with embeddings, once: a later call with the same sources reads a copy of them.

    The copy lies under `downloads/embeddings`. Another is made when a file has another size,
    time or inode, or a data set of the hub another revision.

    Args:
        sources: names. A name says the format: `.parquet`; `.jsonl` and the like (objects);
            `.npz` (arrays `texts` and `embeddings`); or `hub:NAME[/CONFIG][:SPLIT]`, a data set of
            the hub: what follows a second slash is the config, and the split is `train` unless
            it is given. The text is in the column that is called so as in `TEXTS`, or in the only
            one of texts that is not called as ids are; the vector in `embedding`, `vector`, `emb`
            or `embeddings`, or in the only one of lists of floats. What is taken is said.

    Returns:
        Each text once, in order and as it is written there, spaces included.

    Raises:
        UserError: a source cannot be read or has no rows or no such columns; or a row has no
            text, a vector of another dimension or with values that are not finite, or a text
            that had another vector before (the message names the row).
    """
    versions = [_version(name) for name in sources]
    key = text_sha256(itertools.chain(sources, versions), "vectors ")[:32]
    path = paths.DOWNLOADS / "embeddings" / f"{key}.float32"
    texts_path = path.with_suffix(".jsonl")
    if not is_as_noted(texts_path):
        path.unlink(missing_ok=True)  # as both are made together

    def copy(partial: Path) -> None:
        versioned = list(zip(sources, versions, strict=True))
        for name, version in versioned:  # before the long work
            if next(_rows(name, version, tell=True), None) is None:
                raise UserError(f"{name} holds no rows.")
        rows = itertools.chain.from_iterable(itertools.starmap(_rows, versioned))
        texts = _copy(rows, partial)
        lines = "".join(f"{json.dumps(text, ensure_ascii=False)}\n" for text in texts)
        kept(texts_path, lambda file: file.write_bytes(lines.encode()))

    kept(path, copy)
    noted = [checksum_path(file).read_text().split()[0] for file in (path, texts_path)]
    with texts_path.open("rb") as lines:
        texts = [json.loads(line) for line in lines]
    embeddings = np.memmap(path, "<f4", mode="r").reshape(len(texts), -1)
    return Vectors(texts, embeddings, text_sha256(noted))


def is_normalised(embeddings: np.ndarray) -> bool:
    """Whether up to 1,000 rows, evenly spread, all have length 1 within 0.001."""
    rows = np.linspace(0, len(embeddings) - 1, min(len(embeddings), 1000)).astype(int)
    lengths = np.linalg.norm(embeddings[rows], axis=1)
    return bool((np.abs(lengths - 1) <= 1e-3).all())


def _copy(rows: Iterable[Row], path: Path) -> Iterable[str]:
    """Write the vector of each text, which is not held, and return the texts."""
    seen: dict[str, int] = {}
    repeated = dimension = 0
    with path.open("w+b") as vectors, progress_bar(desc="embeddings", unit="text") as bar:
        for place, text, numbers in rows:
            vector = _float32(numbers)
            size, dimension = vector.size, dimension or vector.size
            if not is_text(text) or not text.strip():
                raise UserError(f"{place}: the text is empty or no Unicode text.")
            if not size:
                raise UserError(f"{place}: there is no vector, which is a list of numbers.")
            if size != dimension:
                raise UserError(
                    f"{place}: the vector has {size} numbers, the first has {dimension}."
                )
            if not np.isfinite(vector).all():
                raise UserError(f"{place}: the vector has values that are not finite.")
            count = len(seen)
            if (row := seen.setdefault(text, count)) < count:
                vectors.seek(row * vector.nbytes)
                earlier = np.frombuffer(vectors.read(vector.nbytes), "<f4")
                vectors.seek(0, os.SEEK_END)
                lengths = np.linalg.norm(vector) * np.linalg.norm(earlier)
                if vector @ earlier <= SAME * lengths and (vector != earlier).any():
                    raise UserError(f"{place}: {shortened(text)!r} had another vector before.")
                repeated += 1
                continue
            vectors.write(vector.tobytes())
            bar.update()
    if repeated:
        say(f"{repeated:,} rows repeat a text, each with the same vector; the first is kept.")
    return seen


def _float32(numbers: Any) -> np.ndarray:
    """A vector, float32 [dimension]; empty where there is no list of numbers."""
    # What is too large becomes infinite.
    with np.errstate(over="ignore"), suppress(TypeError, ValueError):
        return np.asarray(numbers, "<f4").reshape(len(numbers))
    return np.empty(0, "<f4")


# --- Sources --------------------------------------------------------------------------------------


def _version(name: str) -> str:
    """What is different once the content of a source is: path, size and time, or the revision."""
    if name.startswith(HUB):
        if parse_name(name)[-1]:
            raise UserError(f"{name}: columns of vectors are not named; write {FORM}.")
        return look_up(name)[0]
    if suffix_of(Path(name)) not in FORMATS:
        raise UserError(f"{name} is neither {HUB}NAME nor a file in {', '.join(FORMATS)}.")
    return " ".join(map(str, (Path(name).resolve(), *version_of(Path(name)))))


def _rows(name: str, version: str, tell: bool = False) -> Iterator[Row]:
    """The rows of a source; `tell` says which columns are taken."""
    with reading(name):
        if name.startswith(HUB):
            stream = Stream(name, version)
            columns = _columns(name, stream.schema(), tell)
            yield from _arrow_rows(name, stream.batches(columns), columns)
        elif (suffix := suffix_of(Path(name))) == ".parquet":
            from pyarrow.parquet import ParquetFile

            # Else a row group, perhaps the whole file, is read as one.
            with ParquetFile(name, buffer_size=1 << 18, pre_buffer=False) as file:
                columns = _columns(name, file.schema_arrow, tell)
                batches = file.iter_batches(BLOCK, columns=columns, use_threads=False)
                yield from _arrow_rows(name, batches, columns)
        elif suffix == ".npz":
            with np.load(name) as arrays:
                texts, vectors = arrays["texts"].tolist(), arrays["embeddings"]
            if len(texts) != len(vectors):
                raise UserError(f"{name} has {len(texts)} texts and {len(vectors)} embeddings.")
            for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), start=1):
                yield f"{name}, row {number}", text, vector
        else:
            yield from _json_rows(name, tell)


def _arrow_rows(
    name: str, batches: "Iterable[pa.RecordBatch]", columns: Sequence[str]
) -> Iterator[Row]:
    number = 0
    for batch in batches:
        texts, vectors = map(batch.column, columns)
        vectors = getattr(vectors, "storage", vectors)  # of a tensor
        for text, vector in zip(texts.to_pylist(), vectors, strict=True):
            number += 1
            yield f"{name}, row {number}", text, vector.values


def _json_rows(name: str, tell: bool) -> Iterator[Row]:
    import pyarrow as pa

    columns: list[str] = []
    for number, record in objects(Path(name)):
        if not isinstance(record, dict):
            raise UserError(f"{name}, line {number}: expected a JSON object.")
        if not columns:
            fields = [(column, pa.infer_type([value])) for column, value in record.items()]
            columns = _columns(name, pa.schema(fields), tell)
        yield f"{name}, line {number}", *map(record.get, columns)


def _columns(name: str, schema: "pa.Schema", tell: bool) -> list[str]:
    """The columns of texts and of vectors."""

    def is_of_other_texts(field: "pa.Field") -> bool:
        return is_of_texts(field) and named(field.name) not in IDS + QUERY_IDS

    found = [one_column(name, "texts", schema, TEXTS, is_of_other_texts),
             one_column(name, "vectors", schema, VECTOR_COLUMNS, is_of_vectors)]  # fmt: skip
    if tell:
        say(f"{name}: texts are of column {found[0]}, vectors of column {found[1]}.")
    return found


def one_column(
    name: str,
    what: str,
    schema: "pa.Schema",
    names: Sequence[str],
    is_of_kind: "Callable[[pa.Field], bool]",
) -> str:
    """The first column that is called so, or else the only one of that kind.

    Raises:
        UserError: there is none, or several.
    """
    of_kind = [field.name for field in schema if is_of_kind(field)]
    called = sorted((c for c in of_kind if named(c) in names), key=lambda c: names.index(named(c)))
    found = called[:1] or of_kind
    if len(found) != 1:
        raise UserError(
            f"{name}: a column of {what} must be called {' or '.join(names[:4])}, or be the only "
            f"one; there are: {columns_of(schema)}."
        )
    return found[0]


def is_of_vectors(field: "pa.Field") -> bool:
    """Whether an Arrow column holds lists of floats, or of integers under a name for vectors."""
    from pyarrow import types

    kind = getattr(field.type, "storage_type", field.type)  # of a tensor
    is_matrix = sum(size > 1 for size in getattr(field.type, "shape", ())) > 1
    is_a_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_matrix or not is_a_list:
        return False
    is_named = field.name in VECTOR_COLUMNS
    return types.is_floating(kind.value_type) or (is_named and types.is_integer(kind.value_type))
