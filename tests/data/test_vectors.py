"""Vectors that a user has: in every format, read once, each text once; what is wrong with some."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from dataset_hub import DatasetHub, hub_environment
from vector_files import some_vectors, write_vectors

from disret import files, paths
from disret.command_line import UserError
from disret.data import vectors
from disret.data.vectors import is_normalised, read_vectors

NAMES = ["v.parquet", "v.jsonl", "v.jsonl.gz", "v.npz"]
TEXTS, EMBEDDINGS = some_vectors(35)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 7)


def copies():
    folder = paths.DOWNLOADS / "embeddings"
    return sorted(path for path in folder.glob("*") if path.name[0] != ".")


def assert_rows(path, embeddings=EMBEDDINGS):
    found = read_vectors([str(path)])
    assert found.texts == TEXTS
    np.testing.assert_array_equal(found.embeddings, embeddings)


# --- Formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_format_is_read(tmp_path, name):
    assert_rows(write_vectors(tmp_path / name, TEXTS, EMBEDDINGS))


@pytest.mark.parametrize("kind", ["float64", "float16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_any_kind_become_float32(tmp_path, name, kind):
    vectors = (EMBEDDINGS * 10).astype(kind)
    assert_rows(write_vectors(tmp_path / name, TEXTS, vectors), vectors.astype(np.float32))


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
        assert_rows(path)


def test_a_fortran_array_and_a_compressed_archive(tmp_path):
    np.savez(tmp_path / "f.npz", texts=TEXTS, embeddings=np.asfortranarray(EMBEDDINGS), more=[1])
    np.savez_compressed(tmp_path / "c.npz", texts=TEXTS, embeddings=EMBEDDINGS)
    assert_rows(tmp_path / "f.npz")
    assert_rows(tmp_path / "c.npz")


def test_blank_lines_are_skipped_and_the_others_keep_their_numbers(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"query": "a", "vector": [1, 0.5]}\r\n\r\n{"vector": [0, 1], "query": "b"}'
    )
    found = read_vectors([str(path)])
    assert (found.texts, found.embeddings.tolist()) == (["a", "b"], [[1, 0.5], [0, 1]])
    with path.open("a") as file:
        file.write('\n\n{"query": "c"}')
    with pytest.raises(UserError, match=r"v\.jsonl, line 5: there is no vector"):
        read_vectors([str(path)])


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
        found = read_vectors([str(write(**columns))])
        assert (found.texts, found.embeddings.tolist()) == ([text], [vector])
    for columns, reason in [
        (
            {"a": "x", "b": "y", "emb": floats},
            r"of texts must be called text or query or queries or query text, or",
        ),
        (
            {"text": "x", "v": floats, "w": floats},
            r"there are: text \(string\), v \(list<\w+: double>\), w",
        ),
        (
            {"text": "x", "ids": integers},
            r"of vectors .* text \(string\), ids \(list<\w+: int64>\)\.$",
        ),
        ({"text": "x", "embedding": ["y"]}, r"embedding \(list<\w+: string>\)\.$"),
    ]:
        with pytest.raises(UserError, match=reason):
            read_vectors([str(write(**columns))])


@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 4)])
def test_tensors(tmp_path, shape):
    """As datasets and Ray write vectors; a matrix is none."""
    texts, vectors = some_vectors(5)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(vectors.reshape(5, *shape))
    pq.write_table(pa.table({"text": texts, "embedding": tensors}), tmp_path / "v.parquet")
    if shape == (2, 4):
        with pytest.raises(UserError, match=r"there are: text \(string\), embedding \(extension"):
            read_vectors([f"{tmp_path}/v.parquet"])
    else:
        np.testing.assert_array_equal(read_vectors([f"{tmp_path}/v.parquet"]).embeddings, vectors)


# --- What is wrong with a file --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl.gz", "v.npz"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write_vectors(tmp_path / name, *some_vectors(200))
    whole = (tmp_path / name).read_bytes()
    damaged = {"cut": whole[: len(whole) * 2 // 3], "other": b"words " * 99, "empty": b""}[damage]
    (tmp_path / name).write_bytes(damaged)
    reason = r"(is empty|cannot be read: \S.*|is not a whole gzip file|holds no rows)\.$"
    with pytest.raises(UserError, match=f"{name} {reason}"):
        read_vectors([str(tmp_path / name)])


def test_bytes_of_an_archive_that_changed_are_found(tmp_path):
    path = tmp_path / "v.npz"
    write_vectors(path, *some_vectors(200))
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(100) + whole[half + 100 :])
    with pytest.raises(UserError, match=r"v\.npz cannot be read: Bad CRC-32"):
        read_vectors([str(path)])


def test_a_name_that_two_columns_have(tmp_path):
    table = pa.table([["a"], ["b"], [[1.0]]], names=["text", "text", "emb"])
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(UserError, match='"text" exists 2 times'):
        read_vectors([str(tmp_path / "v.parquet")])


def test_lines_that_are_no_objects_or_have_no_vector(tmp_path):
    good = '{"text": "a", "embedding": [0.5]}'
    no_vector = "there is no vector, which is a list of numbers"
    for line, reason in [
        ("{", "no JSON: '{'"),
        ("[1]", "expected a JSON object"),
        ('{"text": "b"}', no_vector),
        ('{"text": "b", "embedding": 3}', no_vector),
        ('{"text": "b", "embedding": ["x"]}', no_vector),
        ('{"text": "b", "embedding": [[1.0, 2.0]]}', no_vector),
        ('{"text": "b", "embedding": []}', no_vector),
        ('{"text": "b", "embedding": [null]}', "the vector has values that are not finite"),
        ('{"text": 3, "embedding": [1]}', "the text is empty or no Unicode text"),
    ]:
        (tmp_path / "v.jsonl").write_text(f"{good}\n{line}\n")
        with pytest.raises(UserError, match=f"v.jsonl, line 2: {reason}"):
            read_vectors([str(tmp_path / "v.jsonl")])
    (tmp_path / "v.jsonl").write_bytes(good.encode() + b"\n\xff\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_vectors([str(tmp_path / "v.jsonl")])


def test_archives_of_other_arrays(tmp_path):
    path = tmp_path / "v.npz"
    for arrays, reason in [
        ({"texts": ["a"], "vectors": [[1.0]]}, "'embeddings"),
        ({"texts": np.array(["a"], object), "embeddings": [[1.0]]}, "Object arrays cannot be"),
        ({"texts": [b"a"], "embeddings": [[1.0]]}, "row 1: the text is empty or no Unicode text"),
        ({"texts": ["a", "b"], "embeddings": [[1.0]]}, "has 2 texts and 1 embeddings"),
        ({"texts": ["a"], "embeddings": [1.0]}, "row 1: there is no vector"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=reason):
            read_vectors([str(path)])


def test_names_that_say_no_format_or_no_file(tmp_path):
    with pytest.raises(UserError, match=r"v\.csv is neither hub:NAME nor a file in \.parquet"):
        read_vectors([str(tmp_path / "v.csv")])
    with pytest.raises(UserError, match="there is no file"):
        read_vectors([str(tmp_path / "none.npz")])
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        read_vectors([str(tmp_path / "folder.parquet")])


# --- What is read ---------------------------------------------------------------------------------


def test_two_formats_give_the_same_content_and_name_for_it(tmp_path):
    read = [read_vectors([write_vectors(tmp_path / name, TEXTS, EMBEDDINGS)]) for name in NAMES]
    for found in read:
        assert found.texts == TEXTS
        assert isinstance(found.embeddings, np.memmap)
        assert (found.embeddings.dtype, found.embeddings.flags.writeable) == (np.float32, False)
        np.testing.assert_array_equal(found.embeddings, EMBEDDINGS)
    assert len({found.sha256 for found in read}) == 1
    other = write_vectors(tmp_path / "other.npz", [*TEXTS[:-1], "another"], EMBEDDINGS)
    turned = write_vectors(tmp_path / "turned.npz", TEXTS, -EMBEDDINGS)
    assert len({read[0].sha256, *(read_vectors([name]).sha256 for name in (other, turned))}) == 3


def test_sources_follow_each_other(tmp_path):
    first = write_vectors(tmp_path / "a.parquet", TEXTS[:12], EMBEDDINGS[:12])
    second = write_vectors(tmp_path / "b.jsonl", TEXTS[12:], EMBEDDINGS[12:])
    found = read_vectors([first, second])
    assert found.texts == TEXTS
    np.testing.assert_array_equal(found.embeddings, EMBEDDINGS)


def test_texts_are_kept_as_they_are(tmp_path):
    texts = [" spaces ", "two\nlines\r\n", "\u2028 separators \x85", '"quoted" \\', "null\0", "語"]
    path = write_vectors(tmp_path / "v.parquet", texts, EMBEDDINGS[:6])
    assert read_vectors([path]).texts == texts
    assert read_vectors([path]).texts == texts


# --- A text that is there twice -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_repeated_rows_are_kept_once_and_counted(tmp_path, capsys, name):
    """In a block, in a later one and in a later file; to the precision of another format."""
    order = [0, 1, 1, *range(2, 35), 3]
    first = write_vectors(tmp_path / name, [TEXTS[i] for i in order], EMBEDDINGS[order])
    rounded = EMBEDDINGS[[5, 7]].astype(np.float16)
    second = write_vectors(tmp_path / "b.npz", [TEXTS[5], TEXTS[7]], rounded)
    found = read_vectors([first, second])
    assert found.texts == TEXTS
    np.testing.assert_array_equal(found.embeddings, EMBEDDINGS)
    assert (
        "4 rows repeat a text, each with the same vector; the first is kept"
        in capsys.readouterr().err
    )
    assert read_vectors([first]).sha256 == found.sha256


@pytest.mark.parametrize("again", [1, 30])
def test_another_vector_of_the_same_text_is_an_error(tmp_path, again):
    texts = ["x" * 80, *TEXTS]
    embeddings = np.concatenate([EMBEDDINGS[:1], EMBEDDINGS])
    texts[again] = texts[0]
    path = write_vectors(tmp_path / "v.parquet", texts, embeddings + np.arange(36)[:, None])
    with pytest.raises(UserError) as caught:
        read_vectors([path])
    assert str(caught.value) == f"{path}, row {again + 1}: '{'x' * 60}…' had another vector before."
    assert copies() == []


def test_a_row_of_a_later_file_is_named(tmp_path):
    first = write_vectors(tmp_path / "a.npz", TEXTS[:15], EMBEDDINGS[:15])
    second = write_vectors(tmp_path / "b.jsonl", TEXTS[15:], EMBEDDINGS[15:])
    third = write_vectors(tmp_path / "c.npz", ["new", TEXTS[17]], EMBEDDINGS[:2])
    with pytest.raises(UserError, match=r"c\.npz, row 2: 'what is ü 17\?' had another vector"):
        read_vectors([first, second, third])


def test_noise_of_a_service_is_no_other_vector(tmp_path, capsys):
    """Its vectors of a text differ by some 0.00003 a value from one request to the next."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 3072))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    again = vectors + rng.normal(size=vectors.shape) * 2.8e-5
    assert np.abs(vectors - again).max() > 1e-4
    texts = [f"text {n}" for n in range(20)]
    path = write_vectors(tmp_path / "v.jsonl", texts * 2, np.concatenate([vectors, again]))
    found = read_vectors([path])
    np.testing.assert_array_equal(found.embeddings, vectors.astype(np.float32))
    assert "20 rows repeat a text, each with the same vector" in capsys.readouterr().err
    zero = write_vectors(tmp_path / "z.jsonl", ["a", "a"], np.array([[0.0, 0], [0, 1]]))
    with pytest.raises(UserError, match="'a' had another vector before"):
        read_vectors([zero])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".ndjson", ".json"])
