"""The table of scores: what is known, what is kept, and what counts once."""

from types import SimpleNamespace

import pytest

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


def table(tmp_path, **changes):
    return Scores(tmp_path / "r.csv", [10], **{**SETTINGS, **changes})


def values(ndcg):
    names = ("NDCG@10", "MAP@10", "Recall@10", "P@10", "MRR@10")
    return {**dict.fromkeys(names, ndcg), "documents": 5, "queries": 2}


def test_a_row_is_known_in_a_later_run(tmp_path):
    first = table(tmp_path)
    identity = first.identify("a", "test", "c" * 64, TEACHER, TEACHER)
    assert first.scores(identity) is None
    assert first.add(identity, values(0.5))["retention"] == 100.0
    later = table(tmp_path)
    assert later.scores(identity) == values(0.5)
    assert Scores(tmp_path / "r.csv", [5], **SETTINGS).scores(identity) is None  # cut-off
    for other in (
        later.identify("a", "dev", "c" * 64, TEACHER, TEACHER),
        later.identify("a", "test", "d" * 64, TEACHER, TEACHER),
        later.identify("a", "test", "c" * 64, TEACHER, STUDENT),
        table(tmp_path, dtype="bfloat16").identify("a", "test", "c" * 64, TEACHER, TEACHER),
    ):
        assert later.scores(other) is None
    later.add(identity, values(0.5))
    assert len(read_rows(tmp_path / "r.csv")) == 1


def test_a_name_does_not_matter(tmp_path):
    found = table(tmp_path)
    found.add(found.identify("a", "test", "c", TEACHER, TEACHER), values(0.5))
    renamed = SimpleNamespace(**{**vars(TEACHER), "name": "./t"})
    assert found.scores(found.identify("a", "test", "c", renamed, renamed)) == values(0.5)


def test_retention_is_of_the_same_index(tmp_path):
    found = table(tmp_path)
    student = found.identify("a", "test", "c", TEACHER, STUDENT)
    assert found.add(student, values(0.4))["retention"] is None
    found.add(found.identify("b", "test", "c", TEACHER, TEACHER), values(0.9))
    assert found.add(student, values(0.4))["retention"] is None
    found.add(found.identify("a", "test", "c", TEACHER, TEACHER), values(0.5))
    assert found.add(student, values(0.4))["retention"] == 80.0
    assert [row["retention"] for row in read_rows(tmp_path / "r.csv")] == [None, 100, 100, 80]


def test_a_missing_run_file_makes_a_row_incomplete(tmp_path):
    found = Scores(tmp_path / "r.csv", [10], tmp_path / "runs", **SETTINGS)
    identity = found.identify("a/b", "test", "c", TEACHER, STUDENT)
    scores = found.score(identity, {"q": {"d": 1}}, {"q": {"d": 1.0}})
    assert scores["NDCG@10"] == 1.0
    found.add(identity, {**scores, "documents": 1, "queries": 1})
    assert found.scores(identity) is not None
    (file,) = (tmp_path / "runs").iterdir()
    assert file.name == "a-b.test.s.export.dot.float32-float16.top10.trec"
    assert file.read_text().split()[-1] == "tttttttt-ssssssss-c"
    # Of other weights under the same name, it is another run.
    file.write_text(file.read_text().replace("ssss", "uuuu"))
    assert found.scores(identity) is None
    file.unlink()
    assert found.scores(identity) is None


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
