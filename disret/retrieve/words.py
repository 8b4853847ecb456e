"""Search by words, BM25, and its hits fused with those of vectors."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from disret.data.collection import Document
from disret.retrieve.runs import Run, to_run

CANDIDATES = 100  # of each side
CONSTANT = 60  # how little the very first ranks count before the next


class Words:
    """BM25 of `bm25s` over documents in memory, on English words without stop words."""

    def __init__(self, documents: Iterable[Document]) -> None:
        import bm25s

        pairs = [(document.id, document.text) for document in documents]
        self._ids = np.array([id for id, _ in pairs], dtype=object)
        self._index = bm25s.BM25()
        words = bm25s.tokenize([text for _, text in pairs], show_progress=False)
        self._index.index(words, show_progress=False)

    def retrieve(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores, [n_texts, k], best first."""
        import bm25s

        asked = bm25s.tokenize(list(texts), show_progress=False, return_ids=False)
        depth = min(CANDIDATES + 1, len(self._ids))
        return self._index.retrieve(asked, k=depth, show_progress=False)

    def run(self, queries: Mapping[str, str]) -> Run:
        """The documents that it finds best, CANDIDATES at most; without a word of it, none."""
        rows, scores = self.retrieve(list(queries.values()))
        hits = np.where(scores > 0, self._ids[rows], "")
        return to_run(list(queries), hits, scores, CANDIDATES)


def fused(runs: Sequence[Run]) -> Run:
    """The runs by reciprocal rank fusion of their first CANDIDATES.

    A document's score is the sum of 1 / (60 + rank) (Cormack, Clarke and Büttcher, SIGIR 2009).
    """
    found: Run = {}
    for one in runs:
        for query, hits in one.items():
            scores = found.setdefault(query, {})
            best = sorted(hits, key=hits.get, reverse=True)[:CANDIDATES]
            for rank, document in enumerate(best, start=1):
                scores[document] = scores.get(document, 0.0) + 1 / (CONSTANT + rank)
    return found
