"""The scores of a run."""

import numpy as np
import pytest

from disret.retrieve.metrics import metrics, per_query, retention


def test_metrics_by_hand():
    qrels = {"q": {"a": 1, "b": 1}}
    scores = metrics(qrels, {"q": {"x": 3.0, "a": 2.0, "b": 1.0}}, [1, 3])
    ideal = 1 + 1 / np.log2(3)
    assert scores["NDCG@3"] == pytest.approx((1 / np.log2(3) + 1 / 2) / ideal, abs=1e-5)
    assert scores["NDCG@1"] == scores["P@1"] == scores["Recall@1"] == 0
    assert scores["Recall@3"] == 1
    assert scores["P@3"] == pytest.approx(2 / 3, abs=1e-5)
    assert scores["MRR@10"] == 0.5
    assert scores["MAP@3"] == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-5)


def test_retention():
    assert retention(0.3, 0.4) == 75.0
    assert retention(0.3, 0.0) is None


def test_scores_of_each_query():
    """In the order of the judgments; a query that the run lacks scores nothing."""
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(3)}
    run = {"q1": {"x": 2.0, "d1": 1.0}, "q0": {"d0": 1.0}}
    assert per_query(qrels, run) == pytest.approx([1, 0.6309, 0], abs=1e-4)
