"""Runs: what counts as a hit, and their files."""

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


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other").write_text("no run\n")
    with pytest.raises(UserError, match="TREC run"):
        read_run(tmp_path / "other", QRELS)
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
