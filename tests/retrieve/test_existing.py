"""An index that is there already: what it is opened with, and that it stays as it is."""

import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from disret.command_line import UserError
from disret.data.collection import Collection
from disret.encode.batches import BatchEncoder
from disret.encode.models import fingerprint, load_encoder
from disret.files import checksum
from disret.retrieve import existing
from disret.retrieve import index as index_module
from disret.retrieve.existing import open_existing
from disret.retrieve.index import open_index
from disret.retrieve.search import search

D = 24


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((40, D), dtype=np.float32)


@pytest.fixture
def path(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors)
    return tmp_path / "x.npy"


def write_ids(path, count=40):
    path.write_text("".join(f"d{i}\n" for i in range(count)))
    return path


def build(collection, teacher, monkeypatch, score_function="dot", index_dtype="float16"):
    monkeypatch.setattr(index_module, "SHARD_DOCUMENTS", 25)
    encoder = BatchEncoder(load_encoder(str(teacher), "cpu"), 8)
    weights = fingerprint(encoder.model)
    source = SimpleNamespace(name="m", fingerprint=weights, dtype="float32", batches=encoder)
    return open_index(Collection("things", collection), source, score_function, index_dtype)


def unit(count, dimension):
    queries = np.random.default_rng(1).standard_normal((count, dimension), dtype=np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("score_function", ["dot", "cos_sim"])
@pytest.mark.parametrize("index_dtype", ["float16", "float32"])
def test_a_folder_gives_what_its_builder_finds(
    collection, teacher, monkeypatch, score_function, index_dtype
):
    built = build(collection, teacher, monkeypatch, score_function, index_dtype)
    before = content(built.folder)
    queries = unit(9, built.dimension)
    index = open_existing(built.folder, None, built.dimension, score_function)
    found, wanted = index.search(queries, 12), search(built, queries, 12, "cpu")
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert list(index.ids()) == list(built.ids()) == [f"d{i}" for i in range(60)]
    name = "cosine" if score_function == "cos_sim" else "inner product"
    assert index.description == f"3 shards, {name}"
    assert (index.folder, index.documents) == (built.folder, 60)
    index.check_unchanged()
    assert content(built.folder) == before


def test_a_folder_of_the_dot_product_serves_the_cosine(collection, teacher, monkeypatch):
    built = build(collection, teacher, monkeypatch, index_dtype="float32")
    documents = np.concatenate([block.copy() for block in built.blocks(built.shards)])
    queries = unit(9, built.dimension)
    scores, _ = open_existing(built.folder, None, built.dimension, "cos_sim").search(queries, 60)
    cosines = queries @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1), atol=1e-5)


def test_a_damaged_folder(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder

    def refused():
        with pytest.raises(UserError) as error:
            open_existing(folder, None, 32, "dot")
        return str(error.value).replace(f"{folder}", "FOLDER")

    manifest = (folder / "manifest.json").read_text()
    shard = folder / "shard-00001.faiss"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    wanted = "FOLDER/shard-00001.faiss is missing or damaged; build the index again."
    assert refused() == wanted
    shard.unlink()
    assert refused() == wanted
    (folder / "ids.txt").write_text("d0\n")
    assert refused() == "FOLDER/ids.txt is damaged; build the index again."
    (folder / "ids.txt").unlink()
    assert refused() == "there is no file FOLDER/ids.txt."
    record = {**json.loads(manifest), "format": 1}
    (folder / "manifest.json").write_text(json.dumps(record))
    assert refused() == "FOLDER has an index of format 1, not 2."
    for other in ("[]", "{}", "not JSON"):
        (folder / "manifest.json").write_text(other)
        wanted = "FOLDER is a folder without an index: it has no sound manifest.json."
        assert refused() == wanted


def test_a_manifest_that_lists_other_shards(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    for shards, said in (([], "has no vectors"), (manifest["shards"][:2], "50 vectors")):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "shards": shards}))
        with pytest.raises(UserError, match=said):
            open_existing(folder, None, 32, "dot")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*absent\.faiss"):
        open_existing(tmp_path / "absent.faiss", None, D, "dot")
    with pytest.raises(UserError, match="is a folder without an index"):
        open_existing(tmp_path, None, D, "dot")


