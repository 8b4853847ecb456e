"""Scores of a run by BEIR's evaluation, how sure a mean is, and whether two differ by chance."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from disret.command_line import say
from disret.data.collection import Qrels
from disret.retrieve.runs import Run

RESAMPLES: dict[str, Any] = {"n_resamples": 9999, "batch": 256, "rng": 0}


def metrics(qrels: Qrels, run: Run, k_values: Sequence[int]) -> dict[str, float]:
    """NDCG, MAP, Recall and P at each k, and MRR@10, as BEIR's `EvaluateRetrieval` gives them.

    It is said if no hit is judged, as then the ids of both sides may not be of the same documents.
    """
    from beir.retrieval.evaluation import EvaluateRetrieval

    by_kind = EvaluateRetrieval.evaluate(qrels, run, list(k_values))
    # It sorts all that it gets, and MRR@10 looks at ten.
    first_ten = {query: dict(itertools.islice(hits.items(), 10)) for query, hits in run.items()}
    if not any(qrels.get(query, {}).keys() & hits.keys() for query, hits in first_ten.items()):
        hit, judged = (next(itertools.chain(*each.values()), None) for each in (first_ten, qrels))
        say(f"none of the first 10 hits of any query is in the judgments: hits are {hit!r} and so "
            f"on, judged documents {judged!r} and so on.")  # fmt: skip
    mrr = EvaluateRetrieval.evaluate_custom(qrels, first_ten, [10], "mrr")
    scores = {name: value for kind in by_kind for name, value in kind.items()}
    return {**scores, "MRR@10": mrr["MRR@10"]}


def per_query(qrels: Qrels, run: Run, measure: str = "ndcg_cut.10") -> np.ndarray:
    """A measure of each judged query, float64 [n_queries] in their order; 0 without any hit."""
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {measure}).evaluate(run)
    column = measure.replace(".", "_")
    return np.array([found.get(query, {}).get(column, 0.0) for query in qrels])


def retention(student: float, teacher: float) -> float | None:
    """The share of the teacher's score that the student keeps, in percent."""
    return round(100 * student / teacher, 2) if teacher else None


def p_value(differences: np.ndarray) -> float:
    """How often the mean would be as far from 0 if each difference changed its sign at random."""
    from scipy.stats import permutation_test

    test = permutation_test((differences,), np.mean, permutation_type="samples", **RESAMPLES)
    return float(test.pvalue)


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Paired randomisation test.

    Args:
        first, second: scores [n_queries] of the same queries in the same order.

    Returns:
        `first` and `second`, the means; `difference` of the second from the first; on how many
        queries the second is `better` and `worse`; and `p`, two-sided, of a single query 1.
    """
    differences = second - first
    return {
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": float(differences.mean()),
        "better": int((differences > 0).sum()),
        "worse": int((differences < 0).sum()),
        "p": p_value(differences) if len(differences) > 1 else 1.0,
    }


def comparisons(dataset: str, measure: str, encoders: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Whether each later query encoder is higher or lower than the first, in a sentence.

    Args:
        encoders: of each the measure of every query, [n_queries].
    """
    first, *others = encoders or [None]
    for name in others:
        found = compare(encoders[first], encoders[name])
        more = "higher" if found["difference"] > 0 else "lower"
        yield (
            f"{dataset}: {measure} of {name} is {more} than that of {first} by "
            f"{abs(found['difference']):.4f} (p = {found['p']:.4f})."
        )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over queries, by a percentile bootstrap.

    Args:
        values: [n_queries]; where all are the same, the interval is a point.
    """
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.mean, method="percentile", **RESAMPLES).confidence_interval
    return float(found.low), float(found.high)