def test_ids_are_no_texts_and_what_is_taken_is_said(tmp_path, capsys, suffix):
    def write(**columns):
        path = tmp_path / f"v{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table(columns), path)
        else:
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            path.write_text(json.dumps(rows) if suffix == ".json" else lines)
        return str(path)

    vectors = [[0.5, 1.0], [1.0, 0.5]]
    with pytest.raises(UserError, match=r"a column of texts must be called text or .*id \(string"):
        read_vectors([write(id=["doc-1", "doc-2"], embedding=vectors)])
    path = write(doc_id=["d1", "d2"], content=["a cat", "a dog"], embedding=vectors)
    assert read_vectors([path]).texts == ["a cat", "a dog"]
    said = capsys.readouterr().err
    assert said.count(f"{path}: texts are of column content, vectors of column embedding.") == 1


# --- What is wrong with a row ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(tmp_path, name, value):
    embeddings = EMBEDDINGS.astype(np.float64)
    embeddings[23, 3] = value
    path = write_vectors(tmp_path / name, TEXTS, embeddings)
    with pytest.raises(UserError, match=rf"{name}, (row|line) 24: the vector has values that are"):
        read_vectors([path])
    assert copies() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [*((name, text) for name in NAMES for text in ("", " \n")),
     *((name, "half \ud800") for name in NAMES[1:])],  # Parquet has bytes
)  # fmt: skip
def test_texts_that_are_none(tmp_path, name, text):
    texts = [*TEXTS[:21], text, *TEXTS[22:]]
    path = write_vectors(tmp_path / name, texts, EMBEDDINGS)
    with pytest.raises(UserError, match=rf"{name}, (row|line) 22: the text is empty or no Unicode"):
        read_vectors([path])


