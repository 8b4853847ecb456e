"""The sharded FAISS index: plain files, resumed, checked, shared between processes."""

import gzip
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from conftest import ROOT, write_collection
from tiny import save_encoder

from disret import paths
from disret.command_line import UserError
from disret.data import collection as collection_module
from disret.data.collection import Collection
from disret.encode.batches import BatchEncoder
from disret.encode.models import fingerprint, load_encoder
from disret.retrieve import index as index_module
from disret.retrieve.index import open_index


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(index_module, "SHARD_DOCUMENTS", 25)


@pytest.fixture
def encoder(teacher):
    return BatchEncoder(load_encoder(str(teacher), "cpu"), 8)


@pytest.fixture
def things(collection):
    return Collection("things", collection)


def build(collection, encoder, name="m", score="dot", index_dtype="float32", **kwargs):
    weights = fingerprint(encoder.model)
    teacher = SimpleNamespace(
        name=name, fingerprint=weights, dtype="float32", batches=encoder, normalises=True
    )
    return open_index(collection, teacher, score, index_dtype, **kwargs)


def texts_of(collection):
    return [document.text for document in collection.documents()]


def stored(index):
    return np.concatenate(list(index.blocks(index.shards)))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("index_dtype", ["float32", "float16"])
def test_plain_faiss_reads_it(things, encoder, index_dtype):
    """As one index, in the corpus's order."""
    index = build(things, encoder, "models/teacher", index_dtype=index_dtype)
    folder = index.folder
    assert folder.parent == paths.INDEXES / "things"
    assert folder.name.startswith(f"models--teacher.flat.dot.float32-{index_dtype}.")
    parts = [
        faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        for path in sorted(folder.glob("*.faiss"))
    ]
    assert [part.ntotal for part in parts] == [25, 25, 10]
    plain, *others = [faiss.read_index(str(path)) for path in sorted(folder.glob("*.faiss"))]
    for other in others:
        plain.merge_from(other)
    vectors = encoder.model.encode_document(texts_of(things))
    tolerance = 1e-5 if index_dtype == "float32" else 1e-3
    np.testing.assert_allclose(plain.reconstruct_n(0, 60), vectors, atol=tolerance)
    np.testing.assert_array_equal(parts[1].reconstruct_n(0, 25), plain.reconstruct_n(25, 25))
    _, rows = plain.search(vectors[40:41], 1)
    assert list(index.ids())[rows[0, 0]] == "d40"
    assert list(index.ids()) == [f"d{i}" for i in range(60)]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["documents"] == 60
    assert manifest["prompt"] == "d "
    check = subprocess.run("sha256sum -c *.sha256", shell=True, cwd=folder, capture_output=True)
    assert check.returncode == 0


def test_second_opening_encodes_nothing(things, encoder, monkeypatch):
    build(things, encoder, "models/teacher")
    monkeypatch.setattr(encoder, "encode", None)
    build(things, encoder, "./models/teacher/")


def test_index_of_other_weights_is_rebuilt(things, encoder, tmp_path, capsys):
    build(things, encoder)
    other = BatchEncoder(load_encoder(str(save_encoder(tmp_path / "other", seed=5)), "cpu"), 8)
    index = build(things, other)
    assert "built from another encoder_sha256" in capsys.readouterr().err
    wanted = other.model.encode_document(texts_of(things))
    np.testing.assert_allclose(stored(index), wanted, atol=1e-5)


def test_index_of_another_corpus_is_rebuilt(things, encoder, capsys):
    build(things, encoder)
    with (things.folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "a new one"}\n')
    index = build(things, encoder)
    assert "corpus_sha256" in capsys.readouterr().err
    assert index.documents == 61
    assert list(index.ids())[60] == "new"


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed", "without checksum"])
def test_only_a_damaged_shard_is_rebuilt(things, encoder, damage, capsys):
    index = build(things, encoder)
    before = content(index.folder)
    path = index.folder / "shard-00001.faiss"
    if damage == "truncated":
        path.write_bytes(before[path.name][:-100])
    elif damage == "altered":
        path.write_bytes(before[path.name][:-1] + bytes([before[path.name][-1] ^ 1]))
    elif damage == "removed":
        path.unlink()
    else:
        path.with_name(f"{path.name}.sha256").unlink()
    others = {p: p.stat().st_mtime_ns for p in index.folder.glob("*.faiss") if p != path}
    encoded = encoder.timings.timings["encode"].items
    build(things, encoder)
    assert encoder.timings.timings["encode"].items - encoded == 25
    assert content(index.folder) == before
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert "2 of 3 shards are there and sound; going on" in capsys.readouterr().err


def test_damaged_ids_cost_no_encoding(things, encoder, capsys, monkeypatch):
    index = build(things, encoder)
    before = content(index.folder)
    (index.folder / "ids.txt").write_text("d0\n")
    monkeypatch.setattr(encoder, "encode", None)
    build(things, encoder)
    assert "document ids are damaged" in capsys.readouterr().err
    assert content(index.folder) == before


