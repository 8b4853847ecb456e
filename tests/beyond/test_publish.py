"""A finished student goes out: card with scores, one model with its teacher, export, upload."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pandas
import pytest
from conftest import ROOT
from local_hub import LocalHub
from sentence_transformers import SentenceTransformer

from disret.distil.model_card import _licences
from disret.query_encoder import QueryEncoder

KINDS = {"layers": ["--layers", 0, 3], "static": ["--init-with", "static", "--adamw-lr", 1e-3]}
# Nothing of this project is imported, and nothing of it can be: the folder is another.
ALONE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = ["what is number 4", "thing 5 green"]
print(json.dumps([model.encode_query(texts).tolist(), model.encode_document(texts).tolist()]))
"""


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    server = LocalHub()
    yield server
    server.close()


def at(hub: LocalHub, token: str | None = LocalHub.token) -> dict[str, str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_TOKEN", None)
    return {**environment, "HF_TOKEN": token} if token else environment


@pytest.fixture
def distil(call, teacher, queries, valid_queries, tmp_path):
    """Makes a student in the folder `student`."""

    def make(*more):
        made = call(
            "distill", "--teacher", teacher, "--recipe", "paper", "--queries", queries,
            "--valid-queries", valid_queries,
            "--output", tmp_path / "student", "--train-batch-size", 16,
            "--warmup-steps", 2, "--device", "cpu", *more,
        )  # fmt: skip
        assert made.status == 0, made.err
        return tmp_path / "student"

    return make


@pytest.fixture
def student(distil):
    return distil("--layers", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_joined(call, kind, teacher, distil, collection, tmp_path):
    """Students of every kind load with sentence-transformers alone and score the same."""
    student = distil(*KINDS[kind], "--recipe", "best", "--num-epochs", 2)
    curve = json.loads((student / "distillation.json").read_text())["validation_mse"]
    assert min(point["mse"] for point in curve[1:]) < curve[0]["mse"]
    joined = call("beyond/publish", student, "--router")
    assert joined.status == 0, joined.err
    assert "student-router: queries by the student, documents by the teacher." in joined.out

    embeddings = {}
    for folder in (student, tmp_path / "student-router"):
        result = subprocess.run(
            [sys.executable, "-c", ALONE, str(folder)],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        embeddings[folder.name] = np.array(json.loads(result.stdout.splitlines()[-1]))
    texts = ["what is number 4", "thing 5 green"]
    of_teacher = SentenceTransformer(str(teacher), device="cpu").encode_document(texts)
    np.testing.assert_allclose(embeddings["student"][0], embeddings["student-router"][0], atol=1e-5)
    np.testing.assert_allclose(embeddings["student-router"][1], of_teacher, atol=1e-5)

    common = ["--datasets", collection, "--score-function", "cos_sim", "--dtype", "float32",
              "--output", tmp_path / "scores.csv", "--device", "cpu"]  # fmt: skip
    for folder in ("student", "student-router"):
        scored = call("benchmark", *common, "--document-encoder", teacher,
                      "--query-encoder", tmp_path / folder)  # fmt: skip
        assert scored.status == 0, scored.err
    table = pandas.read_csv(tmp_path / "scores.csv").set_index("query_encoder")
    alone, joined = (table.loc[str(tmp_path / name)] for name in ("student", "student-router"))
    for metric in [name for name in table.columns if "@" in name]:
        assert alone[metric] == joined[metric]

    # The scores go into the card; the student is left as it is, and both can be done again.
    written = (student / "model.safetensors").stat().st_mtime_ns
    assert "Not scored yet" in (student / "README.md").read_text()
    again = call("beyond/publish", student, "--router", "--results", tmp_path / "scores.csv")
    assert again.status == 0, again.err
    row = rf"\| things +\| student +\| +{alone['NDCG@10']:.4f} \|"
    assert re.search(row, (student / "README.md").read_text())
    assert (student / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_in_the_routers_place_is_kept(call, student, tmp_path):
    (tmp_path / "student-router").mkdir()
    (tmp_path / "student-router" / "notes.txt").write_text("mine")
    outcome = call("beyond/publish", student, "--router")
    assert outcome.status == 2
    assert "student-router exists and is not a model" in outcome.err
    assert (tmp_path / "student-router" / "notes.txt").read_text() == "mine"


def test_what_is_no_pair_is_not_joined(call, student, distil, tmp_path):
    report = json.loads((student / "distillation.json").read_text())
    report["arguments"]["teacher"] = "https://host/v1"
    (student / "distillation.json").write_text(json.dumps(report))
    outcome = call("beyond/publish", student, "--router")
    assert outcome.status == 2
    assert "https://host/v1 is no model, which alone can be joined" in outcome.err
    shutil.rmtree(student)
    student = distil("--layers", 0, "--truncate-dim", 16)
    outcome = call("beyond/publish", student, "--router")
    assert outcome.status == 2
    assert "student has 16 dimensions, and its teacher 32" in outcome.err
    assert not (tmp_path / "student-router").exists()


@pytest.mark.export
def test_a_student_is_exported_once(call, distil, valid_queries):
    student = distil("--layers", 0, 3)
    arguments = ["beyond/publish", student, "--export", "--queries", valid_queries]
    outcome = call(*arguments)
    assert outcome.status == 0, outcome.err
    assert "int8 (scales set beforehand) at a cosine of 0.99" in outcome.out
    settings = student / "onnx" / "query_encoder.json"
    written = settings.stat().st_mtime_ns
    texts = valid_queries.read_text().splitlines()
    expected = SentenceTransformer(str(student), device="cpu").encode_query(texts)
    found = QueryEncoder.from_pretrained(student).encode(texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = call(*arguments)
    assert again.status == 0, again.err
    assert settings.stat().st_mtime_ns == written
    (student / "onnx" / "model.onnx").write_bytes(b"")
    assert call(*arguments).status == 0
    assert QueryEncoder.from_pretrained(student).encode(texts).shape == found.shape


def test_a_student_is_uploaded_whole(script, student, hub):
    outcome = script("beyond/publish", student, "--push-to-hub", "someone/fast", env=at(hub))
    assert outcome.status == 0, outcome.err
    assert f"uploaded to {hub.url}/someone/fast" in outcome.out
    uploaded = hub.repositories["someone/fast"]
    for path in student.rglob("*"):
        if path.is_file():
            assert uploaded[str(path.relative_to(student))] == path.read_bytes()
    assert 'SentenceTransformer("someone/fast")' in (student / "README.md").read_text()


def test_a_token_that_may_only_read_is_refused(script, student, hub):
    hub.role = "read"
    outcome = script("beyond/publish", student, "--push-to-hub", "someone/fast", env=at(hub))
    assert outcome.status == 2
    assert "may only read" in outcome.err


@pytest.mark.parametrize(
    ("name", "token", "reason"),
    [
        ("someone/fast", None, "log in first"),
        ("someone/fast", "hf_wrong", "nothing can be uploaded"),
        ("no name at all", LocalHub.token, "nothing can be uploaded: Repo id must"),
    ],
)
def test_refusals_come_before_the_work(script, student, hub, tmp_path, name, token, reason):
    environment = {**at(hub, token), "HF_HOME": str(tmp_path / "empty")}
    outcome = script("beyond/publish", student, "--router", "--push-to-hub", name, env=environment)
    assert outcome.status == 2
    assert reason in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "student-router").exists()
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["student", "--push-to-hub", "someone/fast"], "HF_HUB_OFFLINE is set"),
        (["student", "--results", "none.csv"], "there is no file none.csv"),
        (["student", "--results", "speed.csv"], "speed.csv is another table"),
        (["student", "--results", "train.tsv"], "train.tsv is another table"),
        (["student", "--export", "--queries", "none.txt"], "there is no file none.txt"),
        (["."], "was not made by distill.py"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    call, student, tmp_path, monkeypatch, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speed.csv").write_text("encoder,batch_size\nx,1\n")
    outcome = call("beyond/publish", *arguments, "--router")
    assert outcome.status == 2
    assert reason in outcome.err
    assert not (tmp_path / "student-router").exists()


def test_what_a_data_set_says_of_itself_is_no_markdown():
    """A licence is somebody else's text."""
    hostile = "mit`\n# Heading\n![x](http://h/x.png) <img src=x>\x1b[31m\u202e" + "x" * 200
    (line,) = _licences([{"name": "hub:a/b#c", "count": 3, "licence": hostile}]).strip().split("\n")
    assert line.startswith("- `hub:a/b#c`: 3 queries, licence `mit' # Heading ![x](http://h/x.png)")
    assert line.count("`") == 4
    assert line.isprintable()
    assert len(line) < 160
