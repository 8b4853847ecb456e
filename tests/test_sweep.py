"""The comparison of students in one command, killed and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pandas
import pytest
from conftest import ROOT
from tiny import save_encoder

import sweep


@pytest.fixture
def arguments(tmp_path, queries, valid_queries, collection):
    teacher = save_encoder(tmp_path / "teacher", layers=2)
    other = save_encoder(tmp_path / "other", "distilbert", layers=3, seed=1)
    return [
        "--teacher", teacher, "--others", f"{other}:0,2", "--datasets", collection,
        "--score-function", "cos_sim", "--output", tmp_path / "sweep",
        "--", "--recipe", "paper", "--queries", queries, "--valid-queries", valid_queries,
        "--device", "cpu", "--train-batch-size", 16, "--warmup-steps", 2,
    ]  # fmt: skip


@pytest.mark.kill
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_scripts_of_a_sweep_end_with_it(arguments, home, jobs):
    """By SIGTERM to the sweep alone; nothing half written stays."""
    command = [sys.executable, str(ROOT / "sweep.py"), "--jobs", str(jobs), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task")
    while len(scripts := running(children)) < jobs:
        assert process.poll() is None, "ended before its scripts began"
        time.sleep(0.02)
    time.sleep(1)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    last = error.decode().splitlines()[-1]
    assert last.startswith("sweep.py: ended by SIGTERM; this goes on from here: python sweep.py ")
    assert not any(Path(f"/proc/{script}").exists() for script in scripts)
    assert not list(home.rglob("*.partial")) or (home / "models").exists()


def running(tasks: Path) -> list[str]:
    """The processes that threads of a process have started."""
    return [child for task in tasks.glob("*/children") for child in task.read_text().split()]


@pytest.mark.kill
def test_sweep_is_killed_and_resumed(arguments, home, tmp_path):
    command = [sys.executable, str(ROOT / "sweep.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    students = home / "models" / "sweep"
    while not (students / "layers-0" / "README.md").exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first = (students / "layers-0" / "model.safetensors").stat().st_mtime_ns

    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (students / "layers-0" / "model.safetensors").stat().st_mtime_ns == first
    assert result.stdout.count("$ python distill.py") == 3
    assert "\n3 of 3: from other layers 0 2\n" in result.stdout
    assert result.stdout.count("$ python benchmark.py") == 1
    assert result.stdout.count("$ python ispeed.py") == 1
    assert "| things" in (students / "layers-1" / "README.md").read_text()
    names = ["layers-0", "layers-1", "from-other-layers-0-2"]
    assert sorted(path.name for path in students.glob("[!.]*")) == sorted(names)
    # Once each, for all students.
    assert len(list((home / "downloads" / "embeddings").glob("*.npy"))) == 2
    assert len(list((home / "downloads" / "tokens").glob("*.npz"))) == 1
    assert len(list((home / "benchmarks" / "faiss" / "things").glob("[!.]*"))) == 1

    output = tmp_path / "sweep"
    table = pandas.read_csv(output / "sweep.csv")
    assert set(table.student) == {"teacher", "layers 0", "layers 1", "from other layers 0 2"}
    assert set(table[table.student == "teacher"].retention) == {100.0}
    assert set(table.columns) == {
        "student", "layers", "choice", "dataset", "metric", "value", "retention",
        "queries_per_second", "timed_as", "centred_cosine",
    }  # fmt: skip
    assert table[table.student == "layers 1"].layers.unique().tolist() == [1]
    tables = (output / "tables.md").read_text()
    assert tables.strip() in result.stdout
    assert re.search(r"\| layers 0 +\| first +\|", tables)
    report = json.loads((students / "layers-1" / "distillation.json").read_text())
    row = next(line for line in tables.splitlines() if line.startswith("| layers 1 "))
    assert re.search(r"\| +retention \| +centred cosine \|", tables)
    assert re.search(rf" % \| +{report['centred_cosine']:.3f} \|", row)
    for figure in ("layers.png", "tradeoff.png", "throughput.png"):
        assert (output / figure).read_bytes().startswith(b"\x89PNG")


def test_a_failing_script_ends_the_sweep(arguments, script):
    arguments[arguments.index("--queries") + 1] = "none.tsv"
    outcome = script("sweep", *arguments, timeout=100)
    assert outcome.status == 2
    assert "there is no file none.tsv" in outcome.err
    assert "distill.py ended with status 2" in outcome.err
    assert outcome.out.count("$ python") == 1


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--teacher", "no-such/model", "cannot load the model"),
        ("--others", "no-such/model", "cannot load the model"),
        ("--others", "{other}:0;2", "expected layers such as 0,5"),
        ("--others", "{other}:0,9", "so there is no 9"),
        ("--datasets", "no-such-set", "no-such-set"),
    ],
)
def test_what_cannot_be_is_said_before_any_student(call, arguments, tmp_path, flag, value, reason):
    arguments[arguments.index(flag) + 1] = value.format(other=tmp_path / "other")
    outcome = call("sweep", *arguments)
    assert outcome.status == 2
    assert reason in outcome.err
    assert "$ python" not in outcome.out


@pytest.mark.parametrize("column", ["dataset", "device", "encoder", None])
def test_speeds_of_another_machine_are_none(tmp_path, monkeypatch, column):
    """Nor are those on other queries; the same are not measured again."""
    from disret.devices import device_name
    from disret.tables import write_rows

    here = {"dataset": "things", "device": device_name("cpu"), "queries_per_second": 1.0}
    rows = [{"encoder": "m", "batch_size": size, **here} for size in sweep.BATCH_SIZES]
    write_rows(
        tmp_path / "speed.csv", [{**row, **({column: "x"} if column else {})} for row in rows]
    )
    called = Mock(side_effect=lambda *words: Path(words[-1]).touch())
    monkeypatch.setattr(sweep, "call", called)
    monkeypatch.setattr("disret.devices.resolve_device", lambda device: "cpu")
    args = SimpleNamespace(output=tmp_path, datasets=["a", "things"])
    sweep.time_encoders(args, ["m"], tmp_path / "speed.csv")
    assert called.call_count == (column is not None)


def test_several_gpus_share_the_scoring(monkeypatch, capsys):
    """By torchrun, which the printed command names."""
    from disret.sweep import processes

    started = []
    monkeypatch.setattr(
        processes.subprocess, "Popen",
        lambda command, **kwargs: started.append(command) or Mock(wait=int, poll=int),
    )  # fmt: skip
    processes.call("benchmark.py", "--k-values", 10, processes=4)
    assert capsys.readouterr().out == "\n$ torchrun --nproc-per-node 4 benchmark.py --k-values 10\n"
    (command,) = started
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "4"]
