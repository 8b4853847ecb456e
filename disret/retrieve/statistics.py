"""How sure a mean over queries is, and whether those of two query encoders differ by chance."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

RESAMPLES: dict[str, Any] = {"n_resamples": 9999, "batch": 256, "rng": 0}


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
