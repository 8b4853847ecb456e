"""Vectors of queries on disk, computed once for all runs: a kill costs the block in flight."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from disret import paths
from disret.command_line import progress_bar
from disret.encode.batches import check_finite
from disret.files import check_free_space, kept, read_record, write_json

T = TypeVar("T")  # tokenised texts
BLOCK = 4096  # texts encoded and written together


class Rows:
    """Some rows of an array on disk, in any order and repeated, which are read when asked for.

    Another process that is sent them opens the file itself.

    Args:
        array: float32 [n, dimension], memory-mapped.
        rows: int64 [m]; all of them, if None.
    """

    def __init__(self, array: np.memmap, rows: np.ndarray | None = None) -> None:
        self.array = array
        self.rows = np.arange(len(array)) if rows is None else rows

    def __reduce__(self) -> tuple:
        return _reopened, (self.array.filename, self.array.offset, self.array.shape, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, numbers: Any) -> np.ndarray:
        return self.array[self.rows[numbers]]


def _reopened(path: Path, offset: int, shape: tuple[int, int], rows: np.ndarray) -> Rows:
    return Rows(np.memmap(path, "<f4", "r", offset, shape), rows)


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
            ThreadPoolExecutor(1) as ahead,
        ):
            shape = {"descr": "<f4", "fortran_order": False, "shape": (len(texts), dimension)}
            np.lib.format.write_array_header_1_0(file, shape)
            file.seek(done * dimension * 4, os.SEEK_CUR)
            file.truncate()

            def fetch(start: int) -> tuple[list[str], T] | None:
                block = texts[start : start + block_size]
                return (block, tokenise(block)) if block else None

            upcoming = ahead.submit(fetch, done)
            while fetched := upcoming.result():
                block, tokens = fetched
                upcoming = ahead.submit(fetch, done + len(block))
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