@pytest.mark.parametrize("name", NAMES[:3])
def test_vectors_of_another_length(tmp_path, name):
    ragged = [*EMBEDDINGS[:14], EMBEDDINGS[14][:7], *EMBEDDINGS[15:]]
    path = write_vectors(tmp_path / name, TEXTS, ragged)
    with pytest.raises(UserError, match="15: the vector has 7 numbers, the first has 8"):
        read_vectors([path])


def test_a_second_file_of_another_dimension(tmp_path):
    first = write_vectors(tmp_path / "a.npz", TEXTS, EMBEDDINGS)
    second = write_vectors(tmp_path / "b.npz", ["new"], EMBEDDINGS[:1, :5])
    with pytest.raises(UserError, match=r"b\.npz, row 1: the vector has 5 numbers, the first has"):
        read_vectors([first, second])


def test_nothing_where_a_text_or_vector_should_be(tmp_path):
    def written(texts, rows):
        vectors = pa.array(rows, pa.list_(pa.float32()))
        pq.write_table(pa.table({"text": texts, "emb": vectors}), tmp_path / "v.parquet")
        return [str(tmp_path / "v.parquet")]

    for rows, reason in [
        ([[1.0], None], "row 2: there is no vector"),
        ([[], [1.0]], "row 1: there is no vector"),
        ([[1.0], [None]], "row 2: the vector has values that are not finite"),
    ]:
        with pytest.raises(UserError, match=reason):
            read_vectors(written(["a", "b"], rows))
    with pytest.raises(UserError, match="row 2: the text is empty or no Unicode text"):
        read_vectors(written(["a", None], [[1.0], [2.0]]))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a"], "emb": [[1.0]]}).slice(0, 0), path)
    elif path.suffix == ".npz":
        np.savez(path, texts=np.array([], "U1"), embeddings=np.zeros((0, 4)))
    else:
        write_vectors(path, [], [])
    with pytest.raises(UserError, match=f"{name} (holds no rows|is empty)"):
        read_vectors([str(path)])
    full = write_vectors(tmp_path / "full.npz", TEXTS, EMBEDDINGS)
    with pytest.raises(UserError, match=f"{name} (holds no rows|is empty)"):
        read_vectors([full, str(path)])


