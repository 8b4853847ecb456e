"""Killed at random moments, each script goes on to the bytes of an unbroken run.

One kill of each kind, or with `-m long` fifty. The moments are drawn from a seed; the signals take
turns. Afterwards nothing half written is left.
"""

import contextlib
import csv
import json
import math
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
from conftest import ROOT, accept_interrupts, set_home, write_collection
from tiny import save_encoder

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL,
           signal.SIGHUP)  # fmt: skip
TRAIN = ["--recipe", "paper", "--queries", "train.tsv", "--valid-queries", "valid.txt",
         "--train-batch-size", "16", "--warmup-steps", "2", "--device", "cpu",
         "--teacher-dtype", "float32"]  # fmt: skip
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
              "--", *TRAIN],
}  # fmt: skip
KILLS = {"sweep": 5, "distill": 16, "benchmark": 16, "export": 8, "ispeed": 5}
# What differs from run to run: times of day, durations and speeds.
VOLATILE = re.compile(r"datetime|.*_ms|runs|.*per_second|spread_percent|speedup|peak_memory_mb")


@pytest.fixture
def start(tmp_path, home):
    """A function that makes a fresh world and gives its folder."""

    def make(folder: Path, documents: int, queries: int) -> None:
        save_encoder(folder / "teacher", layers=2)
        save_encoder(folder / "other", layers=1, seed=1)
        write_collection(folder / "home" / "benchmarks" / "raw" / "things", documents)
        lines = (f"{i}\twhat is number {i * i} of {i % 7}\n" for i in range(queries))
        (folder / "train.tsv").write_text("".join(lines))
        valid = "".join(f"who has seen {i * 3} things\n" for i in range(20))
        (folder / "valid.txt").write_text(valid)

    def fresh(name: str, small: bool = False) -> Path:
        made = tmp_path / "made"
        if not made.exists():
            make(made, *((60, 60) if small else (7000, 400)))
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


FIFTY = [pytest.param(script, count, marks=pytest.mark.long) for script, count in KILLS.items()]
ONCE = [(script, 1) for script in KILLS if script != "sweep"]  # which has one in test_sweep.py


@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("script", "count"), [*FIFTY, *ONCE])
def test_killed_at_random_moments(start, script, count):
    world = start("unbroken")
    seconds = finish(begin(script, world))
    expected = result(world)

    chance = random.Random(script)
    first = list(KILLS).index(script)  # of a single kill each, every signal has its turn
    world = start("killed")
    kills = 0
    while kills < count:
        process = begin(script, world)
        number = SIGNALS[(first + kills) % len(SIGNALS)]
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
    finish(begin(script, world))
    assert differing(world, expected) == []


class CutOff(BaseException):
    """What a kill between two steps comes to, each of which happens whole or not at all."""


@pytest.mark.kill
@pytest.mark.parametrize(
    "script", ["distill", "benchmark", pytest.param("export", marks=pytest.mark.long)]
)
def test_cut_off_before_each_step(start, script, call, monkeypatch):
    """A file appears by `Path.replace`: the n-th does not happen, for every n."""
    first, *words = COMMANDS[script]
    name = words.pop(0) if first == "-m" else first.removesuffix(".py")

    def run(world: Path, steps: float) -> int:
        """Run the script until so many files were put in place; the number that were."""
        done = 0
        replace = Path.replace

        def counted(path: Path, target: Path) -> Path:
            nonlocal done
            if done == steps:
                raise CutOff
            done += 1
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.chdir(world)
            set_home(patch, world / "home")
            patch.setattr(Path, "replace", counted)
            # The process that was cut off is gone, though it is this one.
            patch.setattr("psutil.pid_exists", lambda number: number != os.getpid())
            with contextlib.suppress(CutOff):
                outcome = call(name, *words)
                assert outcome.status == 0, outcome.err[-2000:]
        return done

    world = start("unbroken", small=True)
    steps = run(world, math.inf)
    assert steps > 5
    expected = result(world)
    for number in range(steps):
        world = start("cut", small=True)
        assert run(world, number) == number
        run(world, math.inf)
        assert differing(world, expected) == [], f"cut off before step {number + 1}"
