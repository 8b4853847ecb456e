"""How far two searches agree, without judgments, and on what they do not."""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steady import steady

from disret.retrieve import agreement as agreement_module
from disret.retrieve.agreement import RBO_P, agreement, summary, write_worst


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


def test_no_hit_is_no_hit_in_common():
    """An approximate index may find fewer than k; two that find nothing agree."""
    teacher = [[1, -1, -1], [-1, -1, -1], [-1, -1, -1], [1, -1, -1]]
    found = of_rows(teacher, [[1, 2, -1], [-1, -1, -1], [1, -1, -1], [-1, -1, -1]])
    for name in ("overlap@1", "overlap@3", "rbo", "first", "first@10"):
        assert found[name] == pytest.approx([1, 1, 0, 0]), name
    assert of_rows([[1, 2, 3]], [[1, -1, -1]])["overlap@3"] == pytest.approx([1 / 3])


def test_blocks_of_queries(monkeypatch):
    rng = np.random.default_rng(0)
    sides = [*rng.integers(-1, 9, (2, 50, 5)), *rng.standard_normal((2, 50, 4))]
    whole = agreement(*sides, [1, 5])
    monkeypatch.setattr(agreement_module, "BLOCK", 7)
    for name, values in agreement(*sides, [1, 5]).items():
        assert values.tolist() == whole[name].tolist(), name


def test_passages_of_one_document():
    """It may be found several times; its first place counts."""
    rows = [[4, 4, 7, 4]]
    for name, values in of_rows(rows, rows, [1, 3, 4]).items():
        assert values.tolist() == pytest.approx([0 if name == "squared_distance" else 1]), name
    assert of_rows(rows, [[7, 8, 9, 4]], [1, 4])["overlap@4"].tolist() == [1]


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


def test_a_cosine_that_a_long_mean_does_not_raise():
    teacher, student = [[9, 1], [9, -1]], [[9, -1], [9, -3]]
    found = of_vectors(teacher, student)
    assert found["cosine"].min() > 0.9
    assert found["centred cosine"] == pytest.approx([-1, 1])


def test_all_are_numbers_of_each_query():
    found = of_rows([[1, 2, 3]] * 5, [[1, 2, 3]] * 5)
    assert list(found) == [
        "overlap@1", "overlap@3", "rbo", "first", "first@10", "cosine", "centred cosine",
        "squared_distance",
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
    for name in found.keys() - {"cosine", "centred cosine", "squared_distance"}:
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


def test_summary():
    values = np.random.default_rng(0).uniform(0, 1, 50)
    found = summary({"rbo": values, "first": np.ones(50)})
    assert list(found) == ["rbo", "rbo low", "rbo high", "first", "first low", "first high"]
    assert found["rbo low"] < found["rbo"] < found["rbo high"]
    assert found["first"] == found["first low"] == found["first high"] == 1
    assert all(type(value) is float and value == round(value, 4) for value in found.values())


# --- The worst queries ----------------------------------------------------------------------------


def written(path, query, teacher, student, texts=()):
    """What a person is shown of one query, and of hits with their texts."""
    sides = [np.array([hits], dtype=object).reshape(1, -1) for hits in (teacher, student)]
    write_worst(path, [query], [0.5], *sides, dict(texts))
    return path.read_text(encoding="utf-8")


def test_the_worst_are_written_for_a_person(tmp_path):
    path = tmp_path / "new" / "worst.md"
    teacher = np.array([["d1", "d2", ""], ["", "", ""]], dtype=object)
    student = np.array([["d3", "d1", "d4"], ["", "", ""]], dtype=object)
    texts = {"d1": "a text", "d3": "x" * 101, "d4": "y" * 100}
    write_worst(path, ["who?", "why?"], [0.12345, 1.0], teacher, student, texts)
    assert (
        path.read_text(encoding="utf-8")
        == f"""\
# Queries on which student and teacher agree least

✓ marks a document that both found.

## 1. who?

Rank-biased overlap 0.1235

| rank | teacher | student |
|---:|:---|:---|
| 1 | ✓ d1: a text | d3: {"x" * 100}… |
| 2 | d2 | ✓ d1: a text |
| 3 |  | d4: {"y" * 100} |

## 2. why?

Rank-biased overlap 1.0000

| rank | teacher | student |
|---:|:---|:---|
"""
    )


def test_texts_do_no_harm(tmp_path):
    texts = {"a|b": "one\ntwo\r\n | three `four <!-- \\| five"}
    text = written(tmp_path / "w.md", "# a\n\n# b | c", ["a|b"], [], texts)
    assert "## 1. \\# a \\# b \\| c\n" in text
    assert "| 1 | a\\|b: one two \\| three \\`four \\<\\!-- \\\\\\| five |  |\n" in text
    text = written(tmp_path / "w.md", "a\x00\x1b[31m b\u202ec \u200d\u200d", [], [], {})
    assert "## 1. a \\[31m b c \u200d\u200d\n" in text  # nothing that steers a terminal


anything = st.text(st.characters(exclude_categories=["Cs"]))
names = st.lists(anything.filter(bool), max_size=3, unique=True)


@steady
@given(query=anything, teacher=names, student=names, text=anything)
def test_any_text_stays_in_its_cell(tmp_path, query, teacher, student, text):
    shown = written(tmp_path / "w.md", query, teacher, student, dict.fromkeys(teacher, text))
    lines = shown.splitlines()
    rows = lines[lines.index("|---:|:---|:---|") + 1 :]
    assert len(rows) == max(len(teacher), len(student))
    # What a backslash stands before is a letter, the bar between cells is not.
    assert all(re.sub(r"\\.", "", row).count("|") == 4 for row in rows)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "w.md"
    before = written(path, "who?", [], [])
    with pytest.raises(UnicodeEncodeError):
        written(path, "half of a pair: \ud800", [], [])
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.glob(".*")) == []
