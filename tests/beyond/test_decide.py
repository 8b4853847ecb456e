"""The verdict by planted cases of every rule, and the whole command on a small collection."""

import json
import re

import numpy as np
import pytest
from conftest import load, write_collection
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

decide = load("beyond/decide")
Candidate = decide.Candidate


def candidate(name: str, kind: str, ndcg: np.ndarray, total_ms: float, **more) -> Candidate:
    values = {
        "encode_ms": total_ms / 2,
        "memory_mb": 90.0,
        "once": 0.0,
        "month": 29.0,
        "per_core": 9.0,
        "run": {},
        **more,
    }
    return Candidate(name, kind, ndcg, total_ms=total_ms, **values)


def world(queries: int = 400, **shares: float) -> list[Candidate]:
    """A teacher of 100 ms, and what keeps a share of it, each query a little more or less."""
    chance = np.random.default_rng(0)
    teacher = chance.uniform(0.3, 0.9, queries)
    found = [candidate("teacher", "teacher", teacher, 100.0, month=300.0)]
    for name, share in shares.items():
        kind = "rival" if name.startswith("rival") else "student"
        own = np.clip(share * teacher + chance.normal(0, 0.02, queries), 0, 1)
        found.append(candidate(name, kind, own, {"static": 0.1}.get(name, 10.0)))
    return found


def test_the_fastest_of_those_that_keep_as_much():
    """A student that is worse by more than chance is not taken for its speed."""
    outcome, choice, reason = decide.verdict(world(two=0.95, static=0.90))
    assert (outcome, choice) == ("student", "two")
    assert re.match(
        r"Take two: it keeps 95 % of the teacher \(\d+ to \d+\), in 10\.00 ms instead", reason
    )
    assert decide.verdict(world(two=0.95, static=0.95))[:2] == ("student", "static")


def test_a_rival_that_scores_higher():
    outcome, choice, reason = decide.verdict(world(two=0.90, rival=0.96))
    assert (outcome, choice) == ("rival", "rival")
    assert reason.startswith("Do not distil: rival scores")
    found = world(two=0.90, rival=0.96)
    anew = [*found[:2], found[2]._replace(once=3.0)]
    assert "embeds the documents anew for $3.00" in decide.verdict(anew)[2]
    slow = [*found[:2], found[2]._replace(total_ms=200.0)]
    assert decide.verdict(slow)[:2] == ("student", "two")
    assert decide.verdict(world(two=0.95, rival=0.95))[0] == "student"  # by chance
    assert decide.verdict(world(two=0.5, rival=0.7))[0] == "teacher"  # neither is enough


def test_a_student_that_keeps_too_little():
    outcome, choice, reason = decide.verdict(world(two=0.8))
    assert (outcome, choice) == ("teacher", "teacher")
    assert "keeps 80 % of the teacher" in reason


def test_a_teacher_that_is_fast_enough():
    teacher, *students = world(two=0.95)
    quick = teacher._replace(total_ms=15.0, month=29.0)
    assert decide.verdict([quick, *students])[0] == "teacher"
    dear = teacher._replace(total_ms=15.0, month=58.0)
    assert decide.verdict([dear, *students])[0] == "student"


def test_too_few_queries_to_tell():
    outcome, _, reason = decide.verdict(world(queries=49, two=0.95))
    assert outcome == "unclear"
    assert reason.startswith("Too few queries to tell: 49 are judged")
    chance = np.random.default_rng(1)
    noisy = [candidate("teacher", "teacher", chance.uniform(0, 1, 60), 100.0),
             candidate("two", "student", chance.uniform(0, 1, 60), 10.0)]  # fmt: skip
    assert decide.verdict(noisy)[0] == "unclear"


def of_log(queries: int = 400, **shares: float) -> list[Candidate]:
    """The same without judgments: the teacher finds its own ten best, students a share of them."""
    chance = np.random.default_rng(0)
    found = [candidate("teacher", "teacher", np.ones(queries), 100.0, month=300.0)]
    for name, share in shares.items():
        own = chance.binomial(10, share, queries) / 10
        found.append(candidate(name, "student", own, {"static": 0.1}.get(name, 10.0)))
    return found


@pytest.mark.parametrize(
    ("overlap", "outcome", "said"),
    [
        (0.85, "student", r"Take two: it finds 8\d % of the teacher's ten best \(\d+ to \d+\)"),
        (0.85, "student", r"which students kept 95\.0 to 107\.6 % of nDCG@10, in 10\.00 ms"),
        (0.75, "student", r"kept 85\.7 to 99\.2 %"),
        (0.55, "unclear", r"Overlap alone does not tell: two finds 5\d % .* judge 50 queries"),
        (0.15, "teacher", r"Stay with the teacher: the best student, two, finds 1\d %"),
    ],
)  # fmt: skip
def test_an_overlap_decides_where_it_can(overlap, outcome, said):
    """The bounds are what students of such an overlap were measured to keep."""
    found = decide.verdict(of_log(two=overlap), judged=False)
    assert found[0] == outcome
    assert re.search(said, found[2])


