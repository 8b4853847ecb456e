"""Where a student agrees least with its teacher, in a file for a person."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steady import steady

from disret.retrieve.failures import Failure, worst, write_worst


def test_the_worst_come_first():
    per_query = {"rbo": np.array([0.5, 0.1, 0.5, 0.1, 0.9]), "first": np.array([1, 1, 0, 1, 1])}
    assert worst(per_query, 3).tolist() == [1, 3, 0]
    assert worst(per_query, 2, by="first").tolist() == [2, 0]
    assert worst(per_query, 9).tolist() == [1, 3, 0, 2, 4]


def test_the_worst_are_written_for_a_person(tmp_path):
    path = tmp_path / "new" / "worst.md"
    teacher = [("d1", "a text"), ("d2", "")]
    student = [("d3", "x" * 101), ("d1", "a text"), ("d4", "y" * 100)]
    write_worst(path, [Failure("who?", 0.12345, teacher, student), Failure("why?", 1.0, [], [])])
    assert (
        path.read_text(encoding="utf-8")
        == f"""\
# Queries on which student and teacher agree least

✓ marks a document that both found.

## 1. who?

Agreement 0.1235

| rank | teacher | student |
|---:|:---|:---|
| 1 | ✓ d1: a text | d3: {"x" * 100}… |
| 2 | d2 | ✓ d1: a text |
| 3 |  | d4: {"y" * 100} |

## 2. why?

Agreement 1.0000

| rank | teacher | student |
|---:|:---|:---|
"""
    )


def test_texts_do_no_harm(tmp_path):
    hits = [("a|b", "one\ntwo\r\n | three `four <!-- \\| five")]
    write_worst(tmp_path / "w.md", [Failure("# a\n\n# b | c", 0.5, hits, [])])
    text = (tmp_path / "w.md").read_text(encoding="utf-8")
    assert "## 1. # a # b \\| c\n" in text
    assert "| 1 | a\\|b: one two \\| three \\`four \\<!-- \\\\\\| five |  |\n" in text


anything = st.text(st.characters(exclude_categories=["Cs"]))
hits = st.lists(st.tuples(anything, anything), max_size=3)


@steady
@given(query=anything, teacher=hits, student=hits)
def test_any_text_stays_in_its_cell(tmp_path, query, teacher, student):
    write_worst(tmp_path / "w.md", [Failure(query, 0.5, teacher, student)])
    lines = (tmp_path / "w.md").read_text(encoding="utf-8").splitlines()
    rows = lines[lines.index("|---:|:---|:---|") + 1 :]
    assert len(rows) == max(len(teacher), len(student))
    # What a backslash stands before is a letter, the bar between cells is not.
    assert all(re.sub(r"\\.", "", row).count("|") == 4 for row in rows)


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "w.md"
    write_worst(path, [])
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_worst(path, [Failure("half of a pair: \ud800", 0.5, [], [])])
    assert path.read_bytes() == before
    assert list(tmp_path.glob(".*")) == []
