"""An approximate or compressed FAISS index, made of the vectors of a flat one, beside its shards.

    IVF1024,Flat      inverted lists
    HNSW32            a graph
    SQ8  PQ48  RaBitQ compressed vectors; with ,RFlat the best are looked at again in full

https://github.com/facebookresearch/faiss/wiki/The-index-factory
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError, progress_bar, say
from disret.encode.timings import Timings
from disret.files import is_as_noted, lock, note_checksum, remove, text_sha256, whole_file
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.index import Index

if TYPE_CHECKING:
    import faiss

SAMPLE = 1 << 16  # vectors that an index is trained on, at the least
PER_LIST = 40  # and for each inverted list; faiss asks for 39


def empty_index(kind: str, dimension: int, score_function: str) -> "faiss.Index":
    """An index without vectors, for inner products.

    Args:
        kind: of FAISS's index factory, such as `HNSW32`.

    Raises:
        UserError: FAISS makes no such index of vectors of this dimension.
    """
    import faiss

    index = None
    if re.search(r"(?<!\d)0+(?!\d)", kind):  # FAISS may take it, and divide by it later
        reason = "a number in it is 0"
    else:
        try:
            index = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            reason = _reason(error)
    if isinstance(index, faiss.IndexIDMap):
        reason = "its rows need no numbers of their own, so leave IDMap out"
    elif index and index.metric_type == faiss.METRIC_L2 and score_function == "dot":
        reason = "it ranks by L2 distance, which is not the order of the dot product"
    elif index:
        return index
    raise UserError(f"FAISS makes no index {kind!r} of {dimension} dimensions: {reason}.")


def check_count(kind: str, index: "faiss.Index", documents: int) -> None:
    """Raise `UserError` if so few vectors cannot train an empty index of this kind."""
    import faiss

    core = index
    while inner := getattr(core, "index", None) or getattr(core, "base_index", None):
        core = faiss.downcast_index(inner)
    codes = core.pq.ksub if hasattr(core, "pq") else 0
    needed = max(_lists(index), codes)
    if not index.is_trained and documents < needed:
        raise UserError(f"{kind} needs {needed} vectors or more, but there are {documents}.")


def open_approximate(flat: Index, kind: str, score_function: str, timings: Timings) -> FaissFile:
    """The approximate index of the same vectors in the same order, built unless it is there.

    It is one file in the folder of the flat index, called by its kind and by a digest of its kind
    and vectors, with its checksum beside it. Building holds all of it in memory; a kill costs what
    was built of it, and none of the vectors. One that is there of other vectors is removed.

    Raises:
        UserError: as `empty_index`, or the vectors cannot train it.
    """
    digest = text_sha256([kind, *flat.checksums])
    slug = re.sub(r"[^\w.+-]+", "-", kind)
    path = flat.folder / f"{slug}.{digest[:8]}.index"
    with lock(path):
        if not is_as_noted(path):
            if path.exists():
                say(f"{path} is damaged; building it anew.")
            for old in flat.folder.glob(f"{slug}.{'[0-9a-f]' * 8}.index*"):
                remove(old)
            _build(path, flat, kind, score_function, timings)
    return FaissFile(path)


def _build(path: Path, flat: Index, kind: str, score_function: str, timings: Timings) -> None:
    import faiss

    index = empty_index(kind, flat.dimension, score_function)
    count = flat.documents
    try:
        if not index.is_trained:
            with timings.measure("train index", min(count, _sample_size(index))):
                index.train(_sample(flat, _sample_size(index)))
        with (
            timings.measure("add to index", count),
            progress_bar(total=count, desc=f"build {kind}", unit="doc", delay=2) as bar,
        ):
            for block in flat.blocks(flat.shards):
                index.add(block)
                bar.update(len(block))
    except RuntimeError as error:
        raise UserError(f"{kind} cannot be built of {count} vectors: {_reason(error)}.") from None
    with whole_file(path) as partial:
        faiss.write_index(index, str(partial))
    note_checksum(path)


def _sample(flat: Index, size: int) -> np.ndarray:
    """Vectors at even distances, float32 [up to size, dimension]."""
    rows = np.unique(np.linspace(0, flat.documents - 1, size).astype(np.int64))
    sample = np.empty((len(rows), flat.dimension), dtype=np.float32)
    first = 0
    for block in flat.blocks(flat.shards):
        start, end = np.searchsorted(rows, [first, first + len(block)])
        sample[start:end] = block[rows[start:end] - first]
        first += len(block)
    return sample


def _sample_size(index: "faiss.Index") -> int:
    return max(SAMPLE, PER_LIST * _lists(index))


def _lists(index: "faiss.Index") -> int:
    import faiss

    inverted = faiss.try_extract_index_ivf(index)
    return inverted.nlist if inverted is not None else 0


def _reason(error: RuntimeError) -> str:
    """What FAISS says is wrong, without where in its source."""
    return str(error).strip().rpartition(": ")[2].strip()
