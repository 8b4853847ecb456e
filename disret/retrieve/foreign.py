"""An index of documents that is there already, searched as it is and never changed."""

from pathlib import Path

import numpy as np

from disret.command_line import UserError, say
from disret.data.text_files import OTHERS, file_of, parts, refuse_others, suffix_of
from disret.files import checksum, readable, text_sha256, version_of
from disret.retrieve.faiss_file import FaissFile, index_file
from disret.retrieve.ids import Ids, read_ids
from disret.retrieve.index import Index, open_built
from disret.retrieve.search import by_document
from disret.retrieve.vector_files import VectorFile, open_npy, open_parquet

RAW = (".fbin", ".fvecs", ".bvecs", ".u8bin", ".i8bin")
SIGNS = {  # beside those of `OTHERS`
    b"{": "JSON, such as points of Qdrant; write Parquet with columns id and embedding",
    b"IB": "a binary FAISS index, whose vectors are no floats",
}


class ForeignIndex:
    """An index of another program that `open_foreign` has opened.

    Its `fingerprint` is SHA-256 of what decides the hits, wherever it lies, in hexadecimal.
    """

    def __init__(self, source: FaissFile | VectorFile, ids: Ids, of_ids: str | None) -> None:
        self.path, self.dimension, self.documents = source.path, source.dimension, source.documents
        self.description = source.description
        self._source, self._ids = source, ids
        file, column = file_of(of_ids) if of_ids not in (None, "rows") else (None, of_ids)
        files = [*source.files, *(parts(file) if file else [])]
        self._versions = {file: version_of(file) for file in files}
        self.fingerprint = text_sha256([*map(checksum, files), *([column] if column else [])])

    def ids(self) -> Ids:
        """The document id of each row."""
        return self._ids

    def check_unchanged(self) -> None:
        """Raise `UserError` if a file was written since it was opened."""
        for file, version in self._versions.items():
            if not file.exists() or version_of(file) != version:
                raise UserError(f"{file} was changed by another program meanwhile; run again.")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents that score best with each query, each once, as the index finds them.

        Args:
            queries: float32 [n_queries, dimension]; for `cos_sim` of length 1.
            k: hits for each query; at most as many as there are documents are found.

        Returns:
            Scores float32 [n_queries, k], falling (of distances their negatives), and rows int64
            [n_queries, k], which `ids` names. Where an index finds fewer, -inf and -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return by_document(self._source.search, self._ids, queries, min(k, self.documents))


def open_foreign(
    path: Path,
    ids: str | None,
    dimension: int,
    score_function: str | None = None,
    is_judged: bool = True,
    made_by: str | None = None,
) -> Index | ForeignIndex:
    """Open an index or a file of vectors, and check that it can serve an encoder.

    Args:
        path: a FAISS index of any kind but binary, or a folder with one; `.npy` [n, dimension] of
            float16, 32 or 64; `.parquet`, or a folder of its parts; or what `open_index` built.
        ids: FILE[#COLUMN] with an id for each row, or `rows` if these are called by their numbers
            from 0. Without it the ids are those that are in the index.
        dimension: of the encoder's vectors.
        score_function: what scores are to be: `dot`, or `cos_sim`, for which vectors are scaled to
            length 1 on the way, and those of an index must have that length already. By default
            what they are in the index, and `dot` in files of vectors.
        made_by: fingerprint of the encoder, to compare with what an index says that was built
            here.
        is_judged: documents are called as in judgments, and scores matter; else a FAISS index
            ranks as it does, and without ids documents have the numbers of their rows.

    Raises:
        UserError: it is not there, cannot be read, has no vectors or others than the encoder's,
            has no ids or not as many, or gives other scores.
    """
    is_built = (path / "manifest.json").exists()
    source = open_built(path, score_function, made_by) if is_built else _open(index_file(path))
    if not source.documents:
        raise UserError(f"{path} has no vectors.")
    if source.dimension != dimension:
        raise UserError(f"{path} has vectors of {source.dimension} dimensions, but those of the "
                        f"encoder have {dimension}.")  # fmt: skip
    if is_built:
        if ids is None:
            return source
        raise UserError(f"{path} has the ids of its documents already; name no others.")
    if score_function and (is_judged or isinstance(source, VectorFile)):
        source.rank_by(score_function)
    if (found := None if ids else source.own_ids()) is None:
        ids = ids if ids or is_judged else "rows"
        found = _ids_of(source, ids)
    if len(found) != source.documents:
        raise UserError(f"{ids} has {len(found)} document ids from {next(iter(found))!r} on, but "
                        f"{path} has {source.documents} vectors.")  # fmt: skip
    return ForeignIndex(source, found, ids)


def _ids_of(source: FaissFile | VectorFile, ids: str | None) -> Ids:
    """Ids that are not its own; of a file, a line for each number of an IDMap, if they fit."""
    if ids is None:
        raise UserError(f"{source.path} has no document ids; name a file with an id a line, or say "
                        "rows if the documents are called by their numbers from 0.")  # fmt: skip
    if not source.is_ordered:
        raise UserError(f"{source.path} has numbers of its own for its vectors, and no order that "
                        f"{ids} could be matched to; these numbers are its ids.")  # fmt: skip
    if ids == "rows":
        return Ids(np.arange(source.documents))
    found, own = read_ids(ids), source.own_ids() if isinstance(source, FaissFile) else None
    if own is None:
        return found
    numbers = np.asarray(own.values)
    is_by_number = np.array_equal(np.sort(numbers), np.arange(len(found)))
    what = "the number that the index gives a vector" if is_by_number else "the order of adding"
    say(f"{source.path}: the line of a document's id is that of {what}.")
    return Ids(found.values.take(numbers)) if is_by_number else found


def _open(path: Path) -> FaissFile | VectorFile:
    if suffix_of(path) == ".parquet":
        return open_parquet(path)
    with readable(path).open("rb") as file:
        start = file.read(30)
    refuse_others(path, start, OTHERS | SIGNS)
    if suffix_of(path) in RAW:
        raise UserError(f"{path} has raw vectors, which are not read; save them as .npy.")
    return open_npy(path) if suffix_of(path) == ".npy" else FaissFile(path)