def test_ids_of_a_file(tmp_path, path, vectors):
    index = open_existing(path, write_ids(tmp_path / "ids.txt"), D, "dot")
    _, rows = index.search(vectors[7:9] * 100, 40)
    assert sorted(index.ids().take(rows)[0]) == sorted(f"d{i}" for i in range(40))
    assert index.ids().take(np.array([3, -1])).tolist() == ["d3", ""]


@pytest.mark.parametrize("count", [39, 41])
def test_ids_of_another_number(tmp_path, path, count):
    ids = write_ids(tmp_path / "ids.txt", count)
    wanted = f"{ids} has {count} document ids, but {path} has 40 vectors."
    with pytest.raises(UserError) as error:
        open_existing(path, ids, D, "dot")
    assert str(error.value) == wanted


def test_a_change_is_noticed(tmp_path, path, vectors):
    ids = write_ids(tmp_path / "ids.txt")
    for changed in (path, ids):
        index = open_existing(path, ids, D, "dot")
        index.check_unchanged()
        status = changed.stat()
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(UserError, match=f"{changed} was changed by another program"):
            index.check_unchanged()
    index = open_existing(path, None, D, "dot")
    path.unlink()
    with pytest.raises(UserError, match="was changed"):
        index.check_unchanged()


def test_a_folder_that_was_replaced(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    index = open_existing(folder, None, 32, "dot")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="was replaced by another run"):
        index.check_unchanged()


def test_the_fingerprint_is_of_the_content(tmp_path, path, vectors):
    first = open_existing(path, None, D, "dot").fingerprint
    assert first == checksum(path)
    copy = tmp_path / "elsewhere.npy"
    shutil.copy(path, copy)
    assert open_existing(copy, None, D, "dot").fingerprint == first
    np.save(copy, vectors + 1)
    assert open_existing(copy, None, D, "dot").fingerprint != first
    with_ids = open_existing(path, write_ids(tmp_path / "ids.txt"), D, "dot").fingerprint
    (tmp_path / "ids.txt").write_text("".join(f"x{i}\n" for i in range(40)))
    other = open_existing(path, tmp_path / "ids.txt", D, "dot").fingerprint
    assert len({first, with_ids, other}) == 3
    assert {len(digest) for digest in (first, with_ids, other)} == {64}


def test_the_fingerprint_of_a_long_file_is_of_its_ends(path, monkeypatch):
    monkeypatch.setattr(existing, "WHOLE", 1000)
    monkeypatch.setattr(existing, "END", 300)
    written = path.read_bytes()
    ends = str(len(written)).encode() + written[:300] + written[-300:]
    wanted = hashlib.sha256(ends).hexdigest()
    assert open_existing(path, None, D, "dot").fingerprint == wanted
    path.write_bytes(written[:2000] + b"\0" * 4 + written[2004:])
    assert open_existing(path, None, D, "dot").fingerprint == wanted
    path.write_bytes(written[:-4] + b"\0" * 4)
    assert open_existing(path, None, D, "dot").fingerprint != wanted


def test_the_fingerprint_of_a_folder(tmp_path, collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    first = open_existing(folder, None, 32, "dot").fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert open_existing(tmp_path / "copy", None, 32, "dot").fingerprint == first
    other = build(collection, teacher, monkeypatch, index_dtype="float32").folder
    assert open_existing(other, None, 32, "dot").fingerprint != first


def test_two_formats_of_one_content_find_the_same(tmp_path, path, vectors):
    flat = faiss.IndexFlatIP(D)
    flat.add(vectors)
    faiss.write_index(flat, str(tmp_path / "x.index"))
    queries = unit(5, D)
    found = [
        open_existing(file, None, D, "dot").search(queries, 10)
        for file in (path, tmp_path / "x.index")
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
