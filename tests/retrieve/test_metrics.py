"""Runs and their scores."""

import numpy as np
import pytest

from disret.retrieve.metrics import metrics, retention, to_run, write_trec_run


def test_own_document_does_not_count():
    """ArguAna and Quora: the query stands in the corpus, and k hits remain without it."""
    scores = np.array([[9.0, 8, 7], [3, 2, 1]])
    hits = np.array([["a", "b", "c"], ["c", "b", "a"]])
    run = to_run(["a", "x"], hits, scores, k=2)
    assert run == {"a": {"b": 8, "c": 7}, "x": {"c": 3, "b": 2}}


def test_fewer_documents_than_k():
    run = to_run(["q"], np.array([["a"]]), np.array([[1.0]]), k=5)
    assert run == {"q": {"a": 1.0}}


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


def test_trec_run(tmp_path):
    write_trec_run(tmp_path / "r.trec", {"q": {"a": 1.0, "b": 2.0}}, "tag")
    lines = (tmp_path / "r.trec").read_text().splitlines()
    assert lines == ["q Q0 b 0 2.0 tag", "q Q0 a 0 1.0 tag"]
