"""An index of documents that is there already, searched as it is and never changed."""

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from disret.command_line import UserError, progress_bar
from disret.files import checksum, is_as_noted, read_record, readable, text_sha256
from disret.retrieve.document_ids import DocumentIds
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.index import FORMAT, Index, shards_of
from disret.retrieve.row_ids import LineIds, RowIds
from disret.retrieve.vector_files import Vectors, open_fvecs, open_npy, open_parquet

WHOLE = 10**9  # bytes of a file up to which all of it makes its fingerprint
END = 64 * 10**6  # bytes at either end that make that of a longer one
VECTOR_FILES = {".npy": open_npy, ".fvecs": open_fvecs, ".parquet": open_parquet}
MANIFEST = {"format": int, "dimension": int, "score_function": str, "ids_sha256": str}


class ExistingIndex:
    """An index that `open_existing` has opened.

    Attributes:
        folder: its path, of a file or a folder.
        dimension: of its vectors.
        documents: the number of vectors.
        description: such as "IndexHNSWFlat, inner product".
    """

    def __init__(
        self,
        folder: Path,
        source: FaissFile | Vectors,
        ids: DocumentIds | RowIds,
        files: Sequence[Path],
        own: Index | None,
    ) -> None:
        self.folder = folder
        self.dimension = source.dimension
        self.documents = source.documents
        self.description = source.description
        self._source, self._ids, self._files, self._own = source, ids, files, own
        self._states = [_state(file) for file in files]

    def ids(self) -> DocumentIds | RowIds:
        """The document id of each row; `take` gives "" for row -1."""
        return self._ids

    def check_unchanged(self) -> None:
        """Raise `UserError` if a file has another size or time than when it was opened."""
        for file, state in zip(self._files, self._states, strict=True):
            if _state(file) != state:
                raise UserError(f"{file} was changed by another program meanwhile; run again.")
        if self._own:
            self._own.check_unchanged()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the hits, wherever it lies, in hexadecimal.

        For one file up to 1 GB it is the checksum; for a longer one, that of its size and its first
        and last 64 MB. A file of ids counts too, and for a folder the checksums of its shards.
        """
        parts = [_fingerprint(file) for file in self._files]
        if self._own:
            parts += self._own.checksums
        return parts[0] if len(parts) == 1 else text_sha256(parts)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the documents that score best with each query, on the CPU.

        A FAISS index searches as it does by itself; vectors are searched exactly, in blocks.

        Args:
            queries: float32 [n_queries, dimension]; for `cos_sim` of length 1.
            k: hits for each query; at most as many as there are documents are found.

        Returns:
            Scores float32 [n_queries, k], falling (of L2 distances their negatives), and rows int64
            [n_queries, k]. Where an approximate index finds fewer, -inf and -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return self._source.search(queries, min(k, self.documents))


def open_existing(
    path: Path, ids: Path | None, dimension: int, score_function: str
) -> ExistingIndex:
    """Open an index or a file of vectors, and check that it can serve an encoder.

    Args:
        path: a FAISS index of any kind but binary; `.npy` [n, dimension] of float16, 32 or 64;
            `.fvecs`; `.parquet` with a column of vectors; or a folder that `open_index` built.
        ids: a text file with an id a line, in the order of the rows. Without it the ids are those
            that the folder, the Parquet file or the FAISS index has, or else the rows' numbers.
        dimension: of the encoder's vectors.
        score_function: `dot`, or `cos_sim`, for which vectors are scaled to length 1 on the way,
            and those of a FAISS index must have that length already.

    Raises:
        UserError: it is not there, cannot be read, has no vectors or others than the encoder's,
            ranks in another way, or `ids` are not as many.
    """
    own = None
    files = [path]
    if path.is_dir():
        own, source = _open_folder(path)
        files = [path / "ids.txt"]
    elif path.suffix.lower() in VECTOR_FILES:
        source = VECTOR_FILES[path.suffix.lower()](path)
    else:
        source = FaissFile(path)
        files += source.other_files
    if not source.documents:
        raise UserError(f"{path} has no vectors.")
    if source.dimension != dimension:
        raise UserError(
            f"{path} has vectors of {source.dimension} dimensions, "
            f"but those of the encoder have {dimension}."
        )
    if isinstance(source, Vectors):
        source = source.for_score(score_function)
        found = source.ids
    else:
        source.check_score(score_function)
        found = source.ids()
    if ids is not None:
        found = LineIds(ids)
        files = [*files, ids]
        if isinstance(source, FaissFile) and not source.has_order:
            raise UserError(
                f"{path} has numbers of its own for its vectors and not their order, "
                f"so that the lines of {ids} cannot be matched to them."
            )
    if len(found) != source.documents:
        raise UserError(
            f"{ids or path / 'ids.txt'} has {len(found)} document ids, "
            f"but {path} has {source.documents} vectors."
        )
    return ExistingIndex(path, source, found, files, own)


def _open_folder(folder: Path) -> tuple[Index, Vectors]:
    """The index that a folder holds, once everything in it is as it was written."""
    manifest = read_record(folder / "manifest.json", MANIFEST)
    if manifest is None:
        raise UserError(f"{folder} is a folder without an index: it has no sound manifest.json.")
    if manifest["format"] != FORMAT:
        raise UserError(f"{folder} has an index of format {manifest['format']}, not {FORMAT}.")
    shards = tuple(shards_of(manifest.get("shards")))
    digest = checksum(folder / "manifest.json")
    index = Index(folder, manifest["dimension"], shards, digest)
    if checksum(readable(folder / "ids.txt")) != manifest["ids_sha256"]:
        raise UserError(f"{folder / 'ids.txt'} is damaged; build the index again.")
    for shard in progress_bar(shards, desc="check the index", unit="shard", delay=2):
        if not is_as_noted(folder / shard.file):
            raise UserError(f"{folder / shard.file} is missing or damaged; build the index again.")
    return index, Vectors(
        folder,
        index.dimension,
        index.documents,
        f"{len(shards)} shards",
        partial(index.blocks, shards),
        LineIds(folder / "ids.txt"),
        is_unit=manifest["score_function"] == "cos_sim",
    )


def _state(file: Path) -> tuple[int, int] | None:
    """The size and the time of a file, None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _fingerprint(file: Path) -> str:
    size = file.stat().st_size
    if size <= WHOLE:
        return checksum(file)
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        digest.update(content.read(END))
        content.seek(-END, 2)
        digest.update(content.read(END))
    return digest.hexdigest()
