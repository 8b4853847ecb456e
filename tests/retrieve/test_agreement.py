"""How far two searches agree, without judgments."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import steady

from disret.retrieve.agreement import (
    RBO_P,
    agreement,
    interval,
    paired,
    summary,
)

few = settings(steady, max_examples=25)


def of_rows(teacher, student, k_values=(1, 3)):
    """The agreement of two searches; the embeddings do not matter."""
    teacher, student = np.array(teacher), np.array(student)
    vectors = np.ones((len(teacher), 2), dtype=np.float32)
    return agreement(teacher, student, vectors, vectors, k_values)


def of_vectors(teacher, student):
    rows = np.zeros((len(teacher), 1), dtype=np.int64)
    teacher, student = np.array(teacher, np.float32), np.array(student, np.float32)
    return agreement(rows, rows, teacher, student, [])


def published_rbo(left, right, p):
    """Equation 32 of the paper, of a short and a long list, term by term."""
    short, long = sorted((list(left), list(right)), key=len)
    s, l = len(short), len(long)  # noqa: E741

    def x(d):
        return len(set(short[:d]) & set(long[:d]))

    seen = sum(x(d) / d * p**d for d in range(1, l + 1))
    unseen = sum(x(s) * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (seen + unseen) + ((x(l) - x(s)) / l + x(s) / s) * p**l


# --- Each measure -------------------------------------------------------------------------------


def test_overlap_by_hand():
    found = of_rows([[1, 2, 3], [1, 2, 3]], [[1, 4, 2], [3, 2, 1]], [1, 2, 3, 100])
    assert found["overlap@1"].tolist() == [1, 0]
    assert found["overlap@2"].tolist() == [0.5, 0.5]
    assert found["overlap@3"].tolist() == pytest.approx([2 / 3, 1])
    # There are three hits.
    assert found["overlap@100"].tolist() == found["overlap@3"].tolist()


def test_rbo_by_hand():
    """Of three documents the first is shared from rank 1, the second from rank 3."""
    p = RBO_P
    expected = (1 - p) / p * (p + 1 / 2 * p**2 + 2 / 3 * p**3) + 2 / 3 * p**3
    assert of_rows([[1, 2, 3]], [[1, 4, 2]])["rbo"] == pytest.approx(expected)
    assert of_rows([[1, 2, 3, 4, 5]], [[2, 3, 4, 1, 5]])["rbo"] == pytest.approx(0.828)


@pytest.mark.parametrize("k", [1, 2, 10, 101])
def test_rbo_is_the_papers(k):
    rng = np.random.default_rng(k)
    teacher, student = (np.stack([rng.permutation(2 * k)[:k] for _ in range(50)]) for _ in range(2))
    found = of_rows(teacher, student)["rbo"]
    expected = [published_rbo(*pair, RBO_P) for pair in zip(teacher, student, strict=True)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_same_and_disjoint():
    rows = np.arange(20).reshape(2, 10)
    same, disjoint = of_rows(rows, rows), of_rows(rows, rows + 20)
    for name in ("overlap@1", "overlap@3", "rbo", "first", "first@10"):
        assert same[name] == pytest.approx(1)
        assert disjoint[name].tolist() == [0, 0]


def test_the_teachers_first():
    teacher = [list(range(12))] * 4
    first, second, tenth, eleventh = (list(range(1, 12)) for _ in range(4))
    for rows, place in ((first, 0), (second, 1), (tenth, 9), (eleventh, 10)):
        rows.insert(place, 0)
    found = of_rows(teacher, [first, second, tenth, eleventh])
    assert found["first"].tolist() == [1, 0, 0, 0]
    assert found["first@10"].tolist() == [1, 1, 1, 0]


def test_the_teachers_first_among_fewer_than_ten():
    assert of_rows([[1, 2], [1, 2]], [[2, 1], [3, 2]])["first@10"].tolist() == [1, 0]


def test_embeddings_by_hand():
    teacher, student = [[3, 4], [1, 0], [1, 0], [0, 0]], [[6, 8], [0, 2], [-1, 0], [1, 1]]
    found = of_vectors(teacher, student)
    assert found["cosine"] == pytest.approx([1, 0, -1, 0])
    assert found["squared_distance"].tolist() == [25, 5, 4, 2]


def test_all_are_numbers_of_each_query():
    found = of_rows([[1, 2, 3]] * 5, [[1, 2, 3]] * 5)
    assert list(found) == [
        "overlap@1", "overlap@3", "rbo", "first", "first@10", "cosine", "squared_distance",
    ]  # fmt: skip
    assert all(values.shape == (5,) and values.dtype == np.float64 for values in found.values())


def test_many_queries_take_no_time():
    """MS MARCO's 7,000, each with 101 hits."""
    rng = np.random.default_rng(0)
    rows = rng.permuted(np.tile(np.arange(150), (7000, 1)), axis=1)
    start = time.process_time()
    of_rows(rows[:, :101], rows[:, 49:], [10, 100])
    assert time.process_time() - start < 2  # 0.3 s on an idle core


