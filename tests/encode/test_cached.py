"""Texts to vectors on disk: whole blocks, resumed to the same bytes."""

import numpy as np
import pytest

from disret import paths
from disret.command_line import UserError
from disret.encode.cached import encode_to_file, query_embeddings


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


def encode(path, encoder, key="k" * 16):
    return encode_to_file(path, key, list, encoder, iter(TEXTS), len(TEXTS), 2, "test", 10)


def test_rows_are_in_the_order_of_the_texts(tmp_path):
    result = encode(tmp_path / "v.npy", Encoder())
    np.testing.assert_array_equal(result, [[len(t), ord(t[0])] for t in TEXTS])
    assert isinstance(result, np.memmap)


def test_resumes_at_the_last_whole_block_to_the_same_bytes(tmp_path):
    encode(tmp_path / "unbroken.npy", Encoder())
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "v.npy", Encoder(fail_after=26))
    assert not (tmp_path / "v.npy").exists()
    second = Encoder()
    encode(tmp_path / "v.npy", second)
    assert second.texts == 15  # two blocks of ten were kept
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "unbroken.npy").read_bytes()
    third = Encoder()
    encode(tmp_path / "v.npy", third)
    assert third.texts == 0


def test_what_had_not_reached_the_disk_is_made_again(tmp_path):
    """After a power cut a file may end in zeros, which nothing has noted."""
    encode(tmp_path / "unbroken.npy", Encoder())
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "v.npy", Encoder(fail_after=16))
    (part,) = tmp_path.glob(".v.npy.*.partial")
    part.write_bytes(part.read_bytes() + bytes(20 * 8))
    second = Encoder()
    encode(tmp_path / "v.npy", second)
    assert second.texts == 25
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "unbroken.npy").read_bytes()
    assert {path.name for path in tmp_path.glob(".v*")} == set()


@pytest.mark.parametrize("damage", ["zeros", "short", "no checksum"])
def test_a_damaged_file_is_made_anew(tmp_path, capsys, damage):
    """A power cut may leave zeros, or less than was written."""
    path = tmp_path / "v.npy"
    encode(path, Encoder())
    whole = path.read_bytes()
    if damage == "zeros":
        path.write_bytes(whole[:200] + bytes(len(whole) - 200))
    elif damage == "short":
        path.write_bytes(whole[:-40])
    else:
        path.with_name("v.npy.sha256").unlink()
    found = np.array(encode(path, Encoder()))
    assert "is not as its checksum says; making it anew" in capsys.readouterr().err
    np.testing.assert_array_equal(found, [[len(t), ord(t[0])] for t in TEXTS])
    assert path.read_bytes() == whole


def test_a_part_of_other_content_is_discarded(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "v.npy", Encoder(fail_after=26), key="another")
    encoder = Encoder()
    encode(tmp_path / "v.npy", encoder)
    assert encoder.texts == len(TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "v.npy.sha256"}


def test_values_that_are_not_numbers_are_named(tmp_path):
    def broken(texts, progress):
        return np.array([[np.nan if text == "c" * 3 else 1.0] * 2 for text in texts])

    with pytest.raises(UserError, match=r"not numbers for 'ccc' \(1 of 10"):
        encode(tmp_path / "v.npy", broken)
    assert not (tmp_path / "v.npy").exists()


def test_query_embeddings_are_computed_once(teacher):
    from disret.encode.models import fingerprint, load_encoder

    encoder = load_encoder(str(teacher), "cpu")
    sha256 = fingerprint(encoder)
    queries = ["one", "two two", "three"]
    first = query_embeddings(encoder, sha256, "float32", queries, None)
    np.testing.assert_allclose(first, encoder.encode_query(queries), atol=1e-6)
    assert not np.allclose(first, encoder.encode(queries), atol=1e-3)  # the prompt counts
    (file,) = (paths.DOWNLOADS / "embeddings").glob("*.npy")
    written = file.stat().st_mtime_ns
    query_embeddings(encoder, sha256, "float32", queries, None)
    assert file.stat().st_mtime_ns == written
    encoder.max_seq_length = 4
    query_embeddings(encoder, sha256, "float32", queries, None)
    assert len(list((paths.DOWNLOADS / "embeddings").glob("*.npy"))) == 2
