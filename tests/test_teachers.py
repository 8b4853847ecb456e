"""distill.py with teachers whose weights are not at hand: a service, or vectors alone."""

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from embedding_service import KEY, EmbeddingService
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret import paths
from disret.distil.teachers import ServiceTeacher, VectorTeacher
from disret.encode.service import BLOCK, FIXED_TEXTS, Service

TRAIN = ["--train-batch-size", 16, "--warmup-steps", 2, "--eval-steps", 8, "--device", "cpu"]


@pytest.fixture
def black_box(teacher, monkeypatch):
    """A service that answers with the teacher's query vectors, and wants a key."""
    model = SentenceTransformer(str(teacher), device="cpu")
    server = EmbeddingService(
        lambda texts: model.encode_query(texts, show_progress_bar=False, batch_size=64)
    )
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield server
    server.close()


@pytest.fixture
def other(tmp_path):
    return save_encoder(tmp_path / "other", "distilbert", layers=1, seed=3)


def service(black_box):
    return ["--teacher", black_box.address, "--teacher-model", "tiny"]


def report(folder) -> dict:
    return json.loads((folder / "distillation.json").read_text())


def curve(folder) -> list[float]:
    return [point["mse"] for point in report(folder)["validation_mse"]]


@pytest.fixture
def texts(queries, valid_queries):
    return ["--queries", queries, "--valid-queries", valid_queries]


def test_a_service_teaches_another_model(call, black_box, other, texts, tmp_path):
    student = tmp_path / "student"
    arguments = [*service(black_box), "--init-with", other, *texts, "--output", student, *TRAIN]
    dry = call("distill", *arguments, "--dry-run")
    assert dry.status == 0, dry.err
    assert "220 texts to embed, roughly" in dry.err
    assert set(black_box.texts) == set(FIXED_TEXTS)  # nothing else was sent
    assert not student.exists()

    outcome = call("distill", *arguments)
    assert outcome.status == 0, outcome.err
    asked = {text: n for text, n in black_box.texts.items() if text not in FIXED_TEXTS}
    assert len(asked) == 220
    assert set(asked.values()) == {1}
    model = SentenceTransformer(str(student), device="cpu")
    assert [type(m).__name__ for m in model] == ["Transformer", "Pooling", "Dense", "Normalize"]
    before, *after = curve(student)
    assert min(after) < before
    # Another student of the same teacher sends nothing.
    second = call("distill", *arguments[: -len(TRAIN) - 1], tmp_path / "second", *TRAIN)
    assert second.status == 0, second.err
    assert {text: n for text, n in black_box.texts.items() if text not in FIXED_TEXTS} == asked
    for path in [*tmp_path.rglob("*"), *paths.HOME.rglob("*")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in outcome.err + outcome.out + dry.err
    card = (student / "README.md").read_text()
    assert f"`tiny of {black_box.address}`" in card


def test_the_closed_form_starts_near_the_teacher(call, black_box, other, texts, tmp_path):
    """Nearer than a random layer, whose student has the same model and the same texts."""
    starts = {}
    for name, teacher, start in (
        ("ridge", service(black_box), []),
        ("random", ["--teacher", save_encoder(tmp_path / "wide", dense=24)],
         ["--projection-start", "random"]),
        ("ridge of a model", ["--teacher", tmp_path / "wide"], ["--projection-start", "ridge"]),
    ):  # fmt: skip
        output = tmp_path / name
        outcome = call(
            "distill", *teacher, "--init-with", other, *start, *texts, "--output", output, *TRAIN
        )
        assert outcome.status == 0, outcome.err
        starts[name] = curve(output)[0]
    assert starts["ridge of a model"] < 0.5 * starts["random"]
    assert starts["ridge"] < 0.5 * starts["random"] * 24 / 32 + 1


def test_the_index_of_a_service(black_box):
    """What is asked of it for queries is no matter of the documents."""
    plain = ServiceTeacher(Service(black_box.address, "tiny"))
    queries = ServiceTeacher(Service(black_box.address, "tiny", {"input_type": "query"}, "q: "))
    assert queries.sha256 != plain.sha256
    assert queries.encoder_sha256 == plain.encoder_sha256
    elsewhere = EmbeddingService()
    other = ServiceTeacher(Service(elsewhere.address, "tiny"))
    elsewhere.close()
    assert other.encoder_sha256 != plain.encoder_sha256


def test_a_static_student_of_a_service(call, black_box, teacher, texts, tmp_path):
    arguments = [*service(black_box), "--init-with", "static", *texts, "--recipe", "best",
                 "--num-epochs", 5, "--output", tmp_path / "student", *TRAIN]  # fmt: skip
    refused = call("distill", *arguments)
    assert refused.status == 2
    assert "name a model that has with --vocabulary" in refused.err
    outcome = call("distill", *arguments, "--vocabulary", teacher)
    assert outcome.status == 0, outcome.err
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    kinds = [type(m).__name__ for m in model]
    assert kinds == ["StaticEmbedding", "Dense", "Dense", "Normalize"]
    wanted = SentenceTransformer(str(teacher), device="cpu").encode_query(["what is number 9 of 3"])
    assert float((model.encode(["what is number 9 of 3"]) @ wanted.T)[0, 0]) > 0.8


def test_a_student_without_training(call, black_box, other, texts, tmp_path):
    outcome = call("distill", *service(black_box), "--init-with", other, *texts, "--num-epochs", 0,
                   "--output", tmp_path / "s", *TRAIN)  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert len(curve(tmp_path / "s")) == 1
    assert "warm-up" not in outcome.err
    assert SentenceTransformer(str(tmp_path / "s"), device="cpu").encode(["a"]).shape == (1, 32)


@pytest.fixture
def vectors(teacher, tmp_path):
    model = SentenceTransformer(str(teacher), device="cpu")
    texts = [f"what is number {i * i} of {i % 7}" for i in range(300)]
    path = tmp_path / "vectors.npz"
    np.savez(path, texts=np.array(texts), embeddings=model.encode_query(texts))
    return path


def test_vectors_alone_teach(call, vectors, other, tmp_path):
    student = tmp_path / "student"
    outcome = call(
        "distill", "--teacher-vectors", vectors, "--init-with", other, "--output", student, *TRAIN
    )
    assert outcome.status == 0, outcome.err
    counts = report(student)["queries"]
    assert counts["training"] + counts["validation"] == 300
    assert counts["validation"] >= 1
    # So few texts teach nothing beyond the start, which is kept.
    model = SentenceTransformer(str(student), device="cpu")
    held_out = VectorTeacher([str(vectors)])
    wanted = held_out.embed(held_out.texts[2])[:]
    found = np.mean((model.encode_query(held_out.texts[2]) - wanted) ** 2)
    assert found == pytest.approx(min(curve(student)), rel=0.02)
    card = (student / "README.md").read_text()
    assert f"| {counts['training']} ({vectors}) |" in card
    assert "MS MARCO" not in card


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a --teacher or --teacher-vectors"),
        (["--teacher", "t", "--teacher-vectors", "v.npz"], "name a --teacher or --teacher-vectors"),
        (["--teacher", "http://h/v1"], "--teacher-model is the model of a service"),
        (["--teacher", "t", "--teacher-model", "m"], "--teacher-model is the model of a service"),
        (["--teacher", "t", "--teacher-option", "a=1"], "--teacher-option is of a service"),
        (["--teacher", "http://h/v1", "--teacher-model", "m"], "a service has no layers to keep"),
        (["--teacher-vectors", "v.npz"], "vectors alone has no layers to keep"),
        (["--teacher-vectors", "v.npz", "--init-with", "m", "--queries", "q"],
         "--queries is for a model, and not for vectors alone"),
        (["--teacher", "https://h", "--teacher-model", "m", "--init-with", "m"], "has no path"),
        (["--teacher-vectors", "none.npz", "--init-with", "m"], "no file none.npz"),
    ],
)  # fmt: skip
def test_bad_arguments(call, tmp_path, arguments, says):
    outcome = call("distill", *arguments, "--output", tmp_path / "s", "--device", "cpu")
    assert outcome.status == 2
    assert says in outcome.err
    assert not (tmp_path / "s").exists()