@st.composite
def searches(draw):
    """Two searches of a few queries in an index of 16 documents."""
    k = draw(st.integers(1, 12))
    hits = st.lists(st.integers(0, 15), min_size=k, max_size=k, unique=True)
    pairs = draw(st.lists(st.tuples(hits, hits), min_size=1, max_size=4))
    return tuple(map(list, zip(*pairs, strict=True)))


@steady
@given(pair=searches(), k_values=st.lists(st.integers(1, 20), max_size=4))
def test_shares_are_shares(pair, k_values):
    found = of_rows(*pair, k_values)
    for name in found.keys() - {"cosine", "squared_distance"}:
        assert (found[name] >= 0).all()
        assert (found[name] <= 1).all()
    assert (found["first"] <= found["first@10"]).all()


@steady
@given(pair=searches(), k_values=st.lists(st.integers(1, 20), max_size=4))
def test_neither_side_matters(pair, k_values):
    one, other = of_rows(*pair, k_values), of_rows(*pair[::-1], k_values)
    for name in one.keys() - {"first@10"}:
        assert one[name].tolist() == other[name].tolist()


numbers = st.floats(-(2.0**60), 2.0**60, width=32)
pairs_of_vectors = st.lists(
    st.tuples(*2 * [st.lists(numbers, min_size=3, max_size=3)]), min_size=1, max_size=4
)


@steady
@given(pairs=pairs_of_vectors)
def test_angles_and_distances_have_their_bounds(pairs):
    found = of_vectors(*zip(*pairs, strict=True))
    assert (np.abs(found["cosine"]) <= 1).all()
    assert (found["squared_distance"] >= 0).all()
    same = of_vectors(*zip(*[(left, left) for left, _ in pairs], strict=True))
    assert same["cosine"] == pytest.approx([float(any(left)) for left, _ in pairs])
    assert not same["squared_distance"].any()


# --- Over the queries ---------------------------------------------------------------------------


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
    better = paired(first, first + rng.uniform(0, 0.1, 30))
    assert better["first"] == pytest.approx(first.mean())
    assert better["difference"] == pytest.approx(better["second"] - better["first"])
    assert better["difference"] > 0
    assert better["p"] < 0.001
    chance = paired(first, first + np.resize([0.1, -0.1], 30))
    assert chance["difference"] == pytest.approx(0)
    assert chance["p"] > 0.9


@pytest.mark.parametrize("queries", [1, 30])
def test_the_same_values_do_not_differ(queries):
    values = np.linspace(0, 1, queries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired(values, values)
    assert (found["difference"], found["p"]) == (0, 1)


def test_summary():
    values = np.random.default_rng(0).uniform(0, 1, 50)
    found = summary({"rbo": values, "first": np.ones(50)})
    assert list(found) == ["rbo", "rbo low", "rbo high", "first", "first low", "first high"]
    assert found["rbo low"] < found["rbo"] < found["rbo high"]
    assert found["first"] == found["first low"] == found["first high"] == 1
    assert all(type(value) is float and value == round(value, 4) for value in found.values())
