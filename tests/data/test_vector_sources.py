"""Texts and vectors in every format, real damage to each, and a hub on this machine."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_hub import DatasetHub, hub_environment
from vector_files import some_vectors, write_vectors

from disret.command_line import UserError
from disret.data import vector_sources
from disret.data.vector_sources import open_source, version

NAMES = ["v.parquet", "v.jsonl", "v.jsonl.gz", "v.npz"]
TEXTS, EMBEDDINGS = some_vectors(25)


def rows_of(name):
    source = open_source(str(name), version(str(name)))
    return source, list(source.rows)


def assert_rows(rows, texts=TEXTS, embeddings=EMBEDDINGS):
    assert [text for _, text, _ in rows] == list(texts)
    assert [number for number, _, _ in rows] == list(range(1, len(texts) + 1))
    found = np.stack([vector for _, _, vector in rows])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, embeddings)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(vector_sources, "BLOCK", 10)


# --- What is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_formats_give_the_same_rows(tmp_path, name):
    source, rows = rows_of(write_vectors(tmp_path / name, TEXTS, EMBEDDINGS))
    assert_rows(rows)
    assert len(TEXTS) / 3 < source.count < len(TEXTS) * 3
    assert source.place(3) == f"{tmp_path / name}, {'line' if 'json' in name else 'row'} 3"


@pytest.mark.parametrize("kind", ["float64", "float16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_any_kind_become_float32(tmp_path, name, kind):
    vectors = (EMBEDDINGS * 10).astype(kind)
    _, rows = rows_of(write_vectors(tmp_path / name, TEXTS, vectors))
    assert_rows(rows, embeddings=vectors.astype(np.float32))


def test_kinds_of_columns_in_parquet(tmp_path):
    flat = pa.array(EMBEDDINGS.ravel())
    offsets = range(0, len(flat) + 1, EMBEDDINGS.shape[1])
    vectors = {
        "list": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat),
        "large": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat),
        "fixed": pa.FixedSizeListArray.from_arrays(flat, EMBEDDINGS.shape[1]),
    }
    texts = {
        "list": pa.array(TEXTS, pa.large_string()),
        "large": pa.array(TEXTS).dictionary_encode(),
        "fixed": pa.array(TEXTS, pa.string_view()),
    }
    for kind in vectors:
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(pa.table({"v": vectors[kind], "t": texts[kind]}), path, row_group_size=7)
        assert_rows(rows_of(path)[1])


def test_a_fortran_array_and_a_compressed_archive(tmp_path):
    np.savez(tmp_path / "f.npz", texts=TEXTS, embeddings=np.asfortranarray(EMBEDDINGS), more=[1])
    np.savez_compressed(tmp_path / "c.npz", texts=TEXTS, embeddings=EMBEDDINGS)
    assert_rows(rows_of(tmp_path / "f.npz")[1])
    assert_rows(rows_of(tmp_path / "c.npz")[1])


def test_blank_lines_are_skipped_and_the_others_keep_their_numbers(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"query": "a", "vector": [1, 0.5]}\r\n\r\n{"vector": [0, 1], "query": "b"}'
    )
    assert [(n, text, v.tolist()) for n, text, v in rows_of(path)[1]] == [
        (1, "a", [1, 0.5]),
        (3, "b", [0, 1]),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_columns_by_name_or_the_only_one_of_a_kind(tmp_path, suffix):
    def write(**columns):
        path = tmp_path / f"v{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({name: [value] for name, value in columns.items()}), path)
        else:
            path.write_text(json.dumps(columns))
        return path

    floats, integers = [0.5, 2.0], [1, 2]
    for columns, text, vector in [
        ({"title": "t", "query": "q", "emb": floats, "w": floats}, "q", floats),
        ({"id": 3, "body": "b", "ids": integers, "w": floats}, "b", floats),
        ({"text": 3, "sentence": "s", "vector": integers}, "s", integers),
    ]:
        ((_, found, numbers),) = rows_of(write(**columns))[1]
        assert (found, numbers.tolist()) == (text, vector)
    for columns, reason in [
        ({"a": "x", "b": "y", "emb": floats}, r"of texts is called text, query or sentence, or"),
        ({"text": "x", "v": floats, "w": floats}, r"there are: text \(text\), v \(floats\), w"),
        ({"text": "x", "ids": integers}, r"of vectors .* text \(text\), ids \(integers\)\.$"),
        ({"text": "x", "embedding": ["y"]}, r"embedding \(list\)\.$"),
    ]:
        with pytest.raises(UserError, match=reason):
            rows_of(write(**columns))


# --- What is wrong with a file --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl.gz", "v.npz"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write_vectors(tmp_path / name, *some_vectors(200))
    whole = (tmp_path / name).read_bytes()
    damaged = {"cut": whole[: len(whole) * 2 // 3], "other": b"words " * 99, "empty": b""}[damage]
    (tmp_path / name).write_bytes(damaged)
    if (name, damage) == ("v.jsonl.gz", "empty"):
        assert rows_of(tmp_path / name)[1] == []  # as gzip has it
        return
    with pytest.raises(UserError, match=rf"{name} is not a whole (Parquet|gzip|npz) file: \w.*\.$"):
        rows_of(tmp_path / name)


def test_bytes_of_an_archive_that_changed_are_found(tmp_path):
    path = tmp_path / "v.npz"
    write_vectors(path, *some_vectors(200))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(100) + whole[half + 100 :])
    with pytest.raises(UserError, match=r"v\.npz is not a whole npz file: Bad CRC-32"):
        rows_of(path)


def test_a_name_that_two_columns_have(tmp_path):
    table = pa.table([["a"], ["b"], [[1.0]]], names=["text", "text", "emb"])
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(UserError, match='"text" exists 2 times'):
        rows_of(tmp_path / "v.parquet")


def test_lines_that_are_no_objects_or_have_no_vector(tmp_path):
    good = '{"text": "a", "embedding": [0.5]}'
    for line, reason in [
        ("{", "no JSON object: '{'"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"text": "b"}', '"embedding" is no list of numbers'),
        ('{"text": "b", "embedding": [true]}', '"embedding" is no list of numbers'),
        ('{"text": "b", "embedding": ["1"]}', '"embedding" is no list of numbers'),
        ('{"text": "b", "embedding": []}', '"embedding" is no list of numbers'),
        ('{"text": "b", "embedding": [null]}', '"embedding" is no list of numbers'),
    ]:
        (tmp_path / "v.jsonl").write_text(f"{good}\n{line}\n")
        with pytest.raises(UserError, match=f"v.jsonl, line 2: {reason}"):
            rows_of(tmp_path / "v.jsonl")
    (tmp_path / "v.jsonl").write_bytes(good.encode() + b"\n\xff\n")
    with pytest.raises(UserError, match="line 2: no JSON object"):
        rows_of(tmp_path / "v.jsonl")


def test_archives_of_other_arrays(tmp_path):
    path = tmp_path / "v.npz"
    for arrays, reason in [
        ({"texts": ["a"], "vectors": [[1.0]]}, "there are: texts, vectors"),
        ({"texts": np.array(["a"], object), "embeddings": [[1.0]]}, "texts has pickled objects"),
        ({"texts": ["a"], "embeddings": np.array([[None]])}, "embeddings has pickled objects"),
        ({"texts": [b"a"], "embeddings": [[1.0]]}, r"values of \|S1; unicode texts are wanted"),
        ({"texts": ["a"], "embeddings": [[1j]]}, "values of complex128; numbers are wanted"),
        ({"texts": ["a", "b"], "embeddings": [[1.0]]}, r"shape \(2,\) and embeddings \(1, 1\)"),
        ({"texts": ["a"], "embeddings": [1.0]}, r"embeddings \(1,\); \[n\] and \[n, dimension\]"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=reason):
            rows_of(path)


def test_a_text_of_parquet_that_is_not_utf8_is_none(tmp_path):
    texts = [text.encode() for text in TEXTS]
    texts[16] = b"\xff\xfe"
    lengths = [0, *map(len, texts)]
    offsets = pa.py_buffer(np.cumsum(lengths).astype(np.int32))
    array = pa.StringArray.from_buffers(len(texts), offsets, pa.py_buffer(b"".join(texts)))
    pq.write_table(pa.table({"text": array, "emb": list(EMBEDDINGS)}), tmp_path / "v.parquet")
    _, rows = rows_of(tmp_path / "v.parquet")
    assert [text for _, text, _ in rows] == [*TEXTS[:16], None, *TEXTS[17:]]


def test_names_that_say_no_format_or_no_file(tmp_path):
    with pytest.raises(UserError, match=r"v\.csv is neither hub:NAME nor a file in \.parquet"):
        version(str(tmp_path / "v.csv"))
    with pytest.raises(UserError, match="there is no file"):
        version(str(tmp_path / "none.npz"))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        version(str(tmp_path / "folder.parquet"))


# --- The hub --------------------------------------------------------------------------------------


READ = """
import json, sys
from disret.command_line import UserError
from disret.data.vectors import read_vectors
for name in sys.argv[1:]:
    try:
        found = read_vectors([name])
        print(json.dumps([found.texts, found.embeddings.tolist(), found.sha256]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def read_in_a_process(tmp_path, endpoint, *names):
    command = [sys.executable, "-c", READ, *names]
    run = subprocess.run(
        command,
        env=hub_environment(tmp_path, endpoint),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_data_sets_of_the_hub_stream(tmp_path):
    hub = DatasetHub()
    for part in ("train", "dev"):
        texts = [f"{part} {text}" for text in TEXTS]
        write_vectors(tmp_path / f"{part}.parquet", texts, EMBEDDINGS)
        write_vectors(tmp_path / f"{part}.jsonl", texts, EMBEDDINGS)
        hub.files[f"small/{part}.parquet"] = (tmp_path / f"{part}.parquet").read_bytes()
    files = [{"split": part, "path": f"small/{part}.parquet"} for part in ("train", "dev")]
    configs = json.dumps([{"config_name": "small", "data_files": files}])
    hub.files["README.md"] = f"---\nconfigs: {configs}\n---\n".encode()
    names = ["hub:someone/set", "hub:someone/set/small:dev", "hub:someone/set:test",
             "hub:someone/set/large", "hub:someone/none", "hub:", "hub:someone/set#text",
             str(tmp_path / "dev.jsonl")]  # fmt: skip
    train, dev, *wrong, file = read_in_a_process(tmp_path, hub.url, *names)
    assert train[0] == [f"train {text}" for text in TEXTS]
    assert dev == file
    np.testing.assert_array_equal(np.array(dev[1], np.float32), EMBEDDINGS)
    parts = ["Bad split: test", "'large' not found", "no such data set",
             "names no data set of the hub", "columns of vectors are not named"]  # fmt: skip
    for reason, name, part in zip(wrong, names[2:-1], parts, strict=True):
        assert reason.startswith(f"{name}")
        assert part in reason
    hub.files["small/dev.parquet"] = b"damaged"
    before = read_in_a_process(tmp_path, hub.url, "hub:someone/set/small:dev")
    assert before == [dev]  # of the same revision
    hub.revision = "e" * 40
    (now,) = read_in_a_process(tmp_path, hub.url, "hub:someone/set/small:dev")
    assert now.startswith("hub:someone/set/small:dev cannot be read: ")
    hub.close()
    (now,) = read_in_a_process(tmp_path, hub.url, "hub:someone/set")
    assert now == f"hub:someone/set cannot be read: no answer from {hub.url}."


def test_the_hub_is_not_asked_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"^hub:someone/set cannot be read: HF_HUB_OFFLINE is set"):
        version("hub:someone/set")


def test_a_compressed_file_is_about_as_long_as_it_says(tmp_path):
    """For the space that a copy takes."""
    write_vectors(tmp_path / "v.jsonl", *some_vectors(500, 64))
    (tmp_path / "v.jsonl.gz").write_bytes(gzip.compress((tmp_path / "v.jsonl").read_bytes()))
    for name in ("v.jsonl", "v.jsonl.gz"):
        assert 400 < rows_of(tmp_path / name)[0].count < 600
