"""BM25, and a dense run fused with it."""

import json

import pytest
from conftest import load

from disret.data.collection import Collection
from disret.retrieve.runs import write_run
from disret.retrieve.words import Words, fused
from disret.tables import read_rows

hybrid = load("beyond/hybrid")

DOCUMENTS = {
    "cats": "Cats sleep in the sun all day",
    "dogs": "Dogs chase cats through the garden",
    "sun": "The sun is a star",
    "both": "cats",
}


@pytest.fixture
def animals(tmp_path):
    folder = tmp_path / "animals"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": id, "title": "", "text": text}) for id, text in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    queries = {"q1": "sleeping cats sun", "both": "cats garden", "q3": "of the"}
    lines = [json.dumps({"_id": id, "text": text}) for id, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\tcats\t1\nboth\tdogs\t1\nq3\tsun\t1\n"
    )
    return Collection("animals", folder)


def test_documents_with_the_words_of_a_query(animals):
    run = Words(animals.documents()).run(animals.queries())
    assert list(run["q1"]) == ["cats", "sun", "both", "dogs"]
    # A query's own document is no hit, nor is one without its words.
    assert list(run["both"]) == ["dogs", "cats"]
    assert run["q3"] == {}
    scores = list(run["q1"].values())
    assert scores == sorted(scores, reverse=True)


def test_ranks_alone_decide_what_is_fused():
    words = {"q": {"a": 9.0, "b": 8.0, "c": 0.1}, "r": {}}
    vectors = {"q": {"b": 0.3, "d": 0.2, "a": 0.1}, "r": {"a": 0.5}}
    run = fused([words, vectors])
    assert run["q"]["a"] == pytest.approx(1 / 61 + 1 / 63)
    assert run["q"]["b"] == pytest.approx(1 / 62 + 1 / 61)
    assert sorted(run["q"], key=run["q"].get, reverse=True) == ["b", "a", "d", "c"]
    assert run["r"] == {"a": pytest.approx(1 / 61)}


def test_command(call, animals, tmp_path):
    path = tmp_path / "dense.trec"
    write_run(path, {"q1": {"dogs": 0.9, "cats": 0.8}, "both": {"dogs": 1.0}}, "dense")
    table = tmp_path / "hybrid.csv"
    outcome = call("beyond/hybrid", "--dataset", animals.folder, path, "--output", table)
    assert outcome.status == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[2][:2] == ["BM25", "0.6667"]
    # The dense run has q1's document second; fused, it is first.
    assert lines[3][:6] == ["dense.trec", "0.5436", "0.6667", "0.1230", "1", "0"]
    words, dense = read_rows(table)
    assert (words["dataset"], words["run"], words["with BM25"]) == ("animals", "BM25", None)
    assert dense["NDCG@10"] == pytest.approx(0.5436, abs=1e-4)
    assert dense["with BM25"] == pytest.approx(0.6667, abs=1e-4)
