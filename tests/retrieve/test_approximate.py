"""Approximate indexes, built of the flat one's vectors: reused, refused, made anew when damaged."""

import os
import signal
import subprocess
import sys
import time

import faiss
import numpy as np
import pytest
from conftest import ROOT
from flat_index import make_index, points

from disret.command_line import UserError
from disret.encode.timings import Timings
from disret.retrieve import approximate
from disret.retrieve.approximate import (
    empty_index,
    good_setting,
    open_approximate,
    parse_settings,
    reaching,
)

D, N, K = 32, 1200, 10


@pytest.fixture(scope="module")
def vectors():
    return points(0, N)


@pytest.fixture(scope="module")
def queries():
    return points(1, 30)


@pytest.fixture
def flat(tmp_path, vectors):
    return make_index(tmp_path / "flat", vectors)


def build(flat, kind):
    return open_approximate(flat, kind, "cos_sim", Timings())


def share(rows, wanted):
    pairs = zip(rows, wanted, strict=True)
    return np.mean([len(np.intersect1d(found, right)) / K for found, right in pairs])


@pytest.mark.parametrize(
    "kind, at_least",
    [("Flat", 1), ("HNSW32", 0.95), ("IVF16,Flat", 0.3), ("SQ8", 0.95), ("SQ4", 0.6),
     ("PQ8x4", 0.1),
     ("PQ8x4fs", 0.1), ("OPQ4,PQ4x4fs", 0.05), ("RaBitQ", 0.2), ("RaBitQ,RFlat", 0.3),
     ("PQ4x4,Refine(Flat)", 0.05), ("IVF16,SQ8", 0.3), ("HNSW32_SQ8", 0.9)],
)  # fmt: skip
def test_every_kind_is_of_the_same_vectors(flat, vectors, queries, kind, at_least):
    index = build(flat, kind)
    assert (index.documents, index.dimension) == (N, D)
    _, rows = index.search(queries, K)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
    assert share(rows, best) >= at_least
    plain = faiss.read_index(str(index.path))
    np.testing.assert_array_equal(plain.search(queries, K)[1], rows)
    check = subprocess.run(
        ["sha256sum", "-c", f"{index.path.name}.sha256"], cwd=flat.folder, capture_output=True
    )
    assert check.returncode == 0
    assert not list(flat.folder.glob(".*partial"))


def test_a_sample_trains_it(flat, vectors, monkeypatch):
    """Evenly from all shards; more for many lists."""
    monkeypatch.setattr(approximate, "SAMPLE", 100)
    monkeypatch.setattr(approximate, "PER_LIST", 20)
    sizes = []
    original = approximate._sample

    def note(index, size):
        sample = original(index, size)
        sizes.append(len(sample))
        rows = np.unique(np.linspace(0, N - 1, size).astype(int))
        np.testing.assert_array_equal(sample, vectors[rows])
        return sample

    monkeypatch.setattr(approximate, "_sample", note)
    for kind in ("SQ8", "IVF16,Flat", "HNSW8"):  # a graph is not trained
        build(flat, kind)
    assert sizes == [100, 320]


def test_it_is_reused_as_long_as_the_vectors_are_the_same(flat, tmp_path, vectors, monkeypatch):
    built = []
    original = approximate._built
    monkeypatch.setattr(
        approximate, "_built", lambda *args: built.append(args[1]) or original(*args)
    )
    first = build(flat, "HNSW8").path
    build(flat, "SQ8")
    assert build(flat, "HNSW8").path == first
    assert built == ["HNSW8", "SQ8"]
    make_index(flat.folder, vectors[::-1])
    second = build(flat, "HNSW8").path
    assert built == ["HNSW8", "SQ8", "HNSW8"]
    assert second != first


@pytest.mark.parametrize("damage", ["truncated", "altered", "without checksum"])
def test_a_damaged_one_is_built_anew(flat, damage, queries, capsys):
    index = build(flat, "SQ8")
    wanted = index.search(queries, K)[1]
    path, content = index.path, index.path.read_bytes()
    del index  # it is mapped
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.with_name(f"{path.name}.sha256").unlink()
    again = build(flat, "SQ8")
    assert "is not as its checksum says; making it anew" in capsys.readouterr().err
    assert again.path.read_bytes() == content
    np.testing.assert_array_equal(again.search(queries, K)[1], wanted)


