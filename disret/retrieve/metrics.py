"""Scores of a run, by BEIR's evaluation (pytrec_eval)."""

import itertools
from collections.abc import Sequence

import numpy as np

from disret.data.collection import Qrels
from disret.retrieve.runs import Run


def metrics(qrels: Qrels, run: Run, k_values: Sequence[int]) -> dict[str, float]:
    """NDCG, MAP, Recall and P at each k, and MRR@10, as BEIR's `EvaluateRetrieval` gives them."""
    from beir.retrieval.evaluation import EvaluateRetrieval

    by_kind = EvaluateRetrieval.evaluate(qrels, run, list(k_values))
    # It sorts all that it gets, and MRR@10 looks at ten.
    first_ten = {query: dict(itertools.islice(hits.items(), 10)) for query, hits in run.items()}
    mrr = EvaluateRetrieval.evaluate_custom(qrels, first_ten, [10], "mrr")
    scores = {name: value for kind in by_kind for name, value in kind.items()}
    return {**scores, "MRR@10": mrr["MRR@10"]}


def per_query(qrels: Qrels, run: Run) -> np.ndarray:
    """nDCG@10 of each judged query, float64 [n_queries] in their order; 0 where there is no hit."""
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return np.array([found.get(query, {}).get("ndcg_cut_10", 0.0) for query in qrels])


def retention(student: float, teacher: float) -> float | None:
    """The share of the teacher's score that the student keeps, in percent."""
    return round(100 * student / teacher, 2) if teacher else None
