"""Each example on its own database: the hits of a student's queries are those of exact search."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from postgres import postgres
from sentence_transformers import SentenceTransformer

from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve.export import export

DOCUMENTS = [f"{i * i} things that {i % 7} people have seen in {i} days" for i in range(60)]
QUERIES = [f"who has seen {i * 3} things" for i in range(8)]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory) -> Path:
    from distill import init_from_layers

    folder = tmp_path_factory.mktemp("models") / "student"
    model = init_from_layers(load_encoder(str(teacher), "cpu"), [0, 3])
    model.save_pretrained(str(folder), create_model_card=False)
    export(load_encoder(str(folder), "cpu"), folder, QUERIES, folder)
    return folder


@pytest.fixture
def example(monkeypatch, capsys, tmp_path):
    """Run an example as its user does, but in this process, and return what it prints."""
    (tmp_path / "documents.txt").write_text("".join(f"{text}\n" for text in DOCUMENTS))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_module(f"examples.{name}", run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def check(example, student, teacher):
    """Run an example on every query, the later times without the teacher, and compare the hits."""
    vectors = SentenceTransformer(str(teacher), device="cpu").encode_document(DOCUMENTS)
    encoder = QueryEncoder.from_pretrained(student)

    def run(name: str, *places: str, needs_teacher: bool = False) -> None:
        for number, query in enumerate(QUERIES):
            named = teacher if needs_teacher or not number else "gone"
            out = example(name, named, student, "documents.txt", *places, query)
            found = [line.split("\t") for line in out.splitlines()]
            scores = vectors @ encoder.encode([query])[0]
            nearest = np.argsort(-scores, kind="stable")[:10]
            assert [text for _, text in found] == [DOCUMENTS[row] for row in nearest]
            shown = [float(score) for score, _ in found]
            np.testing.assert_allclose(shown, scores[nearest], atol=1e-4)

    return run


def test_faiss(check):
    check("faiss_index", "documents.faiss")


def test_faiss_with_a_note_of_what_made_the_index(check, student):
    record = student / "onnx" / "index.json"
    shutil.copy(record, "documents.json")
    check("faiss_index", "documents.faiss")
    other = {**json.loads(record.read_text()), "encoder_sha256": "0a" * 32}
    Path("documents.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"for an index of .*, but documents\.json is of"):
        check("faiss_index", "documents.faiss")


def test_qdrant(check):
    pytest.importorskip("qdrant_client", reason="pip install -r examples/requirements.txt")
    check("qdrant_local", "storage")


def test_pgvector(check):
    pytest.importorskip("psycopg", reason="pip install -r examples/requirements.txt")
    with postgres() as database:
        check("pgvector_postgres", database)


def test_langchain(check):
    pytest.importorskip("langchain_core", reason="pip install -r examples/requirements.txt")
    check("langchain_embeddings", needs_teacher=True)


def test_elasticsearch_and_opensearch(example, student):
    """The bodies only: neither is a package of a registry."""
    vector = QueryEncoder.from_pretrained(student).encode(QUERIES[:1])[0].tolist()
    body = json.loads(example("elasticsearch_body", student, "elasticsearch", QUERIES[0]))
    assert body["knn"]["query_vector"] == vector
    assert body["knn"]["num_candidates"] >= body["knn"]["k"] == body["size"] == 10
    body = json.loads(example("elasticsearch_body", student, "opensearch", QUERIES[0]))
    assert body == {"query": {"knn": {"embedding": {"vector": vector, "k": 10}}}, "size": 10}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_read_whole(path):
    assert len(path.read_text().splitlines()) <= 40


def test_an_example_runs_from_the_projects_folder(student, tmp_path):
    command = [sys.executable, "-m", "examples.elasticsearch_body", str(student), "opensearch", "a"]
    result = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=os.environ)
    assert len(json.loads(result.stdout)["query"]["knn"]["embedding"]["vector"]) == 32
