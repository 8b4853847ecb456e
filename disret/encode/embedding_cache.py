"""Vectors of queries on disk, computed once for all runs: a kill costs the block in flight."""

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from disret import paths
from disret.command_line import progress_bar
from disret.encode.batches import check_finite, normalised, one_ahead
from disret.files import check_free_space, kept, lock, read_record, write_json

T = TypeVar("T")  # tokenised texts
BLOCK = 4096  # texts encoded and written together


class Rows:
    """Some rows of an array on disk, in any order and repeated, which are read when asked for.

    Another process that is sent them opens the file itself.

    Args:
        array: float32 [n, dimension], memory-mapped.
        rows: int64 [m]; all of them, if None.
        mean: if given, float32 [dimension], rows are directions from it, of length 1.
    """

    def __init__(
        self, array: np.memmap, rows: np.ndarray | None = None, mean: np.ndarray | None = None
    ) -> None:
        self.array, self.mean = array, mean
        self.rows = np.arange(len(array)) if rows is None else rows

    def around(self, mean: np.ndarray | None) -> "Rows":
        """The same rows as directions from another mean; as they are, if None."""
        return Rows(self.array, self.rows, mean)

    def __reduce__(self) -> tuple:
        array = self.array
        return _reopened, (array.filename, array.offset, array.shape, self.rows, self.mean)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, numbers: Any) -> np.ndarray:
        rows = self.array[self.rows[numbers]]
        return rows if self.mean is None else normalised(rows - self.mean)


def _reopened(path: Path, offset: int, shape: tuple[int, int], *more: Any) -> Rows:
    return Rows(np.memmap(path, "<f4", "r", offset, shape), *more)


def embedded(
    key: str,
    tokenise: Callable[[list[str]], T],
    encode: Callable[..., np.ndarray],
    texts: Sequence[str],
    dimension: int,
    block_size: int = BLOCK,
) -> np.memmap:
    """Embed texts into a file under `downloads/embeddings`, which a later call reads.

    What a kill or a full disk has left unfinished is continued after its last whole block, with the
    same blocks and so the same vectors as an unbroken run.

    Args:
        key: SHA-256 of the texts and of all that decides their vectors, for the file's name.
        tokenise: what `encode` takes, of a list of texts; of the next block while one is encoded.
        encode: that to float32 [n, dimension]; calls its `progress` with the number of texts done.
        block_size: texts encoded and written together, at the end of which a kill costs nothing.

    Returns:
        float32 [n_texts, dimension], read-only.

    Raises:
        UserError: a vector has a value that is not a number, or infinity.
    """
    path = paths.DOWNLOADS / "embeddings" / f"{key[:32]}.npy"

    def make(whole: Path) -> None:
        check_free_space(path, len(texts) * dimension * 4, "the teacher's embeddings")
        unfinished = path.with_name(f".{path.name}.unfinished")
        noted = unfinished.with_suffix(".rows")  # how many of its rows are on the disk itself
        record = unfinished.exists() and read_record(noted, {"rows": int})
        done = record["rows"] if record else 0
        with (
            unfinished.open("r+b" if done else "w+b") as file,
            progress_bar(total=len(texts), initial=done, desc="teacher", unit="text") as bar,
        ):
            shape = {"descr": "<f4", "fortran_order": False, "shape": (len(texts), dimension)}
            np.lib.format.write_array_header_1_0(file, shape)
            file.seek(done * dimension * 4, os.SEEK_CUR)
            file.truncate()
            starts = range(done, len(texts), block_size)
            blocks = (texts[start : start + block_size] for start in starts)
            for block, tokens in one_ahead((block, tokenise(block)) for block in blocks):
                vectors = encode(tokens, progress=bar.update)
                check_finite(vectors, block)
                file.write(vectors.tobytes())
                file.flush()
                os.fsync(file.fileno())
                done += len(block)
                write_json(noted, {"rows": done})
        unfinished.replace(whole)
        noted.unlink()

    return np.load(kept(path, make), mmap_mode="r")


