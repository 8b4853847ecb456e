"""An index of documents that is there already, searched as it is and never changed."""

from pathlib import Path
from typing import Literal

import numpy as np

from disret.command_line import UserError
from disret.files import checksum, readable, text_sha256
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.ids import Ids, read_ids
from disret.retrieve.index import Index, open_built
from disret.retrieve.vector_files import VectorFile, open_fvecs, open_npy, open_parquet

OTHERS = {  # what a file is that begins so
    "version https://git-lfs": "a pointer of Git LFS, not the file; fetch that by git lfs pull",
    "PK\3\4": "an archive such as .npz; save its array of vectors by itself, as .npy",
    "{": "JSON, such as points of Qdrant; write Parquet with columns id and embedding",
    "\x80": "a pickle of Python objects; write Parquet with columns id and embedding",
    "IB": "a binary FAISS index, whose vectors are no floats",
}


class ForeignIndex:
    """An index of another program that `open_foreign` has opened.

    Attributes:
        path: of a file, or of a folder of Parquet.
        dimension: of its vectors.
        documents: the number of vectors.
        description: such as "IndexHNSWFlat, inner product".
        fingerprint: SHA-256 of what decides the hits, wherever it lies, in hexadecimal.
    """

    def __init__(
        self, source: FaissFile | VectorFile, ids: Ids, of_ids: Path | Literal["rows"] | None
    ) -> None:
        self.path, self.dimension, self.documents = source.path, source.dimension, source.documents
        self.description = source.description
        self._source, self._ids = source, ids
        files = [*source.files, *([of_ids] if isinstance(of_ids, Path) else [])]
        self._times = {file: file.stat().st_mtime_ns for file in files}
        self.fingerprint = text_sha256([*map(checksum, files), *(["rows"] * (of_ids == "rows"))])

    def ids(self) -> Ids:
        """The document id of each row."""
        return self._ids

    def check_unchanged(self) -> None:
        """Raise `UserError` if a file was written since it was opened."""
        for file, time in self._times.items():
            if not file.exists() or file.stat().st_mtime_ns != time:
                raise UserError(f"{file} was changed by another program meanwhile; run again.")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the documents that score best with each query, on the CPU.

        A FAISS index searches as it does by itself; vectors are searched exactly, in blocks.

        Args:
            queries: float32 [n_queries, dimension]; for `cos_sim` of length 1.
            k: hits for each query; at most as many as there are documents are found.

        Returns:
            Scores float32 [n_queries, k], falling (of distances their negatives), and rows int64
            [n_queries, k], which `ids` names. Where an index finds fewer, -inf and -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return self._source.search(queries, min(k, self.documents))


def file_or_rows(text: str) -> Path | Literal["rows"]:
    """The type of an argument that names document ids: a file, or the word `rows`."""
    return "rows" if text == "rows" else Path(text)


def open_foreign(
    path: Path,
    ids: Path | Literal["rows"] | None,
    dimension: int,
    score_function: str | None = None,
) -> Index | ForeignIndex:
    """Open an index or a file of vectors, and check that it can serve an encoder.

    Args:
        path: a FAISS index of any kind but binary; `.npy` [n, dimension] of float16, 32 or 64;
            `.fvecs`; `.parquet` with a column of vectors, or a folder of such; or a folder that
            `open_index` built.
        ids: a text file with an id a line, in the order of the rows, or `rows` if these are called
            by their numbers from 0. Without it the ids are those that are in the index.
        dimension: of the encoder's vectors.
        score_function: what scores are to be: `dot`, or `cos_sim`, for which vectors are scaled to
            length 1 on the way, and those of an index must have that length already. By default
            what they are in the index, and `dot` in files of vectors.

    Raises:
        UserError: it is not there, cannot be read, has no vectors or others than the encoder's,
            has no ids or not as many, or gives other scores.
    """
    if is_built := (path / "manifest.json").exists():
        if ids is not None:
            raise UserError(f"{path} has the ids of its documents already; name no others.")
        source = open_built(path, score_function)
    else:
        source = _open(path)
    if not source.documents:
        raise UserError(f"{path} has no vectors.")
    if source.dimension != dimension:
        raise UserError(
            f"{path} has vectors of {source.dimension} dimensions, "
            f"but those of the encoder have {dimension}."
        )
    if is_built:
        return source
    if score_function:
        source.rank_by(score_function)
    if ids is None:
        found = source.own_ids()
    elif not source.is_ordered:
        raise UserError(
            f"{path} has numbers of its own for its vectors and not their order, so that {ids} "
            "cannot be matched to them; these numbers are its ids."
        )
    else:
        found = Ids(np.arange(source.documents)) if ids == "rows" else read_ids(ids)
    if found is None:
        raise UserError(
            f"{path} has no document ids; name a file with an id a line, or say rows if the "
            "documents are called by their numbers from 0."
        )
    if len(found) != source.documents:
        raise UserError(
            f"{ids or path} has {len(found)} document ids from {next(iter(found))!r} on, "
            f"but {path} has {source.documents} vectors."
        )
    return ForeignIndex(source, found, ids)


def _open(path: Path) -> FaissFile | VectorFile:
    first = min(path.glob("*.parquet"), default=path)
    suffix = first.suffix.lower()
    with readable(first).open("rb") as file:
        start = file.read(30).decode("latin-1")
    for sign, what in OTHERS.items():
        if start.startswith(sign) and suffix != ".fvecs":  # which begins with any number
            raise UserError(f"{first} is {what}.")
    kinds = {".parquet": open_parquet, ".npy": open_npy, ".fvecs": open_fvecs}
    return kinds.get(suffix, FaissFile)(path)
