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
from disret.encode.encoders import open_encoder
from disret.encode.service import BLOCK, FIXED_TEXTS

TRAIN = ["--recipe", "paper", "--train-batch-size", 16, "--warmup-steps", 2, "--eval-steps", 8,
         "--device", "cpu"]  # fmt: skip


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
    return ["--teacher", f"{black_box.address}#tiny"]


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
    assert "tiny of 127.0.0.1: 220 texts to send, roughly" in dry.err
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
    assert f"`{black_box.address}#tiny`" in card


def test_the_closed_form_starts_near_the_teacher(call, black_box, other, texts, tmp_path):
    """Nearer than a random layer, whose student has the same model and the same texts."""
    starts = {}
    for name, teacher, start in (
        ("ridge", service(black_box), []),
        ("random", ["--teacher", save_encoder(tmp_path / "wide", dense=24)],
         ["--projection", "random"]),
        ("ridge of a model", ["--teacher", tmp_path / "wide"], ["--projection", "ridge"]),
    ):  # fmt: skip
        output = tmp_path / name
        outcome = call(
            "distill", *teacher, "--init-with", other, *start, *texts, "--output", output, *TRAIN
        )
        assert outcome.status == 0, outcome.err
        starts[name] = curve(output)[0]
    assert starts["ridge of a model"] < 0.5 * starts["random"]
    assert starts["ridge"] < 0.5 * starts["random"] * 24 / 32 + 1


def test_a_static_student_of_a_service(call, black_box, teacher, texts, tmp_path):
    arguments = [*service(black_box), "--init-with", "static", *texts, *TRAIN,
                 "--recipe", "best", "--num-epochs", 5, "--output",
                 tmp_path / "student"]  # fmt: skip
    refused = call("distill", *arguments)
    assert refused.status == 2
    assert "tiny of 127.0.0.1 has no tokens: name a model with a vocabulary" in refused.err
    outcome = call("distill", *arguments, "--vocabulary", teacher)
    assert outcome.status == 0, outcome.err
    model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    kinds = [type(m).__name__ for m in model]
    kinds_of_step = ["Dense", "Normalize"]  # back to the mean, which is long here
    assert kinds == ["StaticEmbedding", "Dense", "Dense", "Normalize", *kinds_of_step]
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
        "distill", "--teacher", vectors, "--init-with", other, "--output", student, *TRAIN
    )
    assert outcome.status == 0, outcome.err
    counts = report(student)["queries"]
    assert counts["training"] + counts["validation"] == 300
    assert counts["validation"] >= 1
    # So few texts teach nothing beyond the start, which is kept.
    model = SentenceTransformer(str(student), device="cpu")
    held_out = open_encoder(str(vectors))
    wanted = held_out.encode_query(held_out.texts[1])
    found = np.mean((model.encode_query(held_out.texts[1]) - wanted) ** 2)
    assert found == pytest.approx(min(curve(student)), rel=0.02)
    card = (student / "README.md").read_text()
    assert f"| {counts['training']} ({vectors}) |" in card
    assert "MS MARCO" not in card


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: --teacher"),
        (["--teacher", "http://h/v1"], "http://h/v1 names no model: write https://HOST/v1#NAME"),
        (["--teacher", "https://h#m"], "has no path"),
        (["--teacher", "t", "--service-option", "a=1"], "t is no service, whose requests"),
        (["--teacher", "v.npz", "--teacher-prompt", "q"], "v.npz has vectors already"),
        (["--teacher", "v.npz", "--truncate-dim", 3], "the dimensions of v.npz cannot be cut"),
        (["--teacher", "none.npz"], "no file none.npz"),
        (["--teacher", "t", "u"], "one encoder is wanted, and u is a second"),
    ],
)
def test_bad_arguments(call, tmp_path, arguments, says):
    outcome = call(
        "distill", *arguments, "--init-with", "m", "--output", tmp_path / "s", "--device", "cpu"
    )
    assert outcome.status == 2
    assert says in outcome.err
    assert not (tmp_path / "s").exists()


