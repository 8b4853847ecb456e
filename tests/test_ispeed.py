"""ispeed.py: what it reports, and what it refuses."""

import shutil
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT, write_collection
from tiny import save_encoder

from disret import paths
from disret.tables import read_rows


@pytest.fixture
def encoders(teacher, tmp_path):
    return [teacher, save_encoder(tmp_path / "small", layers=1)]


def test_reports_every_run(call, encoders, queries, tmp_path):
    outcome = call(
        "ispeed", "--encoders", *encoders, "--queries", queries, "--batch-sizes", 8, 32,
        "--num-runs", 3, "--max-sentences", 50, "--device", "cpu", "--output", tmp_path / "s.csv",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    rows = read_rows(tmp_path / "s.csv")
    assert [(row["batch_size"], row["layers"]) for row in rows] == [
        (8, 4), (8, 1), (32, 4), (32, 1),
    ]  # fmt: skip
    for row in rows:
        runs = [float(value) for value in row["runs"].split()]
        assert len(runs) == 3
        median = statistics.median(runs)
        assert row["queries_per_second"] == pytest.approx(median, abs=0.1)
        spread = 100 * (max(runs) - min(runs)) / median
        assert row["spread_percent"] == pytest.approx(spread, abs=0.2)
        assert row["queries"] == 50
        assert row["dtype"] == "float32"
        assert row["peak_memory_mb"] >= round(4 * row["parameters"] / 1e6, 1) > 0
        assert row["device"]
    assert rows[0]["speedup"] == 1
    ratio = rows[1]["queries_per_second"] / rows[0]["queries_per_second"]
    assert rows[1]["speedup"] == pytest.approx(ratio, abs=0.02)
    # Runs take turns.
    turns = [line.rsplit(": ", 1)[1] for line in outcome.err.splitlines() if "run " in line]
    assert turns[:4] == [str(encoder) for encoder in encoders] * 2


@pytest.mark.export
def test_backends_take_turns(call, teacher, queries, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    missing = call("ispeed", "--encoders", folder, "--queries", queries, "--backends", "export")
    assert missing.status == 2
    assert "holds no exported query encoder" in missing.err
    assert call("disret.serve.export", folder, "--queries", queries).status == 0
    outcome = call(
        "ispeed", "--encoders", folder, "--queries", queries, "--batch-sizes", 1, 16,
        "--num-runs", 2, "--max-sentences", 20, "--backends", "torch", "export", "export-int8",
        "--threads", 1, "--device", "cpu", "--output", tmp_path / "s.csv",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    rows = read_rows(tmp_path / "s.csv")
    assert [(row["batch_size"], row["backend"], row["dtype"]) for row in rows] == [
        (size, backend, "int8" if backend == "export-int8" else "float32")
        for size in (1, 16)
        for backend in ("torch", "export", "export-int8")
    ]
    for row in rows[:3]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert [row["p50_ms"] for row in rows[3:]] == [None] * 3
    assert {row["layers"] for row in rows} == {4}
    assert len({row["parameters"] for row in rows}) == 1
    turns = [line.rsplit(" ", 1)[1] for line in outcome.err.splitlines() if "run " in line]
    assert turns[:6] == [str(folder), "export", "export-int8"] * 2


def test_uses_what_lies_under_benchmarks_raw(call, encoders):
    write_collection(paths.COLLECTIONS / "things", queries=9)
    outcome = call("ispeed", "--encoders", encoders[0], "--num-runs", 1, "--batch-sizes", 4)
    assert outcome.status == 0, outcome.err
    assert "things" in outcome.out


def test_a_missing_export_is_known_before_torch_is_loaded(teacher, queries):
    code = f"""
import sys, ispeed
sys.argv = ["ispeed.py", "--encoders", {str(teacher)!r}, "--queries", {str(queries)!r},
            "--backends", "torch", "export"]
try:
    ispeed.main()
except Exception as error:
    print(error)
sys.exit("torch" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "holds no exported query encoder" in result.stdout
    assert result.returncode == 0, "torch was loaded"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ([], "name --datasets or --queries"),
        (["--datasets", "nqq"], "did you mean nq"),
        (["--queries", "none.tsv"], "there is no file"),
        (["--queries", "x", "--datasets", "nq"], "exclude each other"),
        (["--batch-sizes", 0], "must be positive"),
        (["--threads", 0], "--threads: must be from 1 to 1024"),
        (["--encoders", "a", "a"], "twice"),
    ],
)
def test_bad_arguments(call, encoders, extra, reason):
    outcome = call("ispeed", "--encoders", encoders[0], *extra)
    assert outcome.status == 2
    assert reason in outcome.err
