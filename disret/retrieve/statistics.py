"""How sure a mean over queries is, and whether those of two query encoders differ by chance."""

from collections.abc import Sequence

import numpy as np

from disret.data.collection import Qrels
from disret.retrieve.runs import Run

METRIC = "ndcg_cut.10"
RESAMPLES = 9999
BATCH = 256  # of them drawn together


def per_query(qrels: Qrels, run: Run) -> np.ndarray:
    """nDCG@10 of each judged query, float64 [n_queries] in their order; 0 where there is no hit."""
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {METRIC}).evaluate(run)
    return np.array([found.get(query, {}).get("ndcg_cut_10", 0.0) for query in qrels])


def p_value(differences: np.ndarray) -> float:
    """How often the mean would be as far from 0 if each difference changed its sign at random."""
    from scipy.stats import permutation_test

    test = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, batch=BATCH,
        rng=0,
    )  # fmt: skip
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


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over queries, by a percentile bootstrap.

    Args:
        values: [n_queries]; where all are the same, the interval is a point.
    """
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=BATCH, method="percentile", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def retention_interval(
    students: Sequence[np.ndarray], teachers: Sequence[np.ndarray]
) -> tuple[float, float]:
    """95 % interval of mean retention over data sets, by a paired bootstrap over queries.

    Args:
        students, teachers: by data set, a score for each query, of the same queries.

    Returns:
        In percent.
    """
    from scipy.stats import bootstrap

    def ratio(student: np.ndarray, teacher: np.ndarray, axis: int) -> np.ndarray:
        return 100 * student.mean(axis) / teacher.mean(axis)

    draws = [
        bootstrap(
            pair, ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=BATCH,
            method="percentile", rng=0,
        ).bootstrap_distribution
        for pair in zip(students, teachers, strict=True)
    ]  # fmt: skip
    # The sets are drawn independently: their distributions, each in its own order, are averaged.
    rng = np.random.default_rng(0)
    low, high = np.percentile(np.mean([rng.permutation(d) for d in draws], axis=0), [2.5, 97.5])
    return float(low), float(high)