def test_without_judgments_a_student_must_keep_enough_too():
    assert decide.verdict(of_log(two=0.85, static=0.85), judged=False)[:2] == ("student", "static")
    assert decide.verdict(of_log(two=0.75, static=0.65), judged=False)[:2] == ("student", "two")
    outcome, _, reason = decide.verdict(of_log(queries=30, two=0.85), judged=False)
    assert outcome == "unclear"
    assert reason.startswith("Too few queries to tell: 30 are there")


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A teacher, two students, a rival of another width, a log and a judged collection."""
    monkeypatch.chdir(tmp_path)
    save_encoder(tmp_path / "teacher", layers=2)
    save_encoder(tmp_path / "one", layers=1)
    save_encoder(tmp_path / "other", layers=1, seed=1)
    save_encoder(tmp_path / "rival", layers=1, seed=2, dense=16)
    write_collection(tmp_path / "things", 80)
    (tmp_path / "log.txt").write_text("".join(f"what is number {i}\n" for i in range(60)))
    return ["--teacher", "teacher", "--students", "one", "other", "--rivals", "rival", "bm25",
            "--datasets", "things", "--queries", "log.txt", "--output", "decision",
            "--score-function", "cos_sim"]  # fmt: skip


def test_the_command_and_its_page(things, call, tmp_path):
    outcome = call("beyond/decide", *things)
    assert outcome.status == 0, outcome.err
    report = json.loads((tmp_path / "decision" / "report.json").read_text())
    (found,) = report["reports"]
    assert [(row["name"], row["kind"]) for row in found["rows"]][:6] == [
        ("teacher", "teacher"), ("one", "student"), ("other", "student"),
        ("linear map from rival", "linear map"), ("rival", "rival"), ("BM25", "rival"),
    ]  # fmt: skip
    assert found["rows"][6]["kind"] == "with BM25"
    assert found["rows"][0]["kept"] == 100
    assert [row["once"] for row in found["rows"][1:3]] == [None, None]  # nothing tells it
    assert all(row["total_ms"] > row["encode_ms"] >= 0 for row in found["rows"])
    assert 0 < len(found["worst"]) <= 5
    lost = [one["scores"][0] - one["scores"][1] for one in found["worst"]]
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] > 0
    best = max(found["rows"][1:3], key=lambda row: row["ndcg"])
    assert {one["student"] for one in found["worst"]} == {best["name"]}
    for side in found["worst"][0]["hits"]:
        assert all(text.startswith(f"title {id[1:]} thing {id[1:]} ") for id, text in side)
    last = outcome.out.splitlines()[-1]
    assert last == f"verdict: {found['verdict']} | {found['choice']} | things"
    page = (tmp_path / "decision" / "report.html").read_text()
    assert found["reason"] in page
    assert "/* the report */" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_an_index_and_a_log_without_judgments(things, call, tmp_path):
    """The teacher's own hits are what should be found; rivals are left out, which is said."""
    teacher, one = (SentenceTransformer(name, device="cpu") for name in ("teacher", "one"))
    vectors = teacher.encode([f"number {i}" for i in range(80)])
    np.save("documents.npy", vectors)
    (tmp_path / "log.txt").write_text("".join(f"which is number {i}\n" for i in range(1050)))
    at = things.index("--datasets")
    things = [*things[:at], *things[at + 2 :], "--index", "documents.npy", "--ids", "rows",
              "--dtype", "float32"]  # fmt: skip
    outcome = call("beyond/decide", *things)
    assert outcome.status == 0, outcome.err
    (found,) = json.loads((tmp_path / "decision" / "report.json").read_text())["reports"]
    assert (found["measure"], found["judged"], found["queries"]) == ("overlap@10", False, 1000)
    assert [row["kind"] for row in found["rows"]] == ["teacher", *["student"] * 2, "linear map"]
    assert found["rows"][0]["ndcg"] == 1
    asked = [f"which is number {i}" for i in range(1000)]
    cosines = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    best = [np.argsort(-model.encode(asked) @ cosines.T)[:, :10] for model in (teacher, one)]
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(*best, strict=True)]
    assert found["rows"][1]["ndcg"] == pytest.approx(np.mean(shares), abs=2e-4)
    assert "nothing tells how well others rank: rival, bm25 left out" in outcome.out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--datasets": None}, "name --datasets with judgments, or an --index"),
        ({"--students": "nowhere"}, "cannot load the model"),
        ({"--students": "rival"}, "named twice"),
        ({"--datasets": "nothing"}, "no data set or directory"),
        ({"--qps": "0"}, "must be positive"),
        ({"--queries": "none.txt"}, "no file none.txt"),
        ({"--teacher": "log.txt"}, "log.txt"),
        ({"--rivals": "one@int8"}, "one holds no exported query encoder"),
        ({"--index": "teacher.npy"}, "teacher.npy has no document ids"),
        ({"--index": "teacher.npy", "--ids": "rows"}, "has no judgment of a known document"),
    ],
)
def test_what_cannot_be(things, call, changed, said):
    np.save("teacher.npy", np.ones((80, 32), np.float32))
    for flag, value in changed.items():
        if value is None:
            del things[things.index(flag) : things.index(flag) + 2]
        elif flag in things:
            things[things.index(flag) + 1] = value
        else:
            things += [flag, value]
    outcome = call("beyond/decide", *things)
    assert outcome.status == 2
    assert said in outcome.err


def test_a_page_shows_names_as_text(tmp_path):
    decide.write_page(tmp_path / "p.html", {"reports": [], "command": "</script><b>x"})
    assert "</script><b>x" not in (tmp_path / "p.html").read_text()
