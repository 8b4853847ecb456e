"""Runs: what counts as a hit, and their files."""

import gzip

import numpy as np
import pytest

from disret.command_line import UserError
from disret.retrieve.runs import (
    check_ids,
    is_run_of,
    read_run,
    run_path,
    run_tag,
    to_run,
    write_run,
)

QRELS = {"q": {"a": 1}}
IDENTITY = {
    "dataset": "cqa/cats", "query_encoder": "./models/a student/", "split": "test",
    "score_function": "dot", "document_weights": "t" * 16, "query_weights": "s" * 16,
    "collection": "c" * 16, "dtype": "bfloat16", "index_dtype": "float16", "query_backend": "torch",
}  # fmt: skip


def test_own_document_does_not_count():
    """ArguAna and Quora: the query stands in the corpus, and k hits remain without it."""
    scores = np.array([[9.0, 8, 7], [3, 2, 1]])
    hits = np.array([["a", "b", "c"], ["c", "b", "a"]])
    run = to_run(["a", "x"], hits, scores, k=2)
    assert run == {"a": {"b": 8, "c": 7}, "x": {"c": 3, "b": 2}}


def test_fewer_documents_than_k():
    run = to_run(["q"], np.array([["a"]]), np.array([[1.0]]), k=5)
    assert run == {"q": {"a": 1.0}}


def test_a_query_without_hits():
    run = to_run(["q"], np.array([["", ""]], dtype=object), np.array([[-np.inf, -np.inf]]), k=5)
    assert run == {"q": {}}


def test_trec_run(tmp_path):
    write_run(tmp_path / "r.trec", {"q": {"a": 1.0, "b": 2.0}}, "tag")
    lines = (tmp_path / "r.trec").read_text().splitlines()
    assert lines == ["q Q0 b 0 2.0 tag", "q Q0 a 0 1.0 tag"]
    run = read_run(tmp_path / "r.trec", QRELS)
    assert run == {"q": {"a": 1.0, "b": 2.0}}


GOOD = "q1 Q0 d1 1 9.0 t\nq1 Q0 d3 2 8.0 t\nq2 Q0 d2 1 9.5 t\n"
RUN = {"q1": {"d1": 9.0, "d3": 8.0}, "q2": {"d2": 9.5}}


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode(),
        f"{GOOD}\n\n".encode(),
        f"\ufeff{GOOD}".encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace(" ", "\t").encode(),
        GOOD.replace(" ", "   ").encode(),
        gzip.compress(GOOD.encode(), mtime=0),
        f"{GOOD}q2 Q0 q2 3 7.5 t\n".encode(),  # the query itself, as BEIR ignores it
    ],
    ids=["as usual", "blank lines", "mark", "Windows", "tabs", "spaces", "gzip", "own document"],
)
def test_runs_of_other_tools(tmp_path, content):
    (tmp_path / "r.trec").write_bytes(content)
    assert read_run(tmp_path / "r.trec", {"q1": {"d1": 1}}) == RUN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no run\n", "line 1: expected query, Q0, document, rank, score and tag, found 2 columns"),
        (GOOD + "q2\td4\t2\n", "line 4: expected query, .* found 3 columns: 'q2"),
        ("q1 Q0 d1 1 9.0\n", "line 1: expected .* found 5 columns"),
        ("q1 Q0 d1 1 best t\n", "line 1: expected .* found 6 columns"),
        (GOOD + "q1 Q0 d1 3 1.0 t\n", "line 4: d1 is a hit of q1 once more"),
        (GOOD.replace("8.0", "nan"), "line 2: the score nan is no number"),
        (GOOD.encode("utf-16"), "is UTF-16 text"),
    ],
)
def test_runs_that_are_refused(tmp_path, content, said):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "r.trec").write_bytes(content)
    with pytest.raises(UserError, match=rf"r\.trec.*{said}"):
        read_run(tmp_path / "r.trec", {"q1": {"d1": 1}})


def test_a_run_of_other_queries(tmp_path):
    write_run(tmp_path / "r.trec", {"q": {"a": 1.0}}, "tag")
    with pytest.raises(UserError, match="none of the queries"):
        read_run(tmp_path / "r.trec", {"another": {"d": 1}})


def test_run_files_are_known_by_name_and_content(tmp_path):
    path = run_path(tmp_path, IDENTITY, 100)
    assert path.name == "cqa-cats.test.models--a--student.torch.dot.bfloat16-float16.top100.trec"
    assert not is_run_of(path, IDENTITY)
    write_run(path, {"q": {"a": 1.0}}, run_tag(IDENTITY))
    assert path.read_text().split()[-1] == "tttttttt-ssssssss-cccccccc"
    assert is_run_of(path, IDENTITY)
    assert not is_run_of(path, {**IDENTITY, "query_weights": "u" * 16})


def test_an_id_with_a_space_is_named():
    with pytest.raises(UserError, match="'d 7' of a document has a space"):
        check_ids(["d6", "d 7"], "document")