class TextVectors:
    """Vectors by text, in a file that grows, so that none is paid for twice.

    Beside the vectors, float32 [n, dimension], lie 20 bytes a row: half the SHA-256 of the text and
    the CRC-32 of the vector. A row counts once both are on the disk itself.

    Args:
        key: SHA-256 of all that decides the vectors, for the files' names; `others` are those of
            the same key with vectors of another dimension.
    """

    def __init__(self, key: str, dimension: int) -> None:
        self.path = paths.DOWNLOADS / "embeddings" / f"{key[:32]}.{dimension}.vectors"
        self.others = set(self.path.parent.glob(f"{key[:32]}.*.vectors")) - {self.path}
        self.dimension = dimension
        self._records, self._bytes = self.path.with_suffix(".texts"), 4 * dimension
        self._places: dict[bytes, int] = {}
        self._seen = -1  # bytes of records that are in it; `add` and `fill` look what there is

    def fill(
        self, texts: Sequence[str], embed: Callable[..., Sequence[Any]], block_size: int
    ) -> None:
        """Embed the texts that are not there; of several processes one does, and the others wait.

        Args:
            embed: texts to a vector each, or None; calls its second argument with how many are
                done. What its error, or an interruption, has as `paid` is kept.
            block_size: texts that are written together, at the end of which a kill costs nothing.
        """
        if not self.missing(texts):
            return
        with lock(self.path.with_suffix(".filling"), "embeds with the same service"):
            self.add([], [])  # learns what there is now
            missing = self.missing(texts)
            check_free_space(self.path, len(missing) * self._bytes, "the vectors")
            with progress_bar(total=len(missing), desc="teacher", unit="text") as bar:
                for start in range(0, len(missing), block_size):
                    block = missing[start : start + block_size]
                    try:
                        self.add(block, embed(block, bar.update))
                    except BaseException as error:
                        self.add(block, getattr(error, "paid", []))
                        raise

    def missing(self, texts: Iterable[str], marks: Iterable[str] = ("",)) -> list[str]:
        """Each of the texts that has no vector, once."""
        unique = list(dict.fromkeys(texts))
        return list(compress(unique, self.rows(unique, marks) == -1))

    def rows(self, texts: Iterable[str], marks: Iterable[str] = ("",)) -> np.ndarray:
        """Where the vectors of texts are, behind one of some marks, int64 [n_texts]; -1 if not."""

        def place(text: str) -> int:
            return self._places.get(sha256(text.encode()).digest()[:16], -1)

        return np.array([max(place(mark + text) for mark in marks) for text in texts], np.int64)

    def array(self) -> np.memmap:
        """All vectors, float32 [n, dimension], read-only."""
        return np.memmap(self.path, "<f4", "r", shape=(self._seen // 20, self.dimension))

    def add(self, texts: Sequence[str], vectors: Sequence[np.ndarray | None]) -> None:
        """Append texts that are not there, with float32 [dimension] each; None is left out."""
        with lock(self.path):
            self._read(grows=any(vector is not None for vector in vectors))
            rows, records, place = [], [], self._seen // 20
            for text, vector in zip(texts, vectors, strict=False):
                digest = sha256(text.encode()).digest()[:16]
                if vector is not None and digest not in self._places:
                    rows.append(np.asarray(vector, "<f4").tobytes())
                    records.append(digest + zlib.crc32(rows[-1]).to_bytes(4, "big"))
                    self._places[digest] = place + len(rows) - 1
            for path, parts in ((self.path, rows), (self._records, records)) if rows else ():
                with path.open("ab") as file:
                    file.write(b"".join(parts))
                    file.flush()
                    os.fsync(file.fileno())
                    self._seen = file.tell()

    def _read(self, grows: bool) -> None:
        """Learn what there is; what a kill left behind the last whole row goes before it grows."""
        files = {self.path: self._bytes, self._records: 20}
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        if sizes == [self._seen // 20 * self._bytes, self._seen]:
            return
        count = min(size // each for size, each in zip(sizes, files.values(), strict=True))
        for path, each in files.items() if grows else ():
            path.touch()
            os.truncate(path, count * each)
        self._places.clear()
        self._seen = 20 * count
        if not count:
            return
        with self.path.open("rb") as vectors, self._records.open("rb") as noted:
            for place in range(count):
                digest, crc = noted.read(16), noted.read(4)
                if zlib.crc32(vectors.read(self._bytes)).to_bytes(4, "big") == crc:
                    self._places[digest] = place