def test_a_later_file_is_opened_before_the_first_is_read(tmp_path):
    first = write_vectors(tmp_path / "a.jsonl", TEXTS, EMBEDDINGS * np.nan)
    (tmp_path / "b.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"b\.npz cannot be read: "):
        read_vectors([first, str(tmp_path / "b.npz")])


# --- The copy -------------------------------------------------------------------------------------


def test_a_copy_is_read_again_and_not_its_source(tmp_path, monkeypatch):
    path = write_vectors(tmp_path / "v.parquet", TEXTS, EMBEDDINGS)
    first = read_vectors([path])
    monkeypatch.setattr(vectors, "_rows", None)
    second = read_vectors([path])
    assert (second.texts, second.sha256) == (first.texts, first.sha256)
    np.testing.assert_array_equal(second.embeddings, EMBEDDINGS)
    assert isinstance(second.embeddings, np.memmap)
    assert len(copies()) == 4  # vectors and texts, each with a checksum


@pytest.mark.parametrize("change", ["time", "size", "place"])
def test_a_change_makes_another_copy(tmp_path, change):
    path = write_vectors(tmp_path / "v.jsonl", TEXTS, EMBEDDINGS)
    first = read_vectors([path])
    if change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "size":
        write_vectors(tmp_path / "v.jsonl", TEXTS[:30], EMBEDDINGS[:30])
    else:
        path = str(shutil.copy2(path, tmp_path / "w.jsonl"))
    second = read_vectors([path])
    assert len(copies()) == 8
    assert (second.sha256 == first.sha256) == (change in ("time", "place"))


def test_another_file_of_the_same_size_and_time(tmp_path):
    """As `cp -p` and `rsync -t` leave it."""
    path = tmp_path / "v.npz"
    write_vectors(path, TEXTS, EMBEDDINGS)
    first, times = read_vectors([str(path)]), path.stat()
    write_vectors(path, TEXTS, -EMBEDDINGS)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    second = read_vectors([str(path)])
    np.testing.assert_array_equal(second.embeddings, -first.embeddings)


@pytest.mark.parametrize("suffix", [".float32", ".jsonl"])
@pytest.mark.parametrize("damage", ["zeros", "short", "no checksum", "gone"])
def test_a_damaged_copy_is_made_anew(tmp_path, capsys, suffix, damage):
    source = write_vectors(tmp_path / "v.npz", TEXTS, EMBEDDINGS)
    first = read_vectors([source])
    (path,) = (copy for copy in copies() if copy.suffix == suffix)
    whole = path.read_bytes()
    if damage == "zeros":
        path.write_bytes(whole[:200] + bytes(len(whole) - 200))
    elif damage == "short":
        path.write_bytes(whole[:-40])
    elif damage == "gone":
        path.unlink()
    else:
        files.checksum_path(path).unlink()
    found = read_vectors([source])
    said = f"{path} is not as its checksum says; making it anew" in capsys.readouterr().err
    assert said == (damage != "gone")
    assert (found.texts, found.sha256) == (first.texts, first.sha256)
    np.testing.assert_array_equal(found.embeddings, EMBEDDINGS)
    assert path.read_bytes() == whole


MEASURE = """
import sys
from pathlib import Path
from disret.data.vectors import read_vectors
from disret.encode.timings import resident_bytes

small, large = sys.argv[1:]
read_vectors([small])  # so that libraries are loaded
before = resident_bytes()
assert read_vectors([large]).embeddings.shape == (40_000, 256)
after = resident_bytes()
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(after - before, int(peak) * 1024 - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell the peak")
def test_vectors_are_not_held_in_memory(tmp_path):
    """In a process of its own, which has no memory to use again; 41 MB, in one row group."""
    texts, embeddings = some_vectors(40_000, 256)
    small = write_vectors(tmp_path / "small.parquet", texts[:2000], embeddings[:2000])
    large = write_vectors(tmp_path / "v.parquet", texts, embeddings)
    assert pq.ParquetFile(large).num_row_groups == 1
    command = [sys.executable, "-c", MEASURE, small, large]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    grown, at_peak = map(int, run.stdout.split())
    assert grown < 50e6
    assert at_peak < 60e6


# --- What they are used for -----------------------------------------------------------------------


def test_normalised_embeddings():
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    assert is_normalised(unit)
    assert is_normalised(unit.astype(np.float16))
    assert not is_normalised(EMBEDDINGS)
    for row in (0, 34):
        other = unit.copy()
        other[row] *= 1.01
        assert not is_normalised(other)
    assert is_normalised(np.tile(unit, (100, 1)))


def test_texts_of_a_copy_are_lines_of_json(tmp_path):
    read_vectors([write_vectors(tmp_path / "v.npz", TEXTS, EMBEDDINGS)])
    (path,) = (copy for copy in copies() if copy.suffix == ".jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == TEXTS


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
        cwd=tmp_path,
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
    (tmp_path / "someone" / "set" / "small").mkdir(parents=True)  # which is not the hub's
    write_vectors(tmp_path / "someone" / "set" / "small" / "train.parquet", ["a"], EMBEDDINGS[:1])
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
        read_vectors(["hub:someone/set"])
