"""Scores of a run, by BEIR's evaluation (pytrec_eval)."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from disret.data.collection import Qrels
from disret.files import whole_file

Run = dict[str, dict[str, float]]  # query id -> document id -> score


def to_run(query_ids: Sequence[str], hits: np.ndarray, scores: np.ndarray, k: int) -> Run:
    """The best `k` documents of each query, without the document that has the query's own id.

    ArguAna's and Quora's queries stand in their corpora; BEIR ignores them as hits.

    Args:
        hits: document ids [n_queries, up to k + 1], best first.
        scores: float32, of the same shape.
    """
    run: Run = {}
    for query_id, documents, values in zip(query_ids, hits, scores, strict=True):
        found = dict(zip(documents.tolist(), values.tolist(), strict=True))
        found.pop("", None)  # an approximate index may find fewer
        found.pop(query_id, None)
        if len(found) > k:
            found.popitem()  # the last
        run[query_id] = found
    return run


def metrics(qrels: Qrels, run: Run, k_values: Sequence[int]) -> dict[str, float]:
    """NDCG, MAP, Recall and P at each k, and MRR@10, as BEIR's `EvaluateRetrieval` gives them."""
    from beir.retrieval.evaluation import EvaluateRetrieval

    by_kind = EvaluateRetrieval.evaluate(qrels, run, list(k_values))
    # It sorts all that it gets, and MRR@10 looks at ten.
    first_ten = {query: dict(itertools.islice(hits.items(), 10)) for query, hits in run.items()}
    mrr = EvaluateRetrieval.evaluate_custom(qrels, first_ten, [10], "mrr")
    scores = {name: value for kind in by_kind for name, value in kind.items()}
    return {**scores, "MRR@10": mrr["MRR@10"]}


def retention(student: float, teacher: float) -> float | None:
    """The share of the teacher's score that the student keeps, in percent."""
    return round(100 * student / teacher, 2) if teacher else None


def write_trec_run(path: Path, run: Run, tag: str) -> None:
    """Write a run in TREC's format, whole or not at all, as BEIR does: best first, all ranks 0."""
    from beir.util import save_runfile

    with whole_file(path) as partial:
        save_runfile(str(partial), run, tag, max(map(len, run.values()), default=0))
