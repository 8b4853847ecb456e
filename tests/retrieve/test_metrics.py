"""The scores of a run, how sure a mean is, and two query encoders compared."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import steady

from disret.retrieve.metrics import compare, comparisons, interval, metrics, per_query, retention

few = settings(steady, max_examples=25)


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


def test_another_measure_per_query():
    """Of a teacher's ten best, the share among a student's ten best."""
    teacher = {"q": {f"d{n}": 1 for n in range(10)}}
    student = {"q": {f"d{n}": float(-n) for n in range(4, 30)}}
    assert per_query(teacher, student, "recall.10") == pytest.approx([0.6])


@few
@given(values=st.lists(st.floats(0, 1, width=16), min_size=1, max_size=40))
def test_an_interval_holds_the_mean(values):
    low, high = interval(np.array(values))
    assert low - 1e-12 <= np.mean(values) <= high + 1e-12
    assert min(values) <= low + 1e-12
    assert high - 1e-12 <= max(values)


def test_an_interval_narrows_with_queries():
    values = np.random.default_rng(0).uniform(0, 1, 400)
    few, many = interval(values[:40]), interval(values)
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    # As the normal distribution has it.
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert interval(values) == many


@pytest.mark.parametrize("values", [[0.3], [0.5, 0.5, 0.5]])
def test_the_interval_of_one_value_is_a_point(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval(np.array(values)) == (values[0], values[0])


def test_pairs():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.2, 0.8, 30)
    better = compare(first, first + rng.uniform(0, 0.1, 30))
    assert better["first"] == pytest.approx(first.mean())
    assert better["difference"] == pytest.approx(better["second"] - better["first"])
    assert better["difference"] > 0
    assert better["p"] < 0.001
    assert (better["better"], better["worse"]) == (30, 0)
    chance = compare(first, first + np.resize([0.1, -0.1], 30))
    assert chance["difference"] == pytest.approx(0)
    assert chance["p"] > 0.9


def test_pairs_in_words():
    first = np.linspace(0.2, 0.8, 30)
    lines = comparisons("log", "rbo", {"a": first, "b": first - 0.1, "c": first + 0.1})
    assert list(lines) == [
        "log: rbo of b is lower than that of a by 0.1000 (p = 0.0002).",
        "log: rbo of c is higher than that of a by 0.1000 (p = 0.0002).",
    ]


@pytest.mark.parametrize("queries", [1, 30])
def test_the_same_values_do_not_differ(queries):
    values = np.linspace(0, 1, queries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(values, values)
    assert (found["difference"], found["p"]) == (0, 1)
