"""benchmark.py with an index that is there already."""

import json

import faiss
import numpy as np
import pytest
from conftest import write_collection
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret import paths
from disret.tables import read_rows


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ids", "ids.txt"], "--ids are of an --index"),
        (
            ["--datasets", "forums", "--index", "x.faiss"],
            "forums has several parts, but x.faiss is",
        ),
    ],
)
def test_bad_arguments(call, teacher, tmp_path, arguments, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for forum in ("cats", "dogs"):
        write_collection(tmp_path / "forums" / forum)
    base = ["--document-encoder", teacher, "--device", "cpu", "--output", tmp_path / "x.csv"]
    outcome = call("benchmark", *base, *arguments)
    assert outcome.status == 2, outcome.err
    assert says in outcome.err
    assert not (tmp_path / "x.csv").exists()
