"""Two query encoders compared query by query."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from disret.command_line import UserError
from disret.retrieve.metrics import write_trec_run
from disret.retrieve.runs import read_run
from disret.retrieve.significance import compare, per_query, retention_interval

QRELS = {f"q{i}": {f"d{i}": 1} for i in range(12)}


def ranked(folder, name, rank_of):
    """A run that finds each query's document at a rank."""
    run = {
        query: {
            **{f"x{place}": 10.0 - place for place in range(rank_of(number))},
            f"d{number}": 10.0 - rank_of(number),
        }
        for number, query in enumerate(QRELS)
    }
    path = folder / f"{name}.trec"
    write_trec_run(path, run, name)
    return path


def test_scores_of_each_query(tmp_path):
    path = ranked(tmp_path, "run", lambda number: number % 2)
    found = per_query(QRELS, read_run(path, QRELS))
    assert found["q0"] == 1.0
    assert found["q1"] == pytest.approx(0.6309, abs=1e-4)
    assert found.keys() == QRELS.keys()


def test_a_missing_query_scores_nothing(tmp_path):
    path = ranked(tmp_path, "run", lambda number: 0)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert per_query(QRELS, read_run(path, QRELS))["q11"] == 0.0


def test_chance_and_difference():
    worse = dict.fromkeys(QRELS, 0.5)
    mixed = {query: 0.5 + 0.1 * (-1) ** number for number, query in enumerate(QRELS)}
    better = {query: 0.6 + 0.01 * number for number, query in enumerate(QRELS)}
    clear, chance = compare(worse, better), compare(worse, mixed)
    assert clear["difference"] == pytest.approx(0.155)
    assert clear["p"] < 0.001
    assert (clear["better"], clear["worse"]) == (12, 0)
    assert chance["difference"] == pytest.approx(0)
    assert chance["p"] > 0.9


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other").write_text("no run\n")
    with pytest.raises(UserError, match="TREC run"):
        read_run(tmp_path / "other", QRELS)
    run = ranked(tmp_path, "run", lambda number: 0)
    with pytest.raises(UserError, match="none of the queries"):
        read_run(run, {"another": {"d": 1}})


def test_interval_of_retention():
    """It holds the retention, narrows with queries and is a point where encoders are the same."""
    rng = np.random.default_rng(0)
    teacher = rng.uniform(0, 1, 400)
    student = np.clip(teacher - rng.uniform(0, 0.2, 400), 0, 1)
    kept = 100 * student.mean() / teacher.mean()
    low, high = retention_interval([student], [teacher])
    assert low < kept < high
    few = retention_interval([student[:40]], [teacher[:40]])
    assert few[1] - few[0] > 2 * (high - low)
    assert retention_interval([teacher, teacher], [teacher, teacher]) == pytest.approx((100, 100))
    # A mean of two sets is surer than either.
    both = retention_interval([student[:200], student[200:]], [teacher[:200], teacher[200:]])
    half = retention_interval([student[:200]], [teacher[:200]])
    assert both[1] - both[0] < half[1] - half[0]


def test_command(tmp_path, collection):
    paths = []
    for name, found in (("a", "d0"), ("b", "d1")):
        paths.append(tmp_path / f"{name}.trec")
        write_trec_run(paths[-1], {"q0": {found: 1.0}}, name)
    command = [
        sys.executable,
        "-m",
        "disret.retrieve.significance",
        "--dataset",
        collection,
        *paths,
    ]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert "worse on 1 of 12 queries" in result.stdout
