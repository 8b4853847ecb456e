"""The table of scores: what is known, what is kept, and what counts once."""

from types import SimpleNamespace

import pytest

from disret.retrieve.runs import identify, run_path, run_tag, write_run
from disret.retrieve.scores import (
    Scores,
    average_parts,
    mean_retention,
    newest_scores,
    summary,
)
from disret.tables import read_rows

TEACHER = SimpleNamespace(name="t", backend="torch", fingerprint="t" * 64, max_length=256)
STUDENT = SimpleNamespace(name="s", backend="export", fingerprint="s" * 64, max_length=256)
SETTINGS = {"score_function": "dot", "dtype": "float32", "index_dtype": "float16"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.csv"


def about(student, dataset="a", split="test", content="c" * 64, teacher=TEACHER, **changes):
    return identify(dataset, split, content, teacher, student, **{**SETTINGS, **changes})


def values(ndcg):
    names = ("NDCG@10", "MAP@10", "Recall@10", "P@10", "MRR@10")
    return {**dict.fromkeys(names, ndcg), "documents": 5, "queries": 2}


def test_a_row_is_known_in_a_later_run(path):
    first, identity = Scores(path, [10]), about(TEACHER)
    assert first.known(identity) is None
    (row,) = first.add([(identity, values(0.5))])
    assert row["retention"] == 100.0
    later = Scores(path, [10])
    assert later.known(identity) == values(0.5)
    assert Scores(path, [5]).known(identity) is None  # cut-off
    for other in (
        about(TEACHER, split="dev"),
        about(TEACHER, content="d" * 64),
        about(STUDENT),
        about(TEACHER, dtype="bfloat16"),
    ):
        assert later.known(other) is None
    later.add([(identity, values(0.5))])
    assert len(read_rows(path)) == 1


def test_a_name_does_not_matter(path):
    found = Scores(path, [10])
    found.add([(about(TEACHER), values(0.5))])
    renamed = SimpleNamespace(**{**vars(TEACHER), "name": "./t"})
    assert found.known(about(renamed, teacher=renamed)) == values(0.5)


def test_retention_is_of_the_same_index(path):
    Scores(path, [10]).add([(about(STUDENT), values(0.4))])
    # As tables have it in which the teacher's own score was not asked for.
    path.write_text(path.read_text().replace("100.0", ""))
    of_teacher = about(TEACHER), values(0.5)
    rows = Scores(path, [10]).add([of_teacher, (about(STUDENT), values(0.4))])
    assert [row["retention"] for row in rows] == [100, 80]
    assert [row["retention"] for row in read_rows(path)] == [None, 100, 80]
    Scores(path, [10]).add([of_teacher, (about(STUDENT), values(0.4))])
    assert len(read_rows(path)) == 3


def test_a_missing_run_file_makes_a_row_incomplete(path, tmp_path):
    found = Scores(path, [10], tmp_path / "runs")
    identity = about(STUDENT, "a/b", content="c")
    found.add([(identity, values(0.4))])
    assert found.known(identity) is None
    file = run_path(tmp_path / "runs", identity, 10)
    write_run(file, {"q": {"d": 1.0}}, run_tag(identity))
    assert found.known(identity) == values(0.4)
    # Of other weights under the same name, it is another run.
    file.write_text(file.read_text().replace("ssss", "uuuu"))
    assert found.known(identity) is None


def rows_of(*cells):
    return [{"document_weights": w, "dataset": d, "query_encoder": e, "query_backend": "torch",
             "retention": r, "NDCG@10": r, "documents": 1, "queries": 1, "query_weights": e}
            for w, d, e, r in cells]  # fmt: skip


def test_newest_scores_of_one_index():
    rows = rows_of(("old", "a", "s", 1.0), ("w", "a", "s", 2.0), ("w", "cqa/x", "s", 3.0),
                   ("w", "cqa", "s", 4.0), ("w", "a", "s", 5.0), ("w", "a", "u", None))  # fmt: skip
    found = newest_scores(rows)
    assert {name: list(sets) for name, sets in found.items()} == {"s": ["a", "cqa"], "u": ["a"]}
    assert mean_retention(found["s"].values()) == 4.5
    assert mean_retention(found["u"].values()) is None
    assert mean_retention(newest_scores(rows, document_weights="old")["s"].values()) == 1.0
    assert newest_scores([]) == {}


def test_parts_are_averaged():
    found = table_of_parts = [
        ({"dataset": f"cqa/{name}", "collection": name}, values(ndcg))
        for name, ndcg in (("x", 0.2), ("y", 0.4))
    ]
    identity, means = average_parts(found)
    assert identity["dataset"] == "cqa"
    assert identity["collection"] != average_parts(table_of_parts[::-1])[0]["collection"]
    assert means["NDCG@10"] == pytest.approx(0.3)
    assert (means["documents"], means["queries"]) == (10, 4)


def test_summary_of_two_and_of_many():
    two = rows_of(("t", "a", "t", 100.0), ("t", "a", "s", 80.0), ("t", "b", "t", 100.0),
                  ("t", "b", "s", 60.0))  # fmt: skip
    lines = summary(two, "NDCG@10")
    assert [line["dataset"] for line in lines] == ["a", "b", "average"]
    assert lines[-1]["retention %"] == 70.0
    many = summary([*two, *rows_of(("t", "a", "u", 50.0))], "NDCG@10")
    assert [line["query encoder"] for line in many] == ["t", "s", "u"]
    assert [line["retention %"] for line in many] == [100.0, 70.0, 50.0]
