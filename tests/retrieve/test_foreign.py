"""An index that is there already: what it is opened with, and that it stays as it is."""

import json
import os
import shutil
from types import SimpleNamespace

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disret.command_line import UserError
from disret.data.collection import Collection
from disret.data.text_files import IDS
from disret.encode.batches import BatchEncoder
from disret.encode.models import fingerprint, load_encoder
from disret.retrieve import index as index_module
from disret.retrieve.agreement import agreement
from disret.retrieve.foreign import open_foreign
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
    source = SimpleNamespace(
        name="m", fingerprint=weights, dtype="float32", batches=encoder, normalises=True
    )
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
    index = open_foreign(built.folder, None, built.dimension, score_function)
    found, wanted = search(index, queries, 12), search(built, queries, 12)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert list(index.ids()) == list(built.ids()) == [f"d{i}" for i in range(60)]
    name = "cosine" if score_function == "cos_sim" else "inner product"
    assert index.description == f"3 shards, {name}"
    assert (index.folder, index.documents) == (built.folder, 60)
    index.check_unchanged()
    assert content(built.folder) == before


def test_a_folder_of_the_dot_product_is_not_of_cosines(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    with pytest.raises(UserError, match="was built for the dot product; build one for cosines"):
        open_foreign(folder, None, 32, "cos_sim")
    assert open_foreign(folder, None, 32).documents == 60


def test_a_folder_of_another_encoder(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    made_by = json.loads((folder / "manifest.json").read_text())["encoder_sha256"]
    assert open_foreign(folder, None, 32, "dot", True, made_by).documents == 60
    with pytest.raises(UserError, match=r"was made by .*, and not by the encoder of the documents"):
        open_foreign(folder, None, 32, "dot", True, "0" * 64)


def test_a_folder_has_its_ids(tmp_path, collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    for ids in ("rows", write_ids(tmp_path / "ids.txt", 60)):
        with pytest.raises(UserError, match="has the ids of its documents already; name no others"):
            open_foreign(folder, ids, 32)


def test_a_damaged_folder(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder

    def is_refused():
        with pytest.raises(UserError) as error:
            open_foreign(folder, None, 32, "dot")
        assert str(error.value) == f"{folder} holds no whole index of format 2; build it again."

    manifest = (folder / "manifest.json").read_text()
    shard = folder / "shard-00001.faiss"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    is_refused()
    shard.unlink()
    is_refused()
    shard.write_bytes(whole)
    assert open_foreign(folder, None, 32, "dot").documents == 60
    (folder / "ids.txt").write_text("d0\n")
    is_refused()
    (folder / "ids.txt").unlink()
    is_refused()
    for other in (json.dumps({**json.loads(manifest), "format": 1}), "[]", "{}", "not JSON"):
        (folder / "manifest.json").write_text(other)
        is_refused()


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*absent\.faiss"):
        open_foreign(tmp_path / "absent.faiss", None, D, "dot")
    with pytest.raises(UserError, match="is a directory; name a file"):
        open_foreign(tmp_path, None, D, "dot")


def test_ids_of_a_file(tmp_path, path, vectors):
    index = open_foreign(path, write_ids(tmp_path / "ids.txt"), D, "dot")
    _, rows = index.search(vectors[7:9] * 100, 40)
    assert sorted(index.ids().take(rows)[0]) == sorted(f"d{i}" for i in range(40))
    assert index.ids().take(np.array([3, -1])).tolist() == ["d3", ""]


@pytest.mark.parametrize("count", [39, 41])
def test_ids_of_another_number(tmp_path, path, count):
    ids = write_ids(tmp_path / "ids.txt", count)
    wanted = f"{ids} has {count} document ids from 'd0' on, but {path} has 40 vectors."
    with pytest.raises(UserError) as error:
        open_foreign(path, ids, D, "dot")
    assert str(error.value) == wanted


def test_a_change_is_noticed(tmp_path, path, vectors):
    ids = write_ids(tmp_path / "ids.txt")
    for changed in (path, ids):
        index = open_foreign(path, ids, D, "dot")
        index.check_unchanged()
        status = changed.stat()
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(UserError, match=f"{changed} was changed by another program"):
            index.check_unchanged()
    index = open_foreign(path, "rows", D, "dot")
    path.unlink()
    with pytest.raises(UserError, match="was changed"):
        index.check_unchanged()


def test_a_folder_that_was_replaced(collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    index = open_foreign(folder, None, 32, "dot")
    (folder / "manifest.json").write_text("other")
    with pytest.raises(UserError, match="was replaced by another run"):
        index.check_unchanged()


def test_the_fingerprint_is_of_the_content(tmp_path, path, vectors):
    first = open_foreign(path, "rows", D, "dot").fingerprint
    copy = tmp_path / "elsewhere.npy"
    shutil.copy(path, copy)
    assert open_foreign(copy, "rows", D, "dot").fingerprint == first
    np.save(copy, vectors + 1)
    assert open_foreign(copy, "rows", D, "dot").fingerprint != first
    with_ids = open_foreign(path, write_ids(tmp_path / "ids.txt"), D, "dot").fingerprint
    (tmp_path / "ids.txt").write_text("".join(f"x{i}\n" for i in range(40)))
    other = open_foreign(path, tmp_path / "ids.txt", D, "dot").fingerprint
    assert len({first, with_ids, other}) == 3
    assert {len(digest) for digest in (first, with_ids, other)} == {64}


def test_the_fingerprint_of_a_folder(tmp_path, collection, teacher, monkeypatch):
    folder = build(collection, teacher, monkeypatch).folder
    first = open_foreign(folder, None, 32, "dot").fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert open_foreign(tmp_path / "copy", None, 32, "dot").fingerprint == first
    other = build(collection, teacher, monkeypatch, index_dtype="float32").folder
    assert open_foreign(other, None, 32, "dot").fingerprint != first


def test_two_formats_of_one_content_find_the_same(tmp_path, path, vectors):
    flat = faiss.IndexFlatIP(D)
    flat.add(vectors)
    faiss.write_index(flat, str(tmp_path / "x.index"))
    queries = unit(5, D)
    found = [
        open_foreign(file, "rows", D, "dot").search(queries, 10)
        for file in (path, tmp_path / "x.index")
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)


# --- As other tools leave them --------------------------------------------------------------------


def write_flat(path, vectors):
    index = faiss.IndexFlatL2(D)
    index.add(vectors)
    faiss.write_index(index, str(path))


def hits(index, queries, k=10):
    return index.ids().take(index.search(queries, k)[1])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("x.npz", b"PK\3\4", "an archive, such as .xlsx or .npz; save its table as CSV, its vect"),
        ("x.jsonl", b'{"id": 1, "vector": [0.5]}\n', "JSON, such as points of Qdrant; write Parq"),
        ("x.pkl", b"\x80\x04N.", "a pickle of Python objects; write Parquet."),
        *((name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4096\n",
           "a pointer of Git LFS, not the file; fetch that by git lfs pull.")
          for name in ("x.faiss", "x.npy", "x.parquet")),
    ],
)  # fmt: skip
def test_what_is_no_index_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        open_foreign(tmp_path / name, "rows", D)
    assert str(error.value).startswith(f"{tmp_path / name} is {said}")


def test_lists_that_moved_along(tmp_path, vectors):
    for folder in ("built", "moved", "lost"):
        (tmp_path / folder).mkdir()
    index = faiss.index_factory(D, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    lists = faiss.OnDiskInvertedLists(2, index.code_size, str(tmp_path / "built/x.ivfdata"))
    index.replace_invlists(lists)
    index.add(vectors)
    index.nprobe = 2
    faiss.write_index(index, str(tmp_path / "built/x.index"))
    del index, lists
    shutil.copy(tmp_path / "built/x.index", tmp_path / "lost")
    for name in ("x.index", "x.ivfdata"):
        shutil.move(tmp_path / "built" / name, tmp_path / "moved")
    queries = unit(5, D)
    index = open_foreign(tmp_path / "moved/x.index", "rows", D, "dot")
    wanted = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert (hits(index, queries) == wanted.astype(str)).all()
    (tmp_path / "moved/x.ivfdata").touch()
    with pytest.raises(UserError, match=r"moved/x\.ivfdata was changed"):
        index.check_unchanged()
    with pytest.raises(
        UserError, match=r"needs its inverted lists beside it: there is no .*lost/x"
    ):
        open_foreign(tmp_path / "lost/x.index", "rows", D, "dot")


# --- Ids ------------------------------------------------------------------------------------------


def write_parquet(path, vectors, **columns):
    table = {"embedding": pa.array(list(vectors), pa.list_(pa.float32())), **columns}
    pq.write_table(pa.table(table), path)
    return path


def backwards(path, **options):
    """The ids that each of the first documents is found by, which run backwards in these tests."""
    index = open_foreign(path, options.pop("ids", None), D, **options)
    return list(index.ids())


WANTED = [str(row) for row in reversed(range(40))]


@pytest.mark.parametrize(
    "name", [*(name.replace(" ", "_") for name in IDS), "corpus-id", "_id", "ID", "DocNo"]
)
def test_columns_of_ids(tmp_path, vectors, name, capsys):
    path = write_parquet(tmp_path / "x.parquet", vectors, text=WANTED[::-1], **{name: WANTED})
    assert backwards(path) == WANTED
    assert f"The ids of the documents are column {name} of {path}." in capsys.readouterr().err
    assert backwards(path, ids="rows") == WANTED[::-1]
    lines = tmp_path / "ids.txt"
    lines.write_text("\n".join(f"d{n}" for n in WANTED))
    assert backwards(path, ids=lines) == [f"d{n}" for n in WANTED]
    found = {open_foreign(path, ids, D).fingerprint for ids in (None, "rows", lines)}
    assert len(found) == 3


def test_ids_are_never_passed_over(tmp_path, path, vectors):
    def refused(file, **options):
        with pytest.raises(UserError) as error:
            backwards(file, **options)
        return str(error.value).replace(f"{file}", "FILE")

    file = tmp_path / "x.parquet"
    said = "FILE has no document ids; name a file with an id a line, or say rows if the documents"
    assert refused(path).startswith(said)
    write_flat(tmp_path / "x.faiss", vectors)
    assert refused(tmp_path / "x.faiss").startswith(said)
    assert refused(write_parquet(file, vectors, key=WANTED)).startswith(said)
    pd.DataFrame({"embedding": list(vectors)}).to_parquet(file)
    assert refused(file).startswith(said)
    write_parquet(file, vectors, key=WANTED)
    write_parquet(file, vectors, id=WANTED, doc_id=WANTED)
    assert refused(file) == (
        "FILE has several columns of ids; name one, as in x.parquet#id or x.parquet#doc_id."
    )
    write_parquet(file, vectors, id=[n / 2 for n in range(40)])
    said = "column id of FILE has double values that are no text or whole numbers."
    assert refused(file) == said
    assert backwards(file, ids="rows") == WANTED[::-1]


def test_numbers_of_an_idmap_are_ids(tmp_path, vectors):
    path, lines = tmp_path / "x.faiss", write_ids(tmp_path / "ids.txt")
    for numbers in (np.arange(40), np.arange(40)[::-1].copy(), np.arange(40) // 3 + 7):
        index = faiss.IndexIDMap(faiss.IndexFlatIP(D))
        index.add_with_ids(vectors, numbers)
        faiss.write_index(index, str(path))
        assert backwards(path) == list(map(str, numbers))
        by_number = sorted(numbers) == list(range(40))
        wanted = [f"d{n}" for n in (numbers if by_number else range(40))]
        assert backwards(path, ids=lines) == wanted
        assert backwards(path, ids="rows") == WANTED[::-1]
        fingerprints = {open_foreign(path, ids, D).fingerprint for ids in (None, "rows", lines)}
        assert len(fingerprints) == 3


def test_an_idmap_that_faiss_mixes_up(tmp_path, vectors):
    """Removal takes numbers away from the map, but leaves gaps in the lists below it."""
    index = numbered(faiss.IndexIDMap2(ivf(vectors, 4)), vectors, np.arange(40) + 100)
    index.remove_ids(np.arange(103, 110))
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    with pytest.raises(UserError, match="lost the order of its IDMap by removals"):
        open_foreign(tmp_path / "x.faiss", None, D)


# --- An encoder agrees with itself ----------------------------------------------------------------


def ivf(vectors, nprobe, metric=faiss.METRIC_INNER_PRODUCT):
    index = faiss.index_factory(D, "IVF4,Flat", metric)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.nprobe = nprobe
    return index


def after_removal(vectors, nprobe):
    index = ivf(vectors, nprobe)
    half = len(vectors) // 2
    index.add(vectors)
    index.remove_ids(np.arange(half))
    index.add(vectors[:half])  # whose numbers some of the others have already
    return index


def numbered(index, vectors, numbers):
    index.add_with_ids(vectors, numbers)
    return index


def added(index, vectors):
    index.add(vectors)
    return index


KINDS = {
    "flat": lambda v, rng, n: added(faiss.IndexFlatIP(D), v),
    "L2": lambda v, rng, n: added(faiss.IndexFlatL2(D), v),
    "L1": lambda v, rng, n: added(faiss.IndexFlat(D, faiss.METRIC_L1), v),
    "graph": lambda v, rng, n: added(faiss.IndexHNSWFlat(D, 4, faiss.METRIC_INNER_PRODUCT), v),
    "scalars": lambda v, rng, n: added(faiss.index_factory(D, "SQfp16"), v),
    "lists": lambda v, rng, n: added(ivf(v, n), v),
    "lists, numbered": lambda v, rng, n: numbered(ivf(v, n), v, rng.permutation(len(v)) * 3 - 9),
    "lists, repeated": lambda v, rng, n: numbered(ivf(v, n), v, rng.integers(0, 9, len(v))),
    "lists, after removal": lambda v, rng, n: after_removal(v, n),
    "IDMap": lambda v, rng, n: numbered(
        faiss.IndexIDMap(faiss.IndexFlatIP(D)), v, rng.permutation(len(v)) * 5 - 50
    ),
    "IDMap, repeated": lambda v, rng, n: numbered(
        faiss.IndexIDMap2(faiss.IndexFlatL2(D)), v, rng.integers(0, 9, len(v))
    ),
    "IDMap of lists": lambda v, rng, n: numbered(
        faiss.IndexIDMap(ivf(v, n)), v, rng.integers(-4, 9, len(v))
    ),
}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(8, 60),
    copies=st.integers(0, 6),
    nprobe=st.integers(1, 4),
    k=st.integers(1, 80),
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_agrees_with_itself(tmp_path, kind, seed, count, copies, nprobe, k):
    """Its hits are those of faiss by id, whatever numbers there are, and always the same."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, D), dtype=np.float32)
    vectors[count - copies :] = vectors[:copies]  # the same text twice
    vectors[3] = 0
    made = KINDS[kind](vectors, rng, nprobe)
    faiss.write_index(made, str(tmp_path / "x.faiss"))
    numbers = "lists, " in kind or "IDMap" in kind
    queries = rng.standard_normal((5, D), dtype=np.float32)
    index = open_foreign(tmp_path / "x.faiss", None if numbers else "rows", D)
    ids = index.ids()
    (scores, rows), (others, again) = (index.search(queries, k) for _ in range(2))
    assert rows.shape == (5, min(k, count))
    assert ((rows >= -1) & (rows < count)).all()
    assert ((rows == -1) == np.isneginf(scores)).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(scores, others)

    documents = ids.document_numbers(rows)
    assert ((documents[:, None] == documents[:, :, None]) == (
        ids.take(rows)[:, None] == ids.take(rows)[:, :, None]
    )).all()  # fmt: skip
    measures = agreement(documents, documents, queries, queries, [1, 10])
    for name in ("overlap@1", "overlap@10", "rbo", "first"):
        np.testing.assert_allclose(measures[name], 1)
    if kind == "IDMap of lists":  # where faiss cannot tell the number -1 from no hit
        return
    found, names = made.search(queries, count)  # all, of which each document counts by its best
    signed = found if faiss.is_similarity_metric(made.metric_type) else -found
    for own_scores, own_rows, best, called in zip(scores, rows, signed, names, strict=True):
        wanted = {}
        for score, name in zip(best, called.tolist(), strict=True):
            if name != -1:
                wanted.setdefault(name, score)
        there = own_rows != -1
        assert there.sum() == min(k, len(wanted))
        np.testing.assert_array_equal(own_scores[there], list(wanted.values())[:k])
        if not copies:
            assert ids.take(own_rows[there]).tolist() == [*map(str, wanted)][:k]
