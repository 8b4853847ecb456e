"""The grammar of encoders, and what each kind gives."""

import math
import shutil

import numpy as np
import pytest
from embedding_service import EmbeddingService, letters
from sentence_transformers import SentenceTransformer

from disret import paths
from disret.command_line import UserError
from disret.encode.encoders import is_vectors, named, open_encoder

QUERIES = ["what is number 9", "who has seen 3 things", "where"]


@pytest.fixture
def server():
    server = EmbeddingService()
    yield server
    server.close()


def test_a_model(teacher):
    encoder = open_encoder(str(teacher))
    model = SentenceTransformer(str(teacher), device="cpu")
    wanted = model.encode_query(QUERIES)
    np.testing.assert_allclose(encoder.encode_query(QUERIES), wanted, atol=1e-6)
    np.testing.assert_allclose(encoder.embed_once(QUERIES)[:], wanted, atol=1e-6)
    encoder.run(QUERIES, 2)
    assert (encoder.backend, encoder.is_local, encoder.on_hub) == ("torch", True, None)
    assert (encoder.size.layers, encoder.size.dimension, encoder.max_length) == (4, 32, 64)
    assert encoder.weight_bytes >= 4 * encoder.size.parameters
    assert encoder.normalises
    prompted = open_encoder(str(teacher), prompt="find: ")
    assert prompted.fingerprint != encoder.fingerprint
    assert prompted.index_fingerprint == encoder.index_fingerprint


def test_a_model_embeds_a_list_once(teacher):
    encoder = open_encoder(str(teacher))
    encoder.embed_once(QUERIES)
    (file,) = (paths.DOWNLOADS / "embeddings").glob("*.npy")
    written = file.stat().st_mtime_ns
    found = open_encoder(str(teacher)).embed_once(QUERIES)
    assert file.stat().st_mtime_ns == written
    assert not np.allclose(found[:], encoder.model.encode(QUERIES), atol=1e-3)  # the prompt counts
    open_encoder(str(teacher), max_seq_length=4).embed_once(QUERIES)
    open_encoder(str(teacher), dtype="bfloat16").embed_once(QUERIES)
    assert len(list((paths.DOWNLOADS / "embeddings").glob("*.npy"))) == 3


@pytest.mark.export
def test_an_export_unless_a_folder_has_that_name(call, teacher, queries, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "student")
    with pytest.raises(UserError, match="holds no exported query encoder"):
        open_encoder(f"{folder}@int8")
    assert call("disret.serve.export", folder, "--queries", queries).status == 0
    wanted = open_encoder(str(folder)).encode_query(QUERIES)
    for suffix, backend, dtype in (("onnx", "export", "float32"), ("int8", "export-int8", "int8")):
        encoder = open_encoder(f"{folder}@{suffix}", num_threads=1)
        assert (encoder.name, encoder.backend, encoder.dtype) == (str(folder), backend, dtype)
        assert named(encoder.name, encoder.backend) == f"{folder}@{suffix}"
        cosines = (encoder.encode_query(QUERIES) * wanted).sum(axis=1)
        assert cosines.min() > (0.98 if suffix == "int8" else 1 - 1e-5)
        with pytest.raises(UserError, match="is an export, which is no teacher"):
            encoder.embed_once(QUERIES)
    shutil.copytree(teacher, tmp_path / "student@int8")
    assert open_encoder(f"{folder}@int8").backend == "torch"


def test_a_service(server):
    encoder = open_encoder(f"{server.address}#tiny", options=["dimensions=8"], prompt="q: ")
    found = encoder.encode_query(QUERIES)
    np.testing.assert_allclose(found, letters([f"q: {q}" for q in QUERIES])[:, :8], atol=1e-6)
    encoder.encode_query(QUERIES[::-1] + QUERIES)
    assert {server.texts[f"q: {query}"] for query in QUERIES} == {1}
    assert (encoder.name, encoder.is_local) == ("tiny of 127.0.0.1", False)
    assert encoder.max_length == math.inf


def test_the_index_of_a_service(server):
    """What is asked of it for queries is no matter of the documents."""
    plain = open_encoder(f"{server.address}#tiny")
    queries = open_encoder(f"{server.address}#tiny", options=["input_type=query"], prompt="q: ")
    assert queries.fingerprint != plain.fingerprint
    assert queries.index_fingerprint == plain.index_fingerprint
    elsewhere = EmbeddingService()
    other = open_encoder(f"{elsewhere.address}#tiny")
    elsewhere.close()
    assert other.index_fingerprint != plain.index_fingerprint


def test_a_query_string_stays_in_the_address(server):
    encoder = open_encoder(f"{server.address}?api-version=1#tiny")
    assert encoder.size.dimension == 16
    assert server.paths[-1] == "/v1/embeddings?api-version=1"


def test_vectors(tmp_path):
    texts = [f"text {i}" for i in range(100)]
    vectors = letters(texts)
    np.savez(tmp_path / "a.npz", texts=np.array(texts[:60]), embeddings=vectors[:60])
    np.savez(tmp_path / "b.npz", texts=np.array(texts[60:]), embeddings=vectors[60:])
    encoder = open_encoder([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    np.testing.assert_allclose(encoder.encode_query(texts[50:70]), vectors[50:70])
    train, valid = encoder.texts
    assert sorted(train + valid) == sorted(texts)
    assert valid
    assert (encoder.name, encoder.backend) == ("a.npz, b.npz", "vectors")
    with pytest.raises(UserError, match="there is no vector of 'another'"):
        encoder.encode_query(["another"])


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.jsonl.gz", "v.npz", "hub:someone/set"])
def test_names_of_vectors(name):
    assert is_vectors(name)


def test_a_folder_is_a_model(tmp_path):
    (tmp_path / "v.npz").mkdir()
    assert not is_vectors(str(tmp_path / "v.npz"))
