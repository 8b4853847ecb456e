"""Texts to vectors on disk: whole blocks, resumed to the same bytes."""

import errno
import os
import pickle

import numpy as np
import pytest

from disret.command_line import UserError
from disret.encode import embedding_cache
from disret.encode.embedding_cache import Rows, TextVectors, embedded


class Encoder:
    """Gives each text its length, and fails on demand."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.texts = 0
        self.fail_after = fail_after

    def __call__(self, texts: list[str], progress) -> np.ndarray:
        progress(len(texts))
        self.texts += len(texts)
        if self.fail_after is not None and self.texts > self.fail_after:
            raise KeyboardInterrupt
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


TEXTS = [chr(97 + i % 26) * (i % 13 + 1) for i in range(35)]
WANTED = [[len(text), ord(text[0])] for text in TEXTS]


@pytest.fixture
def folder(home):
    return home / "downloads" / "embeddings"


def encode(encoder, key="k" * 64):
    return embedded(key, list, encoder, TEXTS, 2, 10)


def test_rows_are_in_the_order_of_the_texts(folder):
    result = encode(Encoder())
    np.testing.assert_array_equal(result, WANTED)
    assert isinstance(result, np.memmap)
    assert sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) == [
        f"{'k' * 32}.npy", f"{'k' * 32}.npy.sha256"
    ]  # fmt: skip


@pytest.mark.parametrize("power_cut", [False, True])
def test_resumes_at_the_last_whole_block_to_the_same_bytes(folder, power_cut):
    """After a power cut a file may end in zeros, which nothing has noted."""
    encode(Encoder(), "u" * 64)
    with pytest.raises(KeyboardInterrupt):
        encode(Encoder(fail_after=26))
    path = folder / f"{'k' * 32}.npy"
    assert not path.exists()
    if power_cut:
        (part,) = folder.glob(".*.unfinished")
        part.write_bytes(part.read_bytes() + bytes(20 * 8))
    second = Encoder()
    encode(second)
    assert second.texts == 15  # two blocks of ten were kept
    assert path.read_bytes() == (folder / f"{'u' * 32}.npy").read_bytes()
    third = Encoder()
    encode(third)
    assert third.texts == 0
    assert not [name for name in folder.glob(".*") if name.suffix != ".lock"]


@pytest.mark.parametrize("damage", ["zeros", "short", "no checksum"])
def test_a_damaged_file_is_made_anew(folder, capsys, damage):
    """A power cut may leave zeros, or less than was written."""
    encode(Encoder())
    path = folder / f"{'k' * 32}.npy"
    whole = path.read_bytes()
    if damage == "zeros":
        path.write_bytes(whole[:200] + bytes(len(whole) - 200))
    elif damage == "short":
        path.write_bytes(whole[:-40])
    else:
        path.with_name(f"{path.name}.sha256").unlink()
    found = np.array(encode(Encoder()))
    assert "is not as its checksum says; making it anew" in capsys.readouterr().err
    np.testing.assert_array_equal(found, WANTED)
    assert path.read_bytes() == whole


def test_values_that_are_not_numbers_are_named(folder):
    def broken(texts, progress):
        return np.array([[np.nan if text == "c" * 3 else 1.0] * 2 for text in texts])

    with pytest.raises(UserError, match=r"not numbers for 'ccc' \(1 of 10"):
        encode(broken)
    assert not list(folder.glob("*.npy"))


@pytest.mark.parametrize("kind", ["embedded", "given"])
def test_rows_sent_to_another_process_are_read_there(folder, tmp_path, kind):
    array = encode(Encoder())
    if kind == "given":  # by someone who has vectors
        (tmp_path / "v.float32").write_bytes(array.tobytes())
        array = np.memmap(tmp_path / "v.float32", "<f4", "r").reshape(array.shape)
    sent = pickle.dumps(Rows(array, np.array([4, 0, 4] * 20)))
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent)[1:3], [WANTED[0], WANTED[4]])
    assert len(pickle.loads(sent)) == 60


def vectors_of(texts, progress):
    return [np.array([len(text), 1], dtype=np.float32) for text in texts]


def test_a_full_disk_keeps_what_was_paid(home, monkeypatch):
    store, texts = TextVectors("k" * 64, 2), [f"{n} text" for n in range(35)]
    written = 0

    def fsync(number):
        nonlocal written
        written += 1
        if written > 4:  # two files a block
            os.truncate(number, os.fstat(number).st_size - 5)  # as much as there was room for
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(embedding_cache.os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            store.fill(texts, vectors_of, 10)
    again, sent = TextVectors("k" * 64, 2), []
    again.fill(texts, lambda some, bar: sent.extend(some) or vectors_of(some, bar), 10)
    assert sent == texts[20:]
    found = again.array()[again.rows(texts)]
    np.testing.assert_array_equal(found, np.stack(vectors_of(texts, None)))


def test_a_store_of_another_user_is_read(home, monkeypatch):
    """Or one on a disk that cannot be written, also where a kill has left a part of a row."""
    texts = [f"{n} text" for n in range(35)]
    store = TextVectors("k" * 64, 2)
    store.fill(texts, vectors_of, 10)
    with store.path.open("ab") as file:
        file.write(b"abc")
    before = {path: path.read_bytes() for path in store.path.parent.glob("*s")}

    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr(embedding_cache.os, "truncate", refuse)
    again = TextVectors("k" * 64, 2)
    again.add([], [])
    assert again.missing(texts) == []
    np.testing.assert_array_equal(again.array()[again.rows(["7 text"])], [[6, 1]])
    assert {path: path.read_bytes() for path in store.path.parent.glob("*s")} == before