@pytest.mark.parametrize(
    "kind, says",
    [("Foo", "could not parse index string Foo"), ("SQ3", "could not parse"),
     ("PQ7", "should be a multiple of the number of subquantizers"), ("IVF8,", "could not parse"),
     ("", "could not parse"), ("IVF99999999999,Flat", "stoi"), ("LSH", "METRIC_L2")],
)  # fmt: skip
def test_what_faiss_makes_no_index_of(kind, says):
    with pytest.raises(UserError) as error:
        empty_index(kind, D, "cos_sim")
    assert str(error.value).startswith(f"FAISS makes no index {kind!r} of 32 dimensions: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_kind_of_distances_serves_cosines_alone():
    """FAISS makes some kinds for L2 whatever is asked for."""
    assert empty_index("HNSW8_PQ8", D, "cos_sim").metric_type == faiss.METRIC_L2
    with pytest.raises(UserError, match="it ranks by L2 distance"):
        empty_index("HNSW8_PQ8", D, "dot")


def test_what_training_cannot_do_is_a_sentence(tmp_path):
    flat = make_index(tmp_path / "few", points(2, 60))
    for kind, reason in (
        ("PCA64,Flat", "cannot output 64"),
        ("IVF99,Flat", "Number of training points"),
    ):
        with pytest.raises(UserError, match=f"cannot be built of 60 vectors: .*{reason}"):
            build(flat, kind)
    assert not list(flat.folder.glob("*.index"))


CHILD = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import faiss
from disret.encode.timings import Timings
from disret.retrieve.approximate import open_approximate
from disret.retrieve.index import Index, Shard
folder = Path(sys.argv[1])
shards = tuple(Shard(f"shard-{{n:05d}}.faiss", 2000, 0) for n in range(5))
print("begun", flush=True)
print(open_approximate(Index(folder, 32, shards), "HNSW64", "cos_sim", Timings()).path)
"""


@pytest.mark.kill
def test_a_kill_while_it_is_built_leaves_the_vectors(tmp_path):
    flat = make_index(tmp_path / "flat", points(3, 10_000), documents=2000)
    before = {path.name: path.read_bytes() for path in flat.folder.iterdir()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(flat.folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout.readline() == "begun\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not list(flat.folder.glob("*.index"))
    assert {name: (flat.folder / name).read_bytes() for name in before} == before
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    (path,) = flat.folder.glob("HNSW64.*.index")
    assert again.stdout.splitlines()[-1] == str(path)
    assert faiss.read_index(str(path)).ntotal == 10_000


# --- How far to look, as the command line says it, and the table of it ----------------------------


def test_one_parameter_varies():
    settings = parse_settings(["k_factor_rf=2.5", "nprobe=16,1,4,1"])
    assert settings == [{"k_factor_rf": 2.5, "nprobe": value} for value in (1, 4, 16)]
    assert parse_settings([]) == [{}]


@pytest.mark.parametrize(
    "words, says",
    [
        (["efSearch"], "'efSearch' is not NAME=VALUE"),
        (["nprobe=1", "nprobe=2"], "'nprobe=2' is not NAME=VALUE,VALUE… of another parameter"),
        (["nprobe=1,x"], "'nprobe=1,x' is not"),
        (["nprobe=-1"], "'nprobe=-1' is not"),
        (["nprobe=inf"], "'nprobe=inf' is not"),
        (["nprobe=1,2", "k_factor_rf=1,2"], "one search parameter may have several values"),
    ],
)
def test_what_is_no_setting(words, says):
    with pytest.raises(UserError) as error:
        parse_settings(words)
    assert says in str(error.value)


def rows_of(recalls, when="now", index="HNSW8"):
    return [{"datetime": when, "dataset": "things", "index": index, "recall@10": recall}
            for recall in recalls]  # fmt: skip


def test_the_first_setting_that_is_good_and_the_first_that_reaches_it():
    teacher = rows_of((0.9, 0.9784, 0.99))
    assert good_setting(teacher) is teacher[1]
    assert good_setting(teacher[:1]) is teacher[0]
    student = rows_of((0.8, 0.9778, 0.9776))
    assert reaching(student, teacher[1]) is student[1]  # to three decimals
    assert reaching(student, teacher[2]) is None
