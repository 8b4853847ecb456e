"""An index of documents that another tool made, searched as it is and never changed."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from disret.command_line import UserError, progress_bar
from disret.files import checksum, is_as_noted, read_record, readable, text_sha256
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.ids import Ids, read_ids
from disret.retrieve.index import FORMAT, Index, shards_of
from disret.retrieve.vector_files import Vectors, open_fvecs, open_npy, open_parquet, parquet_ids

MANIFEST = {"format": int, "dimension": int, "score_function": str, "ids_sha256": str}
OTHERS = {  # what a file is that is called so, or begins so
    ".fbin": "a matrix with its size before it; save it as .npy",
    "version https://git-lfs": "a pointer of Git LFS, not the file; fetch that by git lfs pull",
    "PK\3\4": "an archive such as .npz; save its array of vectors by itself, as .npy",
    "{": "JSON, such as points of Qdrant; write Parquet with columns id and embedding",
    "\x80": "a pickle of Python objects; write Parquet with columns id and embedding",
    "IB": "a binary FAISS index, whose vectors are no floats",
}


class ForeignIndex:
    """An index that `open_foreign` has opened.

    Attributes:
        path: of a file or a folder.
        dimension: of its vectors.
        documents: the number of vectors.
        description: such as "IndexHNSWFlat, inner product".
        fingerprint: SHA-256 of what decides the hits, wherever it lies, in hexadecimal.
    """

    def __init__(
        self, source: FaissFile | Vectors, ids: Ids, files: Sequence[Path], fingerprint: str
    ) -> None:
        self.path, self.dimension, self.documents = source.path, source.dimension, source.documents
        self.description, self.fingerprint = source.description, fingerprint
        self._source, self._ids = source, ids
        self._times = {file: file.stat().st_mtime_ns for file in files}

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


def open_foreign(
    path: Path,
    ids: Path | Literal["rows"] | None,
    dimension: int,
    score_function: str | None = None,
    id_column: str | None = None,
) -> ForeignIndex:
    """Open an index or a file of vectors, and check that it can serve an encoder.

    Args:
        path: a FAISS index of any kind but binary; `.npy` [n, dimension] of float16, 32 or 64;
            `.fvecs`; `.parquet` with a column of vectors, or a folder of such; the folder of a
            FAISS index that LangChain or Pyserini wrote, or one that `open_index` built.
        ids: a text file with an id a line, in the order of the rows, or `rows` if these are called
            by their numbers from 0. Without it the ids are those that are in the index.
        dimension: of the encoder's vectors.
        score_function: what scores are to be: `dot`, or `cos_sim`, for which vectors are scaled to
            length 1 on the way, and those of a FAISS index must have that length already. By
            default what they are in the index, and `dot` in files of vectors.
        id_column: of Parquet, where its name is unusual.

    Raises:
        UserError: it is not there, cannot be read, has no vectors or others than the encoder's,
            has no ids or not as many, or gives other scores.
    """
    path, ids = _in_folder(path, ids)
    source, files, own_ids, digests = _open(path, id_column)
    if not source.documents:
        raise UserError(f"{path} has no vectors.")
    if source.dimension != dimension:
        raise UserError(
            f"{path} has vectors of {source.dimension} dimensions, "
            f"but those of the encoder have {dimension}."
        )
    if score_function:
        source.rank_by(score_function)

    if ids is not None and isinstance(source, FaissFile):
        source.check_order(ids)
    if ids == "rows":
        found = Ids(np.arange(source.documents))
        digests = [*digests, *(["rows"] if own_ids else [])]
    elif ids is not None:
        found, files = read_ids(ids), [*files, ids]
    else:
        found = own_ids() if own_ids else None
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
    digests = [*map(checksum, files), *digests]
    return ForeignIndex(
        source, found, files, digests[0] if len(digests) == 1 else text_sha256(digests)
    )


def _in_folder(path: Path, ids: Path | str | None) -> tuple[Path, Path | str | None]:
    """The FAISS index in a folder of LangChain or Pyserini, and its ids if no others are given."""
    if not path.is_dir() or (path / "manifest.json").exists() or any(path.glob("*.parquet")):
        return path, ids
    for name in ("index.faiss", "index"):
        if (path / name).is_file():
            beside = path / "docid"
            return path / name, beside if ids is None and beside.exists() else ids
    raise UserError(f"{path} has no manifest.json, index.faiss, index or Parquet files in it.")


def _open(
    path: Path, id_column: str | None
) -> tuple[FaissFile | Vectors, Sequence[Path], Callable[[], Ids | None] | None, Sequence[str]]:
    """What is searched; its files, its ids if it may have some, and what else its digest is of."""
    if (path / "manifest.json").exists():
        index, source = _open_own(path)
        return source, [path / "ids.txt"], index.ids, index.checksums
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    suffix = files[0].suffix.lower()
    with readable(files[0]).open("rb") as file:
        start = file.read(30).decode("latin-1")
    for sign, what in OTHERS.items():
        if suffix == sign or (suffix != ".fvecs" and start.startswith(sign)):
            raise UserError(f"{files[0]} is {what}.")
    if suffix == ".parquet":
        own_ids = partial(parquet_ids, path, id_column)
        return open_parquet(path), files, own_ids, [id_column] if id_column else []
    if id_column:
        raise UserError(f"{path} is no Parquet file, so that it has no column {id_column}.")
    if suffix in (".npy", ".fvecs"):
        return (open_npy if suffix == ".npy" else open_fvecs)(path), files, None, []
    source = FaissFile(path)
    return source, source.files, source.numbers is not None and partial(Ids, source.numbers), []


def _open_own(folder: Path) -> tuple[Index, Vectors]:
    """The index that this project has built, if all of it is as it was written."""
    manifest = read_record(folder / "manifest.json", MANIFEST)
    if manifest is None or manifest["format"] != FORMAT:
        raise UserError(f"{folder} has no sound manifest.json of format {FORMAT}; build it again.")
    shards = tuple(shards_of(manifest.get("shards")))
    index = Index(folder, manifest["dimension"], shards)
    if checksum(readable(folder / "ids.txt")) != manifest["ids_sha256"]:
        raise UserError(f"{folder / 'ids.txt'} is damaged; build the index again.")
    for shard in progress_bar(shards, desc="check the index", unit="shard", delay=2):
        if not is_as_noted(folder / shard.file):
            raise UserError(f"{folder / shard.file} is missing or damaged; build the index again.")
    kind, is_unit = f"{len(shards)} shards", manifest["score_function"] == "cos_sim"
    read = partial(index.blocks, shards)
    return index, Vectors(folder, index.dimension, index.documents, kind, read, is_unit)
