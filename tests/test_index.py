"""The FAISS index and its manifest."""

import json

import faiss
import numpy as np
import pytest
from tiny import save_encoder

from disret import paths
from disret.collection import Collection
from disret.encoders import fingerprint, load_encoder
from disret.index import normalised, on_device, open_index


@pytest.fixture
def encoder(teacher):
    return load_encoder(str(teacher), "cpu")


@pytest.fixture
def things(collection):
    return Collection("things", collection)


def build(collection, encoder, name, *arguments):
    ids = collection.document_ids()
    return open_index(collection, ids, encoder, name, fingerprint(encoder), *arguments)


def folder_of(name="models--teacher", score="dot"):
    return paths.INDEXES / "things" / f"{name}.flat.{score}"


def test_plain_faiss_reads_it(things, encoder):
    index = build(things, encoder, "models/teacher", "dot", 8)
    folder = folder_of()
    plain = faiss.read_index(str(folder / "index.faiss"))
    vectors = encoder.encode_document(list(things.texts()))
    np.testing.assert_allclose(plain.reconstruct_n(0, 60), vectors, atol=1e-6)
    assert (folder / "ids.txt").read_text().split() == [f"d{i}" for i in range(60)]
    assert index.ntotal == 60
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["documents"] == 60
    assert manifest["prompt"] == "d "


def test_second_opening_encodes_nothing(things, encoder, monkeypatch):
    build(things, encoder, "models/teacher", "dot", 8)
    monkeypatch.setattr(encoder, "encode_document", None)
    build(things, encoder, "./models/teacher/", "dot", 8)


def test_index_of_other_weights_is_rebuilt(things, encoder, tmp_path, capsys):
    build(things, encoder, "models/teacher", "dot", 8)
    other = load_encoder(str(save_encoder(tmp_path / "other", seed=5)), "cpu")
    index = build(things, other, "models/teacher", "dot", 8)
    assert "built from another encoder_sha256" in capsys.readouterr().err
    wanted = other.encode_document(list(things.texts()))
    np.testing.assert_allclose(index.reconstruct_n(0, 60), wanted, atol=1e-6)


def test_index_of_another_corpus_is_rebuilt(things, encoder, capsys):
    build(things, encoder, "m", "dot", 8)
    with (things.folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "a new one"}\n')
    index = build(things, encoder, "m", "dot", 8)
    assert "corpus_sha256" in capsys.readouterr().err
    assert index.ntotal == 61
    assert (folder_of("m") / "ids.txt").read_text().endswith("d59\nnew\n")


def test_damaged_index_is_rebuilt(things, encoder, capsys):
    build(things, encoder, "m", "dot", 8)
    (folder_of("m") / "index.faiss").write_bytes(b"damaged")
    assert build(things, encoder, "m", "dot", 8).ntotal == 60
    (folder_of("m") / "ids.txt").write_text("d0\n")
    assert build(things, encoder, "m", "dot", 8).ntotal == 60
    assert "do not belong together" in capsys.readouterr().err


def test_cosine_vectors_have_length_one(things, tmp_path):
    unnormalised = load_encoder(str(save_encoder(tmp_path / "dense", dense=16)), "cpu")
    del unnormalised[-1]
    index = build(things, unnormalised, "m", "cos_sim", 8)
    lengths = np.linalg.norm(index.reconstruct_n(0, 60), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_search_stays_on_the_cpu_without_cuda(things, encoder):
    index = build(things, encoder, "m", "dot", 8)
    assert on_device(index, "cpu", 10) is index
    assert on_device(index, "cuda", 5000) is index


def test_normalised_leaves_zero_rows():
    np.testing.assert_allclose(normalised(np.array([[3.0, 4.0], [0, 0]])), [[0.6, 0.8], [0, 0]])
