"""Vectors that a user has: read once, each text once, and what is wrong with some."""

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
from vector_files import some_vectors, write_vectors

from disret import files, paths
from disret.command_line import UserError
from disret.data import vector_sources, vectors
from disret.data.vectors import Vectors, is_normalised, read_vectors, split

NAMES = ["v.parquet", "v.jsonl", "v.jsonl.gz", "v.npz"]
TEXTS, EMBEDDINGS = some_vectors(35)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 10)
    monkeypatch.setattr(vector_sources, "BLOCK", 7)


def copies():
    folder = paths.DOWNLOADS / "embeddings"
    return sorted(path for path in folder.glob("*") if path.name[0] != ".")


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


def test_sources_follow_each_other_up_to_a_limit(tmp_path):
    first = write_vectors(tmp_path / "a.parquet", TEXTS[:12], EMBEDDINGS[:12])
    second = write_vectors(tmp_path / "b.jsonl", TEXTS[12:], EMBEDDINGS[12:])
    for limit, count in [(None, 35), (12, 12), (13, 13), (100, 35)]:
        found = read_vectors([first, second], limit)
        assert found.texts == TEXTS[:count]
        np.testing.assert_array_equal(found.embeddings, EMBEDDINGS[:count])


def test_nothing_after_the_limit_is_looked_at(tmp_path):
    path = tmp_path / "v.jsonl"
    write_vectors(path, [*TEXTS[:3], TEXTS[0], TEXTS[3]], EMBEDDINGS[[0, 1, 2, 0, 3]])
    with path.open("a") as file:
        file.write("no object\n")
    assert read_vectors([str(path)], limit=4).texts == TEXTS[:4]
    with pytest.raises(UserError, match="line 6"):
        read_vectors([str(path)], limit=5)


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
    assert "left out 4 rows that repeat a text and its vector" in capsys.readouterr().err
    assert read_vectors([first]).sha256 == found.sha256


@pytest.mark.parametrize("again", [1, 30])
def test_another_vector_of_the_same_text_is_an_error(tmp_path, again):
    texts = ["x" * 80, *TEXTS]
    embeddings = np.concatenate([EMBEDDINGS[:1], EMBEDDINGS])
    texts[again] = texts[0]
    path = write_vectors(tmp_path / "v.parquet", texts, embeddings + np.arange(36)[:, None])
    with pytest.raises(UserError) as caught:
        read_vectors([path])
    assert str(caught.value) == (
        f"{path}, row 1 and {path}, row {again + 1} have different vectors of the same text: "
        f"'{'x' * 60}…'."
    )
    assert copies() == []


def test_the_rows_of_two_files_are_named(tmp_path):
    first = write_vectors(tmp_path / "a.npz", TEXTS[:15], EMBEDDINGS[:15])
    second = write_vectors(tmp_path / "b.jsonl", TEXTS[15:], EMBEDDINGS[15:])
    third = write_vectors(tmp_path / "c.npz", ["new", TEXTS[17]], EMBEDDINGS[:2])
    with pytest.raises(UserError, match=r"b\.jsonl, line 3 and \S*c\.npz, row 2 have different"):
        read_vectors([first, second, third])


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
    with pytest.raises(UserError, match=f"{name} holds no rows"):
        read_vectors([str(path)])
    full = write_vectors(tmp_path / "full.npz", TEXTS, EMBEDDINGS)
    with pytest.raises(UserError, match=f"{name} holds no rows"):
        read_vectors([full, str(path)])
    assert read_vectors([full, str(path)], limit=35).texts == TEXTS


def test_a_later_file_is_opened_before_the_first_is_read(tmp_path):
    first = write_vectors(tmp_path / "a.jsonl", TEXTS, EMBEDDINGS * np.nan)
    (tmp_path / "b.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"b\.npz is not a whole npz file"):
        read_vectors([first, str(tmp_path / "b.npz")])


# --- The copy -------------------------------------------------------------------------------------


def test_a_copy_is_read_again_and_not_its_source(tmp_path, monkeypatch):
    path = write_vectors(tmp_path / "v.parquet", TEXTS, EMBEDDINGS)
    first = read_vectors([path])
    monkeypatch.setattr(vectors, "open_source", None)
    second = read_vectors([path])
    assert (second.texts, second.sha256) == (first.texts, first.sha256)
    np.testing.assert_array_equal(second.embeddings, EMBEDDINGS)
    assert isinstance(second.embeddings, np.memmap)
    assert len(copies()) == 4  # vectors and texts, each with a checksum


@pytest.mark.parametrize("change", ["time", "size", "place", "limit"])
def test_a_change_makes_another_copy(tmp_path, change):
    path = write_vectors(tmp_path / "v.jsonl", TEXTS, EMBEDDINGS)
    first, limit = read_vectors([path]), None
    if change == "time":
        os.utime(path, ns=(0, 0))
    elif change == "size":
        write_vectors(tmp_path / "v.jsonl", TEXTS[:30], EMBEDDINGS[:30])
    elif change == "place":
        path = str(shutil.copy2(path, tmp_path / "w.jsonl"))
    else:
        limit = 30
    second = read_vectors([path], limit)
    assert len(copies()) == 8
    assert (second.sha256 == first.sha256) == (change in ("time", "place"))


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
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


def test_the_space_is_looked_at_first(tmp_path, monkeypatch):
    path = write_vectors(tmp_path / "v.parquet", TEXTS, EMBEDDINGS)
    free = shutil.disk_usage(tmp_path)._replace(free=35 * 8 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match="a copy of the embeddings needs about"):
        read_vectors([path])
    assert copies() == []
    assert len(read_vectors([path], limit=34).texts) == 34


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
@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_vectors_are_not_held_in_memory(tmp_path, name):
    """In a process of its own, which has no memory to use again; 41 MB, in one row group."""
    texts, embeddings = some_vectors(40_000, 256)
    small = write_vectors(tmp_path / f"small-{name}", texts[:2000], embeddings[:2000])
    large = write_vectors(tmp_path / name, texts, embeddings)
    if name == "v.parquet":
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


def made_of(texts):
    return Vectors(texts, np.zeros((len(texts), 1), np.float32), "")


def test_a_split_follows_the_texts_and_not_their_order():
    texts = [f"query {number}" for number in range(10_000)]
    train, valid = split(made_of(texts))
    assert sorted([*train, *valid]) == list(range(10_000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()
    assert 150 < len(valid) < 250
    turned = texts[::-1]
    assert {turned[row] for row in split(made_of(turned))[1]} == {texts[row] for row in valid}
    fewer = {texts[row] for row in split(made_of(texts[:5000]))[1]}
    assert fewer == {texts[row] for row in valid if row < 5000}
    few = split(made_of(texts), most=20)[1]
    assert len(few) == 20
    assert set(few) <= set(valid)


def test_a_split_has_one_of_each_at_least():
    for share in (0, 1):
        train, valid = split(made_of(["a", "b"]), share)
        assert (len(train), len(valid)) == (1, 1)
    assert len(split(made_of(["a", "b", "c"]), share=1)[0]) == 1
    with pytest.raises(UserError, match="one text is too few"):
        split(made_of(["a"]))


def test_texts_of_a_copy_are_lines_of_json(tmp_path):
    read_vectors([write_vectors(tmp_path / "v.npz", TEXTS, EMBEDDINGS)])
    (path,) = (copy for copy in copies() if copy.suffix == ".jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == TEXTS
