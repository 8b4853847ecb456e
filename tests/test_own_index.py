"""The owner of an index whose embeddings come from a service: student, agreement, export."""

import json
import re

import faiss
import numpy as np
import pytest
from embedding_service import KEY, EmbeddingService
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret import paths
from disret.data.vectors import read_vectors, split
from disret.encode.service import FIXED_TEXTS
from disret.query_encoder import QueryEncoder
from disret.tables import read_rows


@pytest.fixture
def owner(teacher, tmp_path, monkeypatch):
    """A service, an index of what it embedded, a log, and another model to start from."""
    monkeypatch.chdir(tmp_path)
    model = SentenceTransformer(str(teacher), device="cpu")
    server = EmbeddingService(lambda texts: model.encode_query(texts, show_progress_bar=False))
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    texts = [f"thing {i} of {i * i}" for i in range(400)]
    vectors = model.encode_document(texts)
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(index, "documents.faiss")
    (tmp_path / "ids.txt").write_text("".join(f"doc-{i}\n" for i in range(400)))
    log = [f"{('what', 'who', 'when')[i % 3]} is {i * 7}" for i in range(900)]
    (tmp_path / "log.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(log)))
    held_out = "".join(f"{i}\twho is {i * 21 + 1}\n" for i in range(40))
    (tmp_path / "held-out.tsv").write_text(held_out)
    save_encoder(tmp_path / "small", "distilbert", layers=1, seed=4)
    yield server
    server.close()


SERVICE = ["--document-encoder", "URL", "--service-model", "tiny"]
AGREEMENT = ["--index", "documents.faiss", "--ids", "ids.txt", "--query-encoder", "student",
             "--score-function", "cos_sim", "--output", "scores.csv",
             "--device", "cpu"]  # fmt: skip


def run(call, owner, script, *arguments):
    return call(script, *(owner.address if word == "URL" else word for word in arguments))


def test_from_a_service_to_an_export(call, owner, tmp_path):
    """The commands of the README, end to end."""
    made = run(
        call, owner, "distill", "--teacher", "URL", "--teacher-model", "tiny", "--init-with",
        "small", "--queries", "log.tsv", "--valid-queries", "held-out.tsv", "--recipe", "best",
        "--warmup-steps", 5, "--num-epochs", 20,
        "--output", "student", "--device", "cpu",
    )  # fmt: skip
    assert made.status == 0, made.err
    exported = call("disret.serve.export", "student", "--queries", "held-out.tsv")
    assert exported.status == 0, exported.err
    before = (tmp_path / "documents.faiss").read_bytes()
    scored = run(
        call, owner, "benchmark", "--queries", "held-out.tsv", *SERVICE, *AGREEMENT,
        "--query-backend", "torch", "export", "--worst", "worst",
    )  # fmt: skip
    assert scored.status == 0, scored.err
    assert (tmp_path / "documents.faiss").read_bytes() == before
    torch, export = read_rows(tmp_path / "scores.csv")
    assert torch["dataset"] == "held-out.tsv"
    assert (torch["documents"], torch["queries"]) == (400, 40)
    assert 0.3 < torch["overlap@10"] <= 1, str(torch)
    assert torch["overlap@10 low"] <= torch["overlap@10"] <= torch["overlap@10 high"]
    assert torch["cosine"] > 0.7
    assert export["overlap@10"] == pytest.approx(torch["overlap@10"], abs=0.02)
    assert "retention" in torch
    assert torch["retention"] is None
    assert "overlap@10" in scored.out
    (worst,) = (tmp_path / "worst").glob("*student.torch.md")
    assert "doc-" in worst.read_text()
    assert "who is" in worst.read_text()
    vectors = QueryEncoder.from_pretrained("student").encode(["who is 3"])
    assert vectors.shape == (1, 32)
    # Nobody's key, and no query was sent twice.
    for path in [*tmp_path.rglob("*"), *paths.HOME.rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert len(owner.texts.keys() - set(FIXED_TEXTS)) == 940
    assert {n for text, n in owner.texts.items() if text not in FIXED_TEXTS} == {1}

    again = run(
        call, owner, "benchmark", "--queries", "held-out.tsv", *SERVICE, *AGREEMENT,
        "--query-backend", "torch", "export",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert again.err.count("in scores.csv already") == 2
    assert len(read_rows(tmp_path / "scores.csv")) == 2


def test_how_far_the_graph_must_be_searched(call, owner, tmp_path):
    """With the index as it is and a service, whose own time is not measured, nor asked twice."""
    before = (tmp_path / "documents.faiss").read_bytes()
    student = ["small" if word == "student" else word for word in AGREEMENT]
    outcome = run(
        call, owner, "benchmark", "--queries", "held-out.tsv", *SERVICE, *student,
        "--search-parameters", "efSearch=1,400",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "documents.faiss").read_bytes() == before
    rows = read_rows(tmp_path / "scores.sweep.csv")
    assert [row["setting"] for row in rows] == 2 * ["efSearch 1", "efSearch 400"]
    for few, many in (rows[:2], rows[2:]):
        assert few["recall@10"] < many["recall@10"]
        assert (few["index"], few["NDCG@10"]) == ("documents.faiss", None)
    assert rows[1]["overlap@10"] == pytest.approx(rows[1]["recall@10"], abs=0.01)
    assert [row["encode_ms"] is None for row in rows] == [True, True, False, False]
    assert "held-out.tsv, documents.faiss, small: " in outcome.out
    assert "as fast" not in outcome.out
    assert {n for text, n in owner.texts.items() if text not in FIXED_TEXTS} == {1}


VECTORS = ["--document-vectors", "vectors.npz", "--index", "documents.faiss",
           "--ids", "ids.txt", "--query-encoder", "small", "--score-function", "cos_sim",
           "--device", "cpu"]  # fmt: skip


@pytest.fixture
def kept(owner, teacher, tmp_path):
    """What is left of the service: vectors of the log's queries. No request goes out any more."""
    owner.close()
    texts = [line.split("\t")[1] for line in (tmp_path / "log.tsv").read_text().splitlines()]
    model = SentenceTransformer(str(teacher), device="cpu")
    np.savez("vectors.npz", texts=np.array(texts), embeddings=model.encode_query(texts))
    save_encoder(tmp_path / "small", "distilbert", layers=1, seed=4)
    return texts


def test_vectors_take_the_place_of_the_service(call, kept, teacher, tmp_path):
    """Agreement is the same with the encoder and with its vectors of the queries."""
    (tmp_path / "some.txt").write_text("".join(f"{text}\n" for text in kept[:50]))
    log = ["--queries", "some.txt", "--dtype", "float32"]
    outcome = call("benchmark", *VECTORS, *log, "--output", "vectors.csv")
    assert outcome.status == 0, outcome.err
    model = ["--document-encoder", teacher, *VECTORS[2:]]
    assert call("benchmark", *model, *log, "--output", "model.csv").status == 0
    (found,), (wanted,) = (read_rows(tmp_path / f"{name}.csv") for name in ("vectors", "model"))
    for name in ("overlap@10", "rbo", "cosine", "squared_distance", "queries"):
        assert found[name] == pytest.approx(wanted[name], abs=2e-4)


def test_vectors_alone_are_a_log(call, kept, tmp_path):
    """Those that distill.py would validate on."""
    outcome = call("benchmark", *VECTORS, "--output", "s.csv", "--worst", "worst")
    assert outcome.status == 0, outcome.err
    (row,) = read_rows(tmp_path / "s.csv")
    assert row["dataset"] == "vectors.npz"
    assert row["queries"] == len(split(read_vectors(["vectors.npz"]))[1])
    assert list((tmp_path / "worst").glob("*.md"))


def test_a_query_without_a_vector_is_named(call, kept, tmp_path):
    (tmp_path / "other.txt").write_text("who was that\nand that\n")
    outcome = call("benchmark", *VECTORS, "--queries", "other.txt", "--output", "s.csv")
    assert outcome.status == 2
    assert "no vector of 'who was that', and of 1 others" in outcome.err


def test_the_worst_show_texts(call, teacher, tmp_path, collection):
    outcome = call(
        "benchmark", "--datasets", collection, "--document-encoder", teacher, "--query-encoder",
        save_encoder(tmp_path / "far", layers=1, seed=5), "--worst", tmp_path / "worst",
        "--output", tmp_path / "s.csv", "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (worst,) = (tmp_path / "worst").glob("*.md")
    assert re.search(r"\| 1 \| (✓ )?d\d+: title \d+ thing \d+ ", worst.read_text())


@pytest.mark.parametrize("kind", ["faiss", "npy", "folder"])
def test_an_index_with_judgments(call, teacher, tmp_path, collection, kind):
    """Scores are those of the index that is built here, whatever the index that is there."""
    model = SentenceTransformer(str(teacher), device="cpu")
    student = save_encoder(tmp_path / "student", layers=2, seed=1)
    base = ["--datasets", collection, "--document-encoder", teacher, "--query-encoder", student,
            "--score-function", "cos_sim", "--dtype", "float32", "--index-dtype", "float32",
            "--device", "cpu"]  # fmt: skip
    assert call("benchmark", *base, "--output", tmp_path / "own.csv").status == 0
    records = [json.loads(line) for line in (collection / "corpus.jsonl").open()]
    vectors = model.encode_document([f"{r['title']} {r['text']}" for r in records])
    path = tmp_path / f"documents.{kind}"
    if kind == "faiss":
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        faiss.write_index(index, str(path))
    elif kind == "npy":
        np.save(path, 3 * vectors)
    else:
        (path,) = paths.INDEXES.glob("things/[!.]*")
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{record['_id']}\n" for record in records))
    given = [] if kind == "folder" else ["--ids", ids]
    outcome = call("benchmark", *base, "--index", path, *given, "--output", tmp_path / "s.csv")
    assert outcome.status == 0, outcome.err
    own, found = (read_rows(tmp_path / name) for name in ("own.csv", "s.csv"))
    for first, second in zip(own, found, strict=True):
        for name in ("NDCG@10", "Recall@100", "retention", "overlap@10", "rbo", "documents"):
            assert second[name] == (pytest.approx(first[name], abs=1e-4) if first[name] else None)
    assert found[1]["index_dtype"].startswith({"faiss": "IndexFlatIP"}.get(kind, ""))


def test_two_students_are_compared(call, teacher, tmp_path, collection):
    near = save_encoder(tmp_path / "near", layers=4, seed=0)
    far = save_encoder(tmp_path / "far", layers=1, seed=5)
    outcome = call(
        "benchmark", "--datasets", collection, "--document-encoder", teacher, "--query-encoder",
        near, far, "--score-function", "cos_sim", "--output", tmp_path / "s.csv", "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("things: "))
    assert re.search(r"of \S+far is (higher|lower) than that of \S+near by 0\.\d+ \(p = ", line)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--queries", "held-out.tsv"], "need the documents' --index"),
        (["--queries", "held-out.tsv", "--index", "documents.faiss", "--query-encoder", "small",
          "--no-baseline"], "which --no-baseline leaves out"),
        (["--ids", "ids.txt"], "need the documents' --index"),
        (["--index", "documents.faiss"], "--index is of one data set"),
        (["--index", "documents.faiss", "--queries", "held-out.tsv"], "compares each"),
        (["--index", "documents.faiss", "--queries", "q", "--datasets", "d"], "exclude each other"),
        (["--document-encoder", "http://127.0.0.1:9/v1"], "--service-model is the model"),
        (["--service-model", "m"], "--service-model is the model"),
        (["--document-vectors", "v.npz"], "take the place of a --document-encoder"),
        (["--index", "none", "--queries", "held-out.tsv", "--query-encoder", "small"], "no file"),
        (["--index", "ids.txt", "--queries", "held-out.tsv", "--query-encoder", "small"],
         "--index: ids.txt"),
        (["--index", "wide.npy", "--queries", "held-out.tsv", "--query-encoder", "small"],
         "64 dimensions"),
        (["--index", "few.npy", "--ids", "ids.txt", "--queries", "held-out.tsv",
          "--query-encoder", "small"], "400 document ids"),
    ],
)  # fmt: skip
def test_bad_arguments(call, owner, teacher, tmp_path, arguments, says):
    np.save(tmp_path / "wide.npy", np.ones((5, 64), np.float32))
    np.save(tmp_path / "few.npy", np.ones((5, 32), np.float32))
    base = [] if "--document-encoder" in arguments else ["--document-encoder", teacher]
    outcome = call("benchmark", *base, *arguments, "--device", "cpu", "--output", "x.csv")
    assert outcome.status == 2, outcome.err
    assert says in outcome.err
    assert not (tmp_path / "x.csv").exists()
