"""A student that is watched: silence on more of the same, a word on what has changed."""

import json
import time
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from embedding_service import EmbeddingService, letters
from test_server import serving
from tiny import save_encoder

from disret.encode.encoders import open_encoder
from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve import watch as module
from disret.serve.comparison import Teacher
from disret.serve.export import export
from disret.serve.watch import Watch

FIRST, EVERY = 40, 20  # in place of more, which take longer
EXPECTED = 0.8, 0.1  # mean and standard deviation of the centred cosine


def log(count: int, seed: int) -> list[str]:
    """Queries as one log has them."""
    chance = np.random.default_rng(seed)
    words = ["river", "stone", "bread", "music", "king", "paper", "winter", "engine"]
    return [" ".join(chance.choice(words, 4)) for _ in range(count)]


def foreign(count: int, seed: int) -> list[str]:
    """Queries of another language."""
    chance = np.random.default_rng(seed)
    words = ["ジャズ", "Ölkännchen", "zwölf", "żółw", "über", "fjord", "søster"]
    return [" ".join(chance.choice(words, 4)) for _ in range(count)]


@pytest.fixture
def service():
    running = EmbeddingService(letters)
    yield running
    running.close()


@pytest.fixture
def student(service, tmp_path):
    """Vectors as a student gives them that follows the teacher on some queries, not on others."""

    def vectors(texts: list[str]) -> np.ndarray:
        targets, chance = letters(texts), np.random.default_rng(len(texts[0]))
        centre = targets - letters(log(500, 9)).mean(axis=0)
        noise = chance.normal(size=centre.shape)
        noise *= (
            np.linalg.norm(centre, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1)[:, None]
        )
        known = np.array([text.isascii() for text in texts])[:, None]
        return (targets + np.where(known, 0.6, 3.0) * noise).astype(np.float32)

    return vectors


def expected_of(student) -> tuple[float, float]:
    from disret.retrieve.agreement import centred_cosines

    texts = log(500, 1)
    cosines = centred_cosines(letters(texts), student(texts))
    return float(cosines.mean()), float(cosines.std())