def test_cosine_vectors_have_length_one(things, tmp_path):
    model = load_encoder(str(save_encoder(tmp_path / "dense", dense=16)), "cpu")
    del model[-1]
    lengths = np.linalg.norm(stored(build(things, BatchEncoder(model, 8), score="cos_sim")), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_collections_of_one_name_have_indexes_of_their_own(encoder, tmp_path, collection):
    other = write_collection(tmp_path / "elsewhere" / "things", documents=30)
    first, second = (build(Collection("things", c), encoder) for c in (collection, other))
    assert first.folder != second.folder
    assert (first.documents, second.documents) == (60, 30)
    first.check_unchanged()
    installed = write_collection(paths.COLLECTIONS / "things")
    name = build(Collection("things", installed), encoder).folder.name
    assert name == "m.flat.dot.float32-float32"


def test_an_index_on_another_disk_is_built_there(things, encoder, tmp_path):
    index = build(things, encoder)
    elsewhere = tmp_path / "disk"
    index.folder.rename(elsewhere)
    index.folder.symlink_to(elsewhere)
    (elsewhere / "manifest.json").write_text("{}")
    again = build(things, encoder)
    assert again.folder == elsewhere.resolve()
    assert index.folder.is_symlink()
    assert again.shards == index.shards


def test_nothing_is_written_where_a_manifest_says(things, encoder, tmp_path):
    index = build(things, encoder)
    manifest = json.loads((index.folder / "manifest.json").read_text())
    manifest["shards"][1]["file"] = "../../outside.faiss"
    (index.folder / "manifest.json").write_text(json.dumps(manifest))
    (index.folder / index.shards[1].file).unlink()
    again = build(things, encoder)
    assert not list(paths.INDEXES.rglob("outside*"))
    assert again.shards == index.shards
    assert (index.folder / index.shards[1].file).exists()


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", '{"shards": 3}'])
def test_another_manifest_is_made_anew(things, encoder, manifest):
    index = build(things, encoder)
    (index.folder / "manifest.json").write_text(manifest)
    assert build(things, encoder).shards == index.shards


def test_values_that_are_not_numbers_are_named(things, encoder, monkeypatch):
    def broken(tokens, task, progress):
        vectors = np.ones((len(tokens.lengths), 32), dtype=np.float32)
        vectors[3] = np.nan
        return vectors

    monkeypatch.setattr(encoder, "encode", broken)
    with pytest.raises(UserError, match=r"not numbers for 'title 3 thing 3.*1 of 25"):
        build(things, encoder)


def test_too_large_for_float16(things, encoder, monkeypatch):
    monkeypatch.setattr(
        encoder, "encode", lambda tokens, *_: np.full((len(tokens.lengths), 32), 1e5, np.float32)
    )
    with pytest.raises(UserError, match="too large, or too small, for"):
        build(things, encoder, index_dtype="float16")


def test_too_small_for_float16(things, encoder, monkeypatch):
    vectors = np.ones((60, 32), dtype=np.float32)
    vectors[7] = 1e-6  # of which float16 holds two digits in binary
    monkeypatch.setattr(encoder, "encode", lambda tokens, *_: vectors[: len(tokens.lengths)])
    with pytest.raises(UserError, match="too large, or too small, for"):
        build(things, encoder, index_dtype="float16")


@pytest.mark.parametrize("way", ["renamed", "written", "half written"])
def test_a_corpus_that_is_replaced_while_it_is_indexed(things, encoder, monkeypatch, way):
    """By one of the same length and time, and put back: nothing of it is kept."""
    corpus, encode = things.folder / "corpus.jsonl", encoder.encode
    before, times = corpus.read_text(), corpus.stat()

    def replacing(*arguments):
        other = corpus.with_name("other") if way == "renamed" else corpus
        other.write_text("\n".join(reversed(before.splitlines()))[: 99 if "half" in way else None])
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.replace(corpus)
        return encode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", replacing)
        with pytest.raises(UserError, match="was changed while it was indexed; run again"):
            build(things, encoder)
    corpus.write_text(before)
    wanted = encoder.model.encode_document(texts_of(things))
    np.testing.assert_allclose(stored(build(things, encoder)), wanted, atol=1e-5)


def test_long_documents_make_smaller_shards(tmp_path, encoder, monkeypatch):
    """A document of a megabyte is cut to the encoder's length and bounds its shard."""
    folder = write_collection(tmp_path / "long", documents=10)
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    lines[4] = json.dumps({"_id": "d4", "title": "", "text": "huge " * 200_000})
    lines[5] = json.dumps({"_id": "d5", "text": ""})
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(index_module, "SHARD_BYTES", 500_000)
    collection = Collection("long", folder)
    index = build(collection, encoder)
    assert [shard.documents for shard in index.shards] == [5, 5]
    wanted = encoder.model.encode_document(texts_of(collection))
    np.testing.assert_allclose(stored(index), wanted, atol=1e-5)


def test_a_gzipped_corpus_is_unpacked_twice_whatever_its_shards(things, encoder, monkeypatch):
    """To be checked, and to be encoded; also where some shards are there."""
    wanted, opened = texts_of(things), []
    path = things.folder / "corpus.jsonl"
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    real = collection_module.unpacked
    monkeypatch.setattr(
        collection_module, "unpacked", lambda path: (opened.append(path), real(path))[1]
    )
    index = build(things, encoder)
    assert len(index.shards) == 3
    assert len(opened) == 2
    before = stored(index)
    np.testing.assert_allclose(before, encoder.model.encode_document(wanted), atol=1e-5)
    for number in (0, 2):
        (index.folder / index.shards[number].file).unlink()
    np.testing.assert_allclose(stored(build(things, encoder)), before, atol=1e-5)


def test_an_index_replaced_meanwhile_is_noticed(things, encoder, tmp_path):
    index = build(things, encoder)
    index.check_unchanged()
    build(things, BatchEncoder(load_encoder(str(save_encoder(tmp_path / "m", seed=5)), "cpu")))
    with pytest.raises(UserError, match="was replaced by another run"):
        index.check_unchanged()


def test_no_room_is_said_before_encoding(things, encoder, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    monkeypatch.setattr(encoder, "encode", None)
    with pytest.raises(UserError, match=r"the index of things needs about 0\.0 GB"):
        build(things, encoder)


# Each of these runs in a process of its own; shards are small, so that there are many.
PRELUDE = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
import torch, transformers, sentence_transformers, faiss, faiss.contrib.exhaustive_search
from disret import command_line
from disret.retrieve import index
index.SHARD_DOCUMENTS = 40
sys.argv = sys.argv[1:]
import benchmark
"""


def benchmark_arguments(collection, teacher, output):
    return ["benchmark.py", "--datasets", collection, "--document-encoder", teacher,
            "--output", output, "--device", "cpu"]  # fmt: skip


def run_script(code, *arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, **kwargs,
    )  # fmt: skip


def folder_of_many(home):
    (folder,) = (path for path in (home / "benchmarks/faiss/many").iterdir() if path.is_dir())
    return folder


KILL_TEN_TIMES = """
import random
random.seed(0)
folder, shards = os.environ["INDEX"], int(os.environ["SHARDS"])

def count():
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sum(name.endswith(".sha256") for name in names)

for attempt in range(10):
    child = os.fork()  # torch is imported here, and computes only there
    if not child:
        command_line.run(benchmark.main)
    enough = (attempt + random.random()) / 11 * shards
    while count() < enough:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.001)
    time.sleep(random.random() / 50)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert count() < shards
command_line.run(benchmark.main)
"""


@pytest.mark.long
def test_killed_ten_times_gives_the_bytes_of_an_unbroken_run(tmp_path, teacher):
    many = write_collection(tmp_path / "many", documents=2400)
    arguments = benchmark_arguments(many, teacher, tmp_path / "r.csv")
    (unbroken, killed) = (tmp_path / "unbroken", tmp_path / "killed")
    outcome = run_script(
        "command_line.run(benchmark.main)",
        *arguments,
        env={**os.environ, "DISRET_HOME": str(unbroken)},
    )
    assert outcome.returncode == 0, outcome.stderr
    whole = folder_of_many(unbroken)
    index = killed / "benchmarks" / "faiss" / "many" / whole.name
    arguments[arguments.index("--output") + 1] = tmp_path / "k.csv"
    environment = {
        **os.environ, "DISRET_HOME": str(killed), "INDEX": str(index), "SHARDS": "60"
    }  # fmt: skip
    outcome = run_script(KILL_TEN_TIMES, *arguments, env=environment)
    assert outcome.returncode == 0, outcome.stderr
    assert "going on" in outcome.stderr
    found, wanted = content(index), content(whole)
    assert found == wanted
    assert sum(name.endswith(".faiss") for name in found) == 60


@pytest.mark.kill
def test_a_full_disk_leaves_the_whole_shards(tmp_path, teacher, home):
    """The system's limit on a file's size is met while shards of float32 are written."""
    things = write_collection(tmp_path / "many", documents=200)
    arguments = [*benchmark_arguments(things, teacher, tmp_path / "r.csv"),
                 "--index-dtype", "float32"]  # fmt: skip
    limit = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
"""
    outcome = run_script(limit + "command_line.run(benchmark.main)", *arguments)
    assert outcome.returncode == 2, outcome.stderr
    assert "no room left to write" in outcome.stderr
    folder = folder_of_many(home)
    assert not list(folder.glob(".*partial"))
    outcome = run_script("command_line.run(benchmark.main)", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert len(list(folder.glob("*.faiss"))) == 5


@pytest.mark.kill
def test_two_processes_at_once_build_one_index(tmp_path, teacher, home):
    things = write_collection(tmp_path / "many", documents=400)
    command = [sys.executable, "-c", PRELUDE + "command_line.run(benchmark.main)",
               *map(str, benchmark_arguments(things, teacher, tmp_path / "r.csv"))]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sum("index many" in error for error in errors) == 1  # the other found it whole
    folder = folder_of_many(home)
    assert len(list(folder.glob("*.faiss"))) == 10
