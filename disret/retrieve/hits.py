"""The hits of query encoders on an index: queries embedded, then searched together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from disret.command_line import UserError, is_main_process
from disret.encode.batches import normalised
from disret.encode.timings import Timings
from disret.retrieve.existing import ExistingIndex
from disret.retrieve.index import Index
from disret.retrieve.search import search
from disret.retrieve.tasks import Target

HITS = 50_000_000  # held at once, 12 bytes each, of the queries of several encoders


class QueryEncoder(Protocol):
    """What embeds queries.

    Attributes:
        name: as the user gave it.
        timings: what encoding took.
    """

    name: str
    timings: Timings

    def encode_query(self, queries: Sequence[str]) -> np.ndarray:
        """Query embeddings, float32 [n_queries, dimension]."""


Encoder = TypeVar("Encoder", bound=QueryEncoder)


class Hits(NamedTuple):
    """An encoder's query vectors, [n_queries, dimension], and scores and rows of its hits."""

    vectors: np.ndarray
    scores: np.ndarray
    rows: np.ndarray

    def best(self, depth: int) -> "Hits":
        """The first hits of each query."""
        return Hits(self.vectors, self.scores[:, :depth], self.rows[:, :depth])


def find_hits(
    target: Target,
    encoders: Sequence[Encoder],
    depth: int,
    score_function: str,
    device: str,
    gpu_library: str = "torch",
) -> Iterator[tuple[Encoder, Hits | None]]:
    """Embed the queries with each encoder, and search.

    The queries of many encoders go through the index together, which is read once for them.

    Args:
        depth: hits of each query.
        score_function: `dot`, or `cos_sim`, for which the embeddings are scaled to length 1.
        device, gpu_library: as `search` takes them.

    Yields:
        Each encoder with its hits; under `torchrun` with None on all ranks but 0.
    """
    count = len(target.queries)
    at_once = max(1, HITS // (count * depth))
    for start in range(0, len(encoders), at_once):
        group = encoders[start : start + at_once]
        vectors = np.concatenate([_embedded(target, each, score_function) for each in group])
        with group[0].timings.measure("search", len(vectors)):
            found = _search_in(target.index, vectors, depth, device, gpu_library)
            target.index.check_unchanged()
        for number, encoder in enumerate(group):
            own = slice(number * count, (number + 1) * count)
            yield encoder, found and Hits(vectors[own], found[0][own], found[1][own])


def _search_in(
    index: Index | ExistingIndex, vectors: np.ndarray, depth: int, device: str, gpu_library: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores and rows of the hits, [n_queries, depth], on rank 0; None on the others."""
    if isinstance(index, Index):
        return search(index, vectors, depth, device, gpu_library)
    return index.search(vectors, depth) if is_main_process() else None


def _embedded(target: Target, encoder: QueryEncoder, score_function: str) -> np.ndarray:
    """The embeddings of the queries, float32 [n_queries, dimension]."""
    vectors = encoder.encode_query(list(target.queries.values()))
    if not np.isfinite(vectors).all():
        raise UserError(f"{encoder.name} gives embeddings that are not numbers on {target.name}.")
    return normalised(vectors) if score_function == "cos_sim" else vectors
