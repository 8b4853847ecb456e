"""Approximate or compressed FAISS indexes, of the vectors of a flat one, and how far they look.

    IVF1024,Flat      inverted lists: nprobe of them are looked at
    HNSW32            a graph: efSearch
    SQ8  PQ48  RaBitQ compressed vectors; with ,RFlat the best are looked at again: k_factor_rf

https://github.com/facebookresearch/faiss/wiki/The-index-factory
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import UserError, progress_bar
from disret.encode.timings import Timings
from disret.files import kept, text_sha256
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.index import Index
from disret.tables import Row

if TYPE_CHECKING:
    import faiss

SAMPLE = 1 << 16  # vectors that an index is trained on, at the least
PER_LIST = 40  # and for each inverted list; faiss asks for 39
RECALL, TIMES = "recall@10", ("encode_ms", "search_ms", "total_ms")
COLUMNS = ("dataset", "index", "query_encoder", "query_backend", "setting", RECALL, *TIMES)
GOOD = 0.95  # recall of a teacher's search that is worth having


def empty_index(kind: str, dimension: int, score_function: str) -> "faiss.Index":
    """An index without vectors, for inner products, of a kind of FAISS's index factory.

    Raises:
        UserError: FAISS makes no such index of vectors of this dimension.
    """
    import faiss

    try:
        index = faiss.index_factory(dimension, kind, faiss.METRIC_INNER_PRODUCT)
        reason = "it ranks by L2 distance, which is not the order of the dot product"
    except RuntimeError as error:
        index, reason = None, _reason(error)
    if index is None or (index.metric_type == faiss.METRIC_L2 and score_function == "dot"):
        raise UserError(f"FAISS makes no index {kind!r} of {dimension} dimensions: {reason}.")
    return index


def open_approximate(flat: Index, kind: str, score_function: str, timings: Timings) -> FaissFile:
    """The approximate index of the same vectors in the same order, built unless it is there.

    It is one file in the folder of the flat index, called by its kind and by a digest of its kind
    and vectors, with its checksum beside it. Building holds all of it in memory; a kill costs what
    was built of it, and none of the vectors.

    Raises:
        UserError: as `empty_index`, or the vectors cannot train it.
    """
    slug = re.sub(r"[^\w.+-]+", "-", kind)
    digest = text_sha256([kind, *flat.checksums])[:8]
    path = flat.folder / f"{slug}.{digest}.index"

    def make(partial: Path) -> None:
        import faiss

        faiss.write_index(_built(flat, kind, score_function, timings), str(partial))

    return FaissFile(kept(path, make))


def _built(flat: Index, kind: str, score_function: str, timings: Timings) -> "faiss.Index":
    import faiss

    index = empty_index(kind, flat.dimension, score_function)
    count = flat.documents
    inverted = faiss.try_extract_index_ivf(index)
    size = max(SAMPLE, PER_LIST * (inverted.nlist if inverted is not None else 0))
    try:
        if not index.is_trained:
            with timings.measure("train index", min(count, size)):
                index.train(_sample(flat, size))
        with (
            timings.measure("add to index", count),
            progress_bar(total=count, desc=f"build {kind}", unit="doc", delay=2) as bar,
        ):
            for block in flat.blocks(flat.shards):
                index.add(block)
                bar.update(len(block))
    except RuntimeError as error:
        raise UserError(f"{kind} cannot be built of {count} vectors: {_reason(error)}.") from None
    return index


def _sample(flat: Index, size: int) -> np.ndarray:
    """Vectors at even distances, [up to size, dimension]."""
    rows = np.unique(np.linspace(0, flat.documents - 1, size).astype(np.int64))
    parts, first = [], 0
    for block in flat.blocks(flat.shards):
        start, end = np.searchsorted(rows, [first, first + len(block)])
        parts.append(block[rows[start:end] - first])
        first += len(block)
    return np.concatenate(parts)


def _reason(error: RuntimeError) -> str:
    """What FAISS says is wrong, without where in its source."""
    return str(error).strip().rpartition(": ")[2].strip()


def parse_settings(words: Sequence[str]) -> list[dict[str, float]]:
    """The settings that `efSearch=16,32 k_factor_rf=4` names: one parameter may vary.

    Returns:
        FAISS's parameters with their values, from the least to the greatest; without words an
        empty one alone, which leaves an index as it is.

    Raises:
        UserError: a word is no such assignment, or two of them have several values.
    """
    named: dict[str, list[float]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if not re.fullmatch(r"\d+(\.\d+)?(,\d+(\.\d+)?)*", values) or name in named:
            raise UserError(f"{word!r} is not NAME=VALUE,VALUE… of another parameter each.")
        named[name] = sorted({float(value) for value in values.split(",")})
    if sum(len(values) > 1 for values in named.values()) > 1:
        raise UserError("one search parameter may have several values, the others one each.")
    return [dict(zip(named, values, strict=True)) for values in product(*named.values())]


def set_parameters(index: "faiss.Index", values: Mapping[str, float], name: str) -> None:
    """Let an index search with these, by FAISS's names such as `efSearch` and `nprobe`.

    Raises:
        UserError: this kind of index has no such parameter.
    """
    import faiss

    for parameter, value in values.items():
        try:
            faiss.ParameterSpace().set_index_parameter(index, parameter, value)
        except RuntimeError:
            kind = type(index).__name__
            raise UserError(
                f"{name} ({kind}) has no parameter {parameter} of its search."
            ) from None


def good_setting(rows: Sequence[Row]) -> Row:
    """An encoder's first setting of a recall of GOOD or more, or its best."""
    good = [row for row in rows if row[RECALL] >= GOOD]
    return good[0] if good else max(rows, key=lambda row: row[RECALL])


def reaching(student: Sequence[Row], of_teacher: Row) -> Row | None:
    """The first setting with the teacher's recall, to the three decimals that are shown."""
    wanted = round(of_teacher[RECALL], 3)
    return next((row for row in student if round(row[RECALL], 3) >= wanted), None)
