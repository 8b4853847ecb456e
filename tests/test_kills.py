"""Fifty kills at random moments: each script goes on to the bytes of an unbroken run.

The moments are drawn from a seed; the signals take turns. Afterwards nothing half written is left.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, accept_interrupts, write_collection
from tiny import save_encoder

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL,
           signal.SIGHUP)  # fmt: skip
TRAIN = ["--queries", "train.tsv", "--valid-queries", "valid.txt", "--train-batch-size", "16",
         "--warmup-steps", "2", "--device", "cpu", "--teacher-dtype", "float32"]  # fmt: skip
COMMANDS = {
    "distill": ["distill.py", "--teacher", "teacher", "--layers", "0", "1", "--output", "student",
                "--eval-steps", "8", "--num-epochs", "4", "--resume", *TRAIN],
    "benchmark": ["benchmark.py", "--datasets", "things", "--document-encoder", "teacher",
                  "--query-encoder", "other", "--save-runs", "runs", "--output", "scores.csv",
                  "--device", "cpu", "--dtype", "float32"],
    "export": ["-m", "disret.serve.export", "other", "--output", "exported", "--queries",
               "valid.txt"],
    "ispeed": ["ispeed.py", "--encoders", "teacher", "other", "--datasets", "things",
               "--batch-sizes", "1", "8", "--output", "speed.csv",
               "--device", "cpu"],
    "sweep": ["sweep.py", "--teacher", "teacher", "--datasets", "things", "--output", "sweep",
              "--batch-sizes", "8", "--", *TRAIN],
}  # fmt: skip
KILLS = {"sweep": 5, "distill": 16, "benchmark": 16, "export": 8, "ispeed": 5}
# What differs from run to run: times of day, durations and speeds.
VOLATILE = re.compile(r"datetime|.*_ms|runs|.*per_second|spread_percent|speedup|peak_memory_mb")


@pytest.fixture
def start(tmp_path, home):
    """A function that makes a fresh world and gives its folder."""
    made = tmp_path / "made"
    save_encoder(made / "teacher", layers=2)
    save_encoder(made / "other", layers=1, seed=1)
    write_collection(made / "home" / "benchmarks" / "raw" / "things", documents=7000)
    queries = "".join(f"{i}\twhat is number {i * i} of {i % 7}\n" for i in range(400))
    (made / "train.tsv").write_text(queries)
    (made / "valid.txt").write_text("".join(f"who has seen {i * 3} things\n" for i in range(20)))

    def fresh(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return shutil.copytree(made, tmp_path / name)

    return fresh


def begin(script: str, world: Path) -> subprocess.Popen:
    environment = {**os.environ, "DISRET_HOME": str(world / "home"), "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    first, *words = COMMANDS[script]
    command = [str(ROOT / first) if first.endswith(".py") else first, *words]
    return subprocess.Popen(
        [sys.executable, *command], cwd=world, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=accept_interrupts,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> float:
    """Wait for a run that must succeed; the seconds that it took from now."""
    before = time.perf_counter()
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error[-2000:]
    return time.perf_counter() - before


def result(world: Path) -> dict[str, object]:
    """All that a run leaves, without what differs from run to run."""
    return {
        str(path.relative_to(world)): stable(path)
        for path in sorted(world.rglob("*"))
        if not path.name.endswith(".lock")  # empty, and of use to the next run
    }


def differing(world: Path, expected: dict[str, object]) -> list[str]:
    """The paths whose contents differ, or that only one of the two runs left."""
    found = result(world)
    paths = sorted(found.keys() | expected.keys())
    return [path for path in paths if found.get(path, ...) != expected.get(path, ...)]


def stable(path: Path) -> object:
    if not path.is_file():
        return None
    if path.name == "distillation.json":
        return {**json.loads(path.read_text()), "seconds": None, "resumed_at_step": None}
    if path.name == "scores.json":  # a row for each run that came to its end
        return json.loads(path.read_text())[-1]["arguments"]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: v for k, v in row.items() if not VOLATILE.fullmatch(k)} for row in rows]
    if path.suffix == ".png" or path.name == "tables.md":
        return path.stat().st_size > 0
    return path.read_bytes()


@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", KILLS)
def test_killed_at_random_moments(start, script):
    world = start("unbroken")
    seconds = finish(begin(script, world))
    expected = result(world)

    chance = random.Random(script)
    world = start("killed")
    kills = finished = 0
    while kills < KILLS[script]:
        process = begin(script, world)
        number = SIGNALS[kills % len(SIGNALS)]
        try:
            _, error = process.communicate(timeout=chance.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:  # to the script alone, which ends what it has started
                process.send_signal(number)
            process.communicate()
            kills += process.returncode != 0
        else:
            assert process.returncode == 0, error[-2000:]
        if process.returncode == 0:
            assert differing(world, expected) == []
            world = start("killed")
            finished += 1
    finish(begin(script, world))
    assert differing(world, expected) == []
