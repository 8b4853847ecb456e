"""What runs on a GPU gives what the CPU gives.

`DISRET_TEST_DEVICE=cpu pytest tests/test_cuda.py` tries the tests themselves where there is none.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from sentence_transformers import SentenceTransformer
from tiny import save_encoder

from disret.devices import has_bfloat16, resolve_device, resolve_dtype
from disret.distil.static import student_of_tokens
from disret.encode.batches import BatchEncoder
from disret.encode.encoders import open_encoder
from disret.encode.models import load_encoder, place
from disret.retrieve.index import Index, Shard, _write_shard
from disret.retrieve.search import search

DEVICE = os.environ.get("DISRET_TEST_DEVICE", "cuda")
HAS_GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not HAS_GPU, reason="no CUDA device is present"),
]
of_a_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="only a GPU shows it")

FAMILIES = ["bert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "distilbert",
            "modernbert", "qwen3", "t5"]  # fmt: skip
COSINE = {"float32": 0.99999, "float16": 0.9995, "bfloat16": 0.97}
TEXTS = ["", "short", *("w" * (i % 23) + f" {i}" for i in range(60)), "long " * 60]


def encoder_on(device, path, dtype="float32", batch_size=None) -> BatchEncoder:
    model = load_encoder(str(path), "cpu")
    place(model, device, dtype)
    return BatchEncoder(model, batch_size)


def lowest_cosine(found, wanted) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / lengths).min())


@pytest.mark.parametrize("dtype", COSINE)
@pytest.mark.parametrize("kind", FAMILIES)
def test_vectors_of_every_family(tmp_path, kind, dtype):
    if dtype == "bfloat16" and not has_bfloat16(resolve_device(DEVICE)):
        pytest.skip(f"{DEVICE} has no bfloat16")
    path = save_encoder(tmp_path / kind, kind, dense=24)
    wanted = load_encoder(str(path), "cpu").encode_query(TEXTS)
    found = encoder_on(DEVICE, path, dtype).encode_query(TEXTS)
    assert found.dtype == np.float32
    assert lowest_cosine(found, wanted) > COSINE[dtype]


def test_the_default_precision_is_one_that_the_device_has():
    resolve_device(DEVICE)
    assert resolve_dtype("auto", DEVICE) == (
        "bfloat16" if has_bfloat16(DEVICE) else "float16" if DEVICE == "cuda" else "float32"
    )


@pytest.mark.parametrize("k", [101, 1001, 2500])
@pytest.mark.parametrize("index_dtype", ["float16", "float32"])
def test_search(tmp_path, index_dtype, k):
    generator = np.random.default_rng(0)
    shards = []
    for number in range(30):
        vectors = generator.standard_normal((1000, 96), dtype=np.float32)
        shards.append(Shard(f"shard-{number:05d}.faiss", len(vectors), 0))
        _write_shard(tmp_path / shards[-1].file, vectors, index_dtype)
    index = Index(tmp_path, 96, tuple(shards))
    queries = generator.standard_normal((1500, 96), dtype=np.float32)
    wanted_scores, wanted = search(index, queries, k, "cpu")
    scores, found = search(index, queries, k, DEVICE)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-4)
    shared = [len(np.intersect1d(*rows)) for rows in zip(found, wanted, strict=True)]
    assert np.mean(shared) > 0.9999 * k  # but for what rounding leaves equal at the end


@of_a_gpu
def test_batches_are_halved_when_memory_runs_out(tmp_path, capsys):
    path = save_encoder(tmp_path / "t", "bert")
    wanted = load_encoder(str(path), "cpu").encode_query(TEXTS * 400)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(80e6 / total)  # without a limit, 110 MB
    try:
        found = encoder_on(DEVICE, path, batch_size=100_000).encode_query(TEXTS * 400)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory; going on with batches of" in capsys.readouterr().err
    assert lowest_cosine(found, wanted) > COSINE["float32"]


def test_a_static_student(teacher):
    student = student_of_tokens(load_encoder(str(teacher), "cpu"))
    wanted = student.encode_query(TEXTS[1:])
    student.to(DEVICE)
    found = BatchEncoder(student).encode_query(TEXTS[1:])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@of_a_gpu
def test_timing_waits_for_the_device(teacher):
    encoder = open_encoder(str(teacher), device=DEVICE)
    for _ in range(20):
        encoder.run(TEXTS, 16)
        assert torch.cuda.current_stream().query(), "work was still under way"


def distil_command(teacher, queries, valid_queries, output, *more) -> list[str]:
    return [
        "--teacher", str(teacher), "--layers", "0", "3", "--recipe", "paper",
        "--queries", str(queries), "--valid-queries", str(valid_queries),
        "--output", str(output), "--device", DEVICE,
        "--train-batch-size", "16", "--warmup-steps", "2", "--eval-steps", "4",
        "--adamw-lr", "1e-3", "--num-epochs", "8", *more,
    ]  # fmt: skip


def last_mse(student) -> float:
    report = json.loads((student / "distillation.json").read_text())
    return min(point["mse"] for point in report["validation_mse"])


@pytest.mark.kill
@pytest.mark.parametrize("precision", ["--mixed-precision", "--no-mixed-precision"])
def test_distil_kill_resume(teacher, queries, valid_queries, tmp_path, home, precision):
    runs = {}
    for name in ("unbroken", "killed"):
        output = tmp_path / name
        arguments = distil_command(teacher, queries, valid_queries, output, precision)
        command = [sys.executable, str(ROOT / "distill.py"), *arguments]
        if name == "killed":
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            checkpoint = tmp_path / "killed.partial" / "checkpoints" / "checkpoint-8"
            while not (checkpoint / "trainer_state.json").exists():
                assert process.poll() is None, "ended before it could be killed"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            command.append("--resume")
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        model = SentenceTransformer(str(output), device="cpu")
        runs[name] = model.encode_query(TEXTS[1:])
    assert lowest_cosine(runs["killed"], runs["unbroken"]) > 0.99
    assert last_mse(tmp_path / "killed") == pytest.approx(last_mse(tmp_path / "unbroken"), rel=0.1)


@pytest.mark.torchrun
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun(teacher, queries, valid_queries, collection, tmp_path, home, processes):
    if DEVICE == "cuda" and torch.cuda.device_count() < processes:
        pytest.skip(f"{processes} processes need as many GPUs")
    base = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    student, scores = tmp_path / "student", tmp_path / "scores.csv"
    for script, arguments in (
        ("distill.py", distil_command(teacher, queries, valid_queries, student)),
        ("benchmark.py", [
            "--datasets", str(collection), "--document-encoder", str(teacher), "--query-encoder",
            str(student), "--score-function", "cos_sim", "--output", str(scores), "--device", DEVICE
        ]),
    ):  # fmt: skip
        result = subprocess.run(
            [*base, str(ROOT / script), *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[-3000:]
    assert len(scores.read_text().splitlines()) == 3


def test_the_scripts_in_turn(call, teacher, queries, valid_queries, collection, tmp_path):
    student = tmp_path / "student"
    arguments = distil_command(teacher, queries, valid_queries, student, "--mixed-precision")
    assert call("distill", *arguments).status == 0
    found = {}
    for device in dict.fromkeys((DEVICE, "cpu")):
        output = tmp_path / f"{device}.csv"
        outcome = call(
            "benchmark", "--datasets", collection, "--document-encoder", teacher,
            "--query-encoder", student, "--score-function", "cos_sim", "--dtype", "float32",
            "--output", output, "--device", device,
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        header, *rows = (line.split(",") for line in output.read_text().splitlines())
        found[device] = [float(row[header.index("NDCG@10")]) for row in rows]
    assert found[DEVICE] == pytest.approx(found["cpu"], abs=0.01)
    outcome = call(
        "ispeed", "--encoders", teacher, student, "--datasets", queries, "--batch-sizes", 1, 16,
        "--num-runs", 1, "--device", DEVICE, "--dtype", "float32",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