def test_what_a_service_or_vectors_do_not_have(call, black_box, vectors, texts, tmp_path):
    """Said before anything is embedded."""
    output = ["--output", tmp_path / "s", "--device", "cpu"]
    of_service = call("distill", *service(black_box), "--layers", 0, *texts, *output)
    assert "tiny of 127.0.0.1 has no layers: start from another model, or static" in of_service.err
    of_vectors = call("distill", "--teacher", vectors, "--layers", 0, *output)
    assert "vectors.npz has no layers: start from another model, or static" in of_vectors.err
    named = call("distill", "--teacher", vectors, "--init-with", "static", *texts, *output)
    assert "vectors.npz has the texts to train on: name no others beside it" in named.err
    assert {of_service.status, of_vectors.status, named.status} == {2}
    assert set(black_box.texts) == set(FIXED_TEXTS)


def test_no_key(call, black_box, other, texts, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    arguments = [*service(black_box), "--init-with", other, *texts, "--output", tmp_path / "s"]
    outcome = call("distill", *arguments, "--device", "cpu")
    assert outcome.status == 2
    assert outcome.err.endswith("; set the variable OPENAI_API_KEY.\n")


def test_long_texts_are_skipped(call, black_box, other, queries, valid_queries, tmp_path):
    """What is left is trained on, and the log is still that of before; unless nothing is left."""
    with queries.open("a") as log:
        log.write("q-long\t" + "long " * 30 + "\n")
    black_box.longest = 100
    arguments = [*service(black_box), "--init-with", other, "--long-texts", "skip", *TRAIN]
    outcome = call("distill", *arguments, "--queries", queries, "--valid-queries", valid_queries,
                   "--output", tmp_path / "s")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "1 texts are left out, as the teacher gives no vector of them." in outcome.err
    (tmp_path / "long.txt").write_text("".join(f"{n} {'long ' * 30}\n" for n in range(9)))
    for use, own in (("train", ["--queries", tmp_path / "long.txt", "--valid-queries", queries]),
                     ("validate", ["--queries", queries, "--valid-queries",
                                   tmp_path / "long.txt"])):  # fmt: skip
        outcome = call("distill", *arguments, *own, "--output", tmp_path / use)
        assert outcome.status == 2
        assert f"the teacher gives no vector of any text to {use} on." in outcome.err


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
@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.long)])
def test_killed_no_text_is_paid_for_twice(black_box, other, call, tmp_path, home, times):
    """But those of the block in flight; and the vectors are those of an unbroken run."""
    queries, valid = tmp_path / "many.txt", tmp_path / "some.txt"
    queries.write_text("".join(f"query {i} of {i % 11}\n" for i in range(9 * BLOCK)))
    valid.write_text("".join(f"held out {i}\n" for i in range(20)))
    arguments = [*service(black_box), "--init-with", str(other), "--queries", str(queries),
                 "--valid-queries", str(valid), "--output", str(tmp_path / "s"), "--num-epochs",
                 "1", "--recipe", "paper", "--train-batch-size", "4096", "--device",
                 "cpu"]  # fmt: skip
    command = [sys.executable, str(ROOT / "distill.py"), *arguments]
    answer = black_box.embed
    black_box.embed = lambda texts: time.sleep(0.01) or answer(texts)
    chance = random.Random(0)
    kills = sent = 0
    while kills < times:
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
    lines = queries.read_text().splitlines()
    found = open_encoder(f"{black_box.address}#tiny").embed_once(lines)[:]
    np.testing.assert_allclose(found, answer(lines), atol=1e-5)
    assert len([text for text in black_box.texts if text not in FIXED_TEXTS]) == 9 * BLOCK + 20
    assert sum(black_box.texts.values()) == sum(asked) + sum(map(black_box.texts.get, FIXED_TEXTS))