def test_no_key(call, black_box, other, texts, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    arguments = [*service(black_box), "--init-with", other, *texts, "--output", tmp_path / "s"]
    outcome = call("distill", *arguments, "--device", "cpu")
    assert outcome.status == 2
    assert outcome.err.endswith("; set the variable OPENAI_API_KEY.\n")


def test_prompts_and_dimensions(call, teacher, texts, tmp_path):
    """The student learns to do without the teacher's instruction, in the first dimensions."""
    outcome = call(
        "distill", "--teacher", teacher, "--layers", 0, 3, "--teacher-prompt", "find: ",
        "--student-prompt", "", "--truncate-dim", 8, *texts, "--output", tmp_path / "s", *TRAIN,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    student = SentenceTransformer(str(tmp_path / "s"), device="cpu")
    assert student.prompts["query"] == ""
    assert student.get_embedding_dimension() == 8
    whole = SentenceTransformer(str(teacher), device="cpu")
    lines = [f"who has seen {i * 3} things" for i in range(20)]
    wanted = whole.encode(lines, prompt="find: ")[:, :8]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = student.encode_query(lines)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.mean((found - wanted) ** 2) == pytest.approx(min(curve(tmp_path / "s")), rel=0.02)


@pytest.mark.kill
def test_killed_ten_times_no_text_is_paid_for_twice(black_box, other, call, tmp_path, home):
    """But those of the block in flight; and the vectors are those of an unbroken run."""
    queries, valid = tmp_path / "many.txt", tmp_path / "some.txt"
    queries.write_text("".join(f"query {i} of {i % 11}\n" for i in range(9 * BLOCK)))
    valid.write_text("".join(f"held out {i}\n" for i in range(20)))
    arguments = [*service(black_box), "--init-with", str(other), "--queries", str(queries),
                 "--valid-queries", str(valid), "--output", str(tmp_path / "s"), "--num-epochs",
                 "1", "--train-batch-size", "4096", "--device", "cpu"]  # fmt: skip
    command = [sys.executable, str(ROOT / "distill.py"), *arguments]
    answer = black_box.embed
    black_box.embed = lambda texts: time.sleep(0.01) or answer(texts)
    chance = random.Random(0)
    kills = sent = 0
    while kills < 10:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
        target = sent + chance.randint(1, BLOCK)
        while sum(black_box.texts.values()) < target and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, process.stderr.read()[-2000:]
        process.kill()
        process.wait()
        kills += 1
        time.sleep(0.1)
        sent = sum(black_box.texts.values())
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    asked = [n for text, n in black_box.texts.items() if text not in FIXED_TEXTS]
    again = sum(n - 1 for n in asked)
    assert len(asked) == 9 * BLOCK + 20
    assert again <= kills * BLOCK  # what was in flight
    files = sorted((home / "downloads" / "embeddings").glob("*.npy"))
    found = max((np.load(path) for path in files), key=len)
    lines = queries.read_text().splitlines()
    np.testing.assert_allclose(found, answer(lines), atol=1e-5)
