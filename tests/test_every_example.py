"""Each example on its own database: the hits of a student's queries are those of exact search."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from postgres import postgres
from sentence_transformers import SentenceTransformer

from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve.export import export

DOCUMENTS = [f"{i * i} things that {i % 7} people have seen in {i} days" for i in range(60)]
QUERIES = [f"who has seen {i * 3} things" for i in range(8)]
CLIENTS = "pip install -r examples/requirements.txt"
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
def example(monkeypatch, capfd, tmp_path):
    """Run an example as its user does, but in this process, and return what it prints."""
    (tmp_path / "documents.txt").write_text("".join(f"{text}\n" for text in DOCUMENTS))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        runpy.run_module(f"examples.{name}", run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.fixture
def vectors(teacher):
    return SentenceTransformer(str(teacher), device="cpu").encode_document(DOCUMENTS)


@pytest.fixture
def check(example, student, vectors):
    """Run an example on every query, and compare the hits with those of exact search."""
    encoder = QueryEncoder.from_pretrained(student)

    def run(name: str, *before: str | Path, after: Sequence[str] = (), shown=lambda s: s) -> None:
        for query in QUERIES:
            out = example(name, *before, query, *after)
            found = [line.split("\t") for line in out.splitlines()]
            scores = vectors @ encoder.encode([query])[0]
            nearest = np.argsort(-scores, kind="stable")[:10]
            assert [text for _, text in found] == [DOCUMENTS[row] for row in nearest]
            numbers = [float(score) for score, _ in found]
            np.testing.assert_allclose(numbers, shown(scores[nearest]), atol=2e-4)

    return run


@pytest.fixture
def check_export(example, call, student, vectors, teacher):
    """What an example exports is an index with ids and texts for agree.py."""

    def run(name: str, *arguments: str | Path) -> None:
        example(name, student, *arguments, "--export", "x.parquet")
        table = pq.read_table("x.parquet").sort_by("text")
        order = sorted(range(len(DOCUMENTS)), key=DOCUMENTS.__getitem__)
        assert table["text"].to_pylist() == [DOCUMENTS[row] for row in order]
        found = np.stack(table["embedding"].to_numpy())
        np.testing.assert_allclose(found, vectors[order], atol=1e-6)
        Path("log.txt").write_text("".join(f"{query}\n" for query in QUERIES))
        outcome = call("beyond/agree", "--index", "x.parquet", "--queries", "log.txt", "--output",
                       "out.csv", "--document-encoder", teacher, "--query-encoder", student,
                       "--worst", "worst", "--device", "cpu")  # fmt: skip
        assert outcome.status == 0, outcome.err
        (worst,) = Path("worst").glob("*.md")
        assert "days" in worst.read_text()

    return run


@pytest.fixture
def faiss_file(vectors, example):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, "documents.faiss")
    return "documents.faiss"


def test_faiss(check, student, faiss_file):
    check("faiss_index", student, faiss_file, "documents.txt")


def test_faiss_with_a_note_of_what_made_the_index(check, student, faiss_file):
    record = student / "onnx" / "index.json"
    shutil.copy(record, "documents.json")
    check("faiss_index", student, faiss_file, "documents.txt")
    other = {**json.loads(record.read_text()), "encoder_sha256": "0a" * 32}
    Path("documents.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"for an index of .*, but documents\.json is of"):
        check("faiss_index", student, faiss_file, "documents.txt")


def test_qdrant(check, check_export, student, vectors):
    qdrant = pytest.importorskip("qdrant_client", reason=CLIENTS)
    models = qdrant.models
    client = qdrant.QdrantClient(path="storage")
    params = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
    client.create_collection("own", vectors_config=params)
    client.upload_collection("own", vectors, [{"body": text} for text in DOCUMENTS])
    client.close()
    named = ["--collection", "own", "--text", "body"]
    check("qdrant_local", student, "storage", after=named)
    check_export("qdrant_local", "storage", *named)


def test_pgvector(check, check_export, student, vectors):
    psycopg = pytest.importorskip("psycopg", reason=CLIENTS)
    with postgres() as database:
        with psycopg.connect(database) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute('CREATE TABLE own (key int, "the text" text, v vector(32))')
            insert = "INSERT INTO own VALUES (%s, %s, %s)"
            rows = zip(range(60), DOCUMENTS, map(str, vectors.tolist()), strict=True)
            connection.cursor().executemany(insert, rows)
        named = ["--table", "own", "--id", "key", "--text", "the text", "--column", "v"]
        check("pgvector_postgres", student, database, after=named)
        check_export("pgvector_postgres", database, *named)
        with psycopg.connect(database) as connection:
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            assert connection.execute(tables).fetchall() == [("own",)]


def test_chroma(check, check_export, student, vectors):
    chromadb = pytest.importorskip("chromadb", reason=CLIENTS)
    collection = chromadb.PersistentClient("storage").create_collection("own")
    ids = [f"d{number}" for number in range(len(DOCUMENTS))]
    collection.add(ids, embeddings=vectors.tolist(), documents=DOCUMENTS)
    named = ["--collection", "own"]
    check("chroma", student, "storage", after=named, shown=lambda scores: 2 - 2 * scores)
    check_export("chroma", "storage", *named)


@pytest.mark.real
def test_the_readmes_first_lines(real_teacher, tmp_path, monkeypatch):
    """Of a collection by Chroma's default model, with the student that lies here."""
    chromadb = pytest.importorskip("chromadb", reason=CLIENTS)
    documents = ["Dense retrieval compares vectors.", "Bread is baked.", "A cat sleeps."]
    teacher = SentenceTransformer(str(real_teacher), device="cpu")
    collection = chromadb.PersistentClient(str(tmp_path / "chroma")).create_collection("documents")
    vectors = teacher.encode_document(documents).tolist()
    collection.add(["0", "1", "2"], embeddings=vectors, documents=documents)
    code = re.search(r"```python\n(import chromadb.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code[1], found)
    assert found["hits"]["documents"][0][0] == documents[0]
    assert sum(bool(line.strip()) for line in code[1].splitlines()) == 5


def test_langchain(check, student, teacher):
    pytest.importorskip("langchain_core", reason=CLIENTS)
    check("langchain_embeddings", teacher, student, "documents.txt")


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