@pytest.fixture
def watch(service, student, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST", FIRST)
    monkeypatch.setattr(module, "EVERY", EVERY)

    def start(share: float = 1.0, **more) -> Watch:
        teacher = Teacher(lambda: open_encoder(f"{service.url}/v1#tiny"))
        more = {"held_out": expected_of(student), "worst": tmp_path / "worst.txt"} | more
        return Watch("student", teacher, share, seed=0, **more)

    return start


def offer(watch: Watch, texts: list[str], student) -> None:
    vectors = student(texts)
    for text, vector in zip(texts, vectors, strict=True):
        watch.offer([text], vector[None])
        watch.wait()


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_more_of_the_same_is_met_with_silence(watch, student, capsys, seed, tmp_path):
    offer(watch(), log(FIRST + 4 * EVERY, seed), student)
    assert "warning" not in capsys.readouterr().err
    written = (tmp_path / "worst.txt").read_text().splitlines()
    assert 0 < len(written) < 0.2 * (FIRST + 4 * EVERY)


def test_texts_that_were_held_out_may_be_of_other_kinds(watch, student, capsys):
    """What the first queries say is a word, and no warning; nor are the next, which are alike."""
    watching = watch(held_out=(0.99, 0.01))
    offer(watching, log(FIRST + 2 * EVERY, 2), student)
    said = capsys.readouterr().err
    assert "it was trained on texts of other kinds" in said
    assert "warning" not in said
    assert watching.expected[0] < 0.9
    offer(watching, foreign(3 * EVERY, 3), student)
    assert "warning: student follows its teacher less" in capsys.readouterr().err


def test_queries_of_another_language_are_noticed(watch, student, capsys, tmp_path):
    watching = watch()
    offer(watching, log(FIRST, 2), student)
    strange = foreign(3 * EVERY, 3)
    offer(watching, strange, student)
    said = capsys.readouterr().err
    assert said.count("warning: student follows its teacher less than it did") == 1
    assert "is another model now" not in said
    written = (tmp_path / "worst.txt").read_text().splitlines()
    assert len(set(written) & set(strange)) > 0.5 * len(set(strange))


def test_a_teacher_that_was_replaced_is_noticed(watch, student, service, capsys):
    watching = watch()
    offer(watching, log(FIRST, 2), student)
    service.embed = lambda texts: np.roll(letters(texts), 1, axis=1)
    offer(watching, log(2 * EVERY, 3), student)
    assert capsys.readouterr().err.count("answers fixed texts otherwise than when") == 1


def test_a_teacher_that_does_not_answer_costs_the_watch_alone(watch, student, service, capsys):
    watching = watch()
    service.faults = [400] * 1000
    texts = log(20, 2)
    vectors = student(texts)
    start = time.monotonic()
    for text, vector in zip(texts, vectors, strict=True):
        watching.offer([text], vector[None])
    assert time.monotonic() - start < 1
    watching.wait()
    assert capsys.readouterr().err.count("could not be asked") == 1


def test_a_share_is_watched(watch, student, service):
    watching = watch(0.2)
    offer(watching, log(5, 1), student)  # one of which opens the teacher
    texts = log(400, 2)
    before = sum(service.texts.values())
    for text, vector in zip(texts, student(texts), strict=True):
        watching.offer([text], vector[None])
    watching.wait()
    assert 40 < sum(service.texts.values()) - before < 130


def test_the_server_watches_and_measures(tmp_path, service):
    """The export carries what to expect; who has none is told."""
    model = load_encoder(str(save_encoder(tmp_path / "m", layers=1, dense=16)), "cpu")
    export(model, tmp_path / "m", log(30, 1), tmp_path / "m")
    assert QueryEncoder.from_pretrained(tmp_path / "m").settings["held_out"] == {}
    arguments = tmp_path / "m", "--teacher", f"{service.url}/v1#tiny", "--watch", 1
    with serving(tmp_path, *arguments, key=None) as server:
        for text in log(module.FIRST, 2):
            assert server.embed(text, "m").status_code == 200
        for _ in range(400):
            if server.measured("watched_total") >= module.FIRST:
                break
            time.sleep(0.05)
        assert server.measured("watched_total") == module.FIRST
        shown = server.http.get("/metrics").text
        assert 'disret_watched_agreement{measure="centred_cosine",model="m"}' in shown
        assert "by its fingerprint another encoder than tiny" in server.log.read_text()
    service.close()  # a teacher that is away keeps no student down
    with serving(tmp_path, *arguments, key=None) as server:
        assert server.embed("a query", "m").status_code == 200


@pytest.mark.kill
def test_a_teacher_that_hangs_holds_nobody(tmp_path, service):
    """Neither those who ask the student, nor the end of the server."""
    model = load_encoder(str(save_encoder(tmp_path / "m", layers=1, dense=16)), "cpu")
    export(model, tmp_path / "m", log(30, 1), tmp_path / "m")
    open_encoder(f"{service.url}/v1#tiny")  # what it says to the fixed texts is known
    held = Event()
    service.embed = lambda texts: held.wait(60) and letters(texts)
    arguments = tmp_path / "m", "--teacher", f"{service.url}/v1#tiny", "--watch", 1
    with serving(tmp_path, *arguments, key=None) as server:
        for text in log(20, 2):
            assert server.embed(text, "m").elapsed.total_seconds() < 5
        server.process.terminate()
        assert server.process.wait(20) == 0
    held.set()


def test_what_distil_notes_an_export_carries(tmp_path):
    folder = save_encoder(tmp_path / "m", layers=1)
    report = {"arguments": {"teacher": "t"}, "inputs": {"teacher_sha256": "0" * 64},
              "centred_cosine": EXPECTED[0], "centred_cosine_spread": EXPECTED[1]}  # fmt: skip
    (Path(folder) / "distillation.json").write_text(json.dumps(report))
    export(load_encoder(str(folder), "cpu"), folder, log(30, 1), folder)
    held_out = QueryEncoder.from_pretrained(folder).settings["held_out"]
    assert tuple(held_out.values()) == EXPECTED
