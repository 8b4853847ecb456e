"""How far an approximate index must look for a student's queries, and how long that takes.

An index such as a graph or inverted lists finds the more of what exact search finds, the farther it
looks: `efSearch`, `nprobe`. A student's queries may need more of that than the teacher's, which
costs some of the time that the smaller encoder saves.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Protocol, TypeVar

import numpy as np

from disret.command_line import progress_bar
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.hits import Hits, QueryEncoder
from disret.retrieve.index import Index
from disret.retrieve.metrics import metrics, to_run
from disret.retrieve.settings import Setting
from disret.retrieve.tasks import Target
from disret.tables import Row

K = 10
DEPTH = 100  # exact hits among which ties are looked for
TIES = 1e-4  # by which a score may miss the 10th, in lengths of the 10th where that is above 1
TIMED = 1000  # queries that are timed, at the most
WARM_UP = 32  # of them are embedded and searched before
RECALL, NDCG, OVERLAP = f"recall@{K}", f"NDCG@{K}", f"overlap@{K}"
TIMES = ("encode_ms", "search_ms", "total_ms")


class TimedEncoder(QueryEncoder, Protocol):
    """What embeds queries and can be timed.

    Attributes:
        is_local: whether it computes embeddings in this process, so that its time is its own.
    """

    is_local: bool

    def run(self, queries: Sequence[str], batch_size: int) -> None:
        """Embed queries as a service would."""


Encoder = TypeVar("Encoder", bound=TimedEncoder)


def measure(
    index: FaissFile,
    target: Target,
    hits: Mapping[Encoder, Hits],
    settings: Sequence[Setting],
    threads: int,
) -> dict[Encoder, list[Row]]:
    """Search an index with each encoder's queries and each setting, all at once and one by one.

    Args:
        index: of the same rows as the target's.
        hits: of each encoder in the target's index, the teacher's first, `DEPTH` or more and one.
        threads: of the CPU, while single queries are timed.

    Returns:
        A row for each setting, in order. Means over the queries, without documents that have the
        query's own id: `recall@10`, the share of the exact search's ten best (and of what ties
        with the tenth) that is among the ten found; `NDCG@10`, where there are judgments;
        `overlap@10`, the share of the ten best of the teacher's exact search. Medians of up to
        1,000 single queries, in milliseconds: `encode_ms`, `search_ms` and `total_ms`. What cannot
        be known is None: recall and overlap of an index that does not hold the vectors themselves,
        and the time of an encoder elsewhere.
    """
    queries = list(target.queries.values())
    exact = {encoder: _exact(index, target, found) for encoder, found in hits.items()}
    has_own = any(_is_own(target, found.rows).any() for found in hits.values())
    count = min(K + has_own, index.documents)
    encoding = {
        encoder: _seconds(partial(_encode, encoder), queries, threads) if encoder.is_local else None
        for encoder in hits
    }
    rows: dict[Encoder, list[Row]] = {encoder: [] for encoder in hits}
    teacher = exact[next(iter(hits))]
    with progress_bar(total=len(settings) * len(hits), desc="sweep", unit="search") as bar:
        for setting in settings:
            index.set_parameters(setting.parameters)
            for encoder, found in hits.items():  # in turn, so that a drift of speed meets all
                vectors = np.ascontiguousarray(found.vectors, dtype=np.float32)
                scores, ranks = index.search(vectors, count)
                single = vectors[:, None]
                searching = _seconds(lambda vector: index.search(vector, count), single, threads)
                rows[encoder].append({
                    "setting": setting.label,
                    **_quality(target, Hits(vectors, scores, ranks), exact[encoder], teacher),
                    **_times(encoding[encoder], searching),
                    "threads": threads,
                })  # fmt: skip
                bar.update()
    return rows


def _exact(index: FaissFile, target: Target, found: Hits) -> Hits | None:
    """Exact hits of the same queries, without their own documents."""
    if not isinstance(target.index, Index):
        if not index.has_vectors:
            return None
        vectors = np.ascontiguousarray(found.vectors, dtype=np.float32)
        depth = min(DEPTH + 1, index.documents)
        found = Hits(vectors, *index.search_exactly(vectors, depth))
    return _without_own(target, found)


def _quality(
    target: Target, found: Hits, exact: Hits | None, teacher: Hits | None
) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys((RECALL, NDCG, OVERLAP))
    if target.qrels:
        documents = target.index.ids().take(found.rows)
        run = to_run(list(target.queries), documents, found.scores, K)
        values[NDCG] = metrics(target.qrels, run, [K])[NDCG]
    if exact is not None:
        rows = _without_own(target, found).rows[:, :K]
        values[RECALL] = round(_share(rows, exact.rows, _ties(exact.scores)), 4)
        values[OVERLAP] = round(_share(rows, teacher.rows[:, :K]), 4)
    return values


def _ties(scores: np.ndarray) -> np.ndarray:
    """Which of the exact hits score like the tenth or better, bool of the same shape."""
    tenth = scores[:, min(K, scores.shape[1]) - 1, None]
    return scores >= tenth - TIES * np.maximum(1, np.abs(tenth))


def _share(found: np.ndarray, wanted: np.ndarray, taken: np.ndarray | None = None) -> float:
    """The mean share of the first ten that are wanted, among those found.

    Args:
        found: rows [n_queries, up to 10], -1 for none.
        wanted: rows [n_queries, depth], -1 for none.
        taken: which of those wanted count, bool of that shape; by default all.
    """
    there = wanted != -1 if taken is None else taken & (wanted != -1)
    shared = ((found[:, :, None] == wanted[:, None]) & there[:, None]).any(axis=2).sum(axis=1)
    return float((shared / np.clip(there.sum(axis=1), 1, K)).mean())


def _is_own(target: Target, rows: np.ndarray) -> np.ndarray:
    """Where a hit is the document that has the query's own id, bool [n_queries, k]."""
    if not target.qrels:  # the queries of a log have numbers
        return np.zeros(rows.shape, dtype=bool)
    documents = target.index.ids().take(rows)
    return documents == np.array(list(target.queries), dtype=object)[:, None]


def _without_own(target: Target, found: Hits) -> Hits:
    """The hits, where a query's own document gives way to the next, and -1 ends its row."""
    own = _is_own(target, found.rows)
    order = np.argsort(own, axis=1, kind="stable")
    scores, rows = np.where(own, -np.inf, found.scores), np.where(own, -1, found.rows)
    return Hits(found.vectors, *(np.take_along_axis(each, order, 1) for each in (scores, rows)))


def _encode(encoder: TimedEncoder, query: str) -> None:
    encoder.run([query], 1)


def _seconds(call: Callable, things: Sequence, threads: int) -> list[float]:
    """The time of each call, one after the other."""
    seconds = []
    with _with_threads(threads):
        for thing in things[:WARM_UP]:
            call(thing)
        for thing in things[:TIMED]:
            start = time.perf_counter()
            call(thing)
            seconds.append(time.perf_counter() - start)
    return seconds


def _times(encoding: list[float] | None, searching: list[float]) -> dict[str, float | None]:
    both = None if encoding is None else list(map(sum, zip(encoding, searching, strict=True)))
    medians = (each and round(median(each) * 1e3, 4) for each in (encoding, searching, both))
    return dict(zip(TIMES, medians, strict=True))


@contextmanager
def _with_threads(count: int) -> Iterator[None]:
    """Let torch and faiss use so many threads of the CPU."""
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
