"""Texts with embeddings that somebody has already, to distil from; and which to validate on."""

import itertools
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from disret import paths
from disret.command_line import UserError, progress_bar, say, shortened
from disret.data.query_files import is_unicode
from disret.data.vector_sources import Row, Source, open_source, version
from disret.files import (
    check_free_space,
    checksum_path,
    is_as_noted,
    lock,
    note_checksum,
    text_sha256,
    whole_file,
)

BLOCK = 4096  # rows checked and written together


@dataclass(frozen=True)
class Vectors:
    """Texts and their embeddings, float32 [n, dimension], memory-mapped; SHA-256 of both."""

    texts: list[str]
    embeddings: np.ndarray
    sha256: str

    @cached_property
    def _places(self) -> dict[str, int]:
        """Rows of texts, and of texts without the spaces around them, as query files have them."""
        places = {text: row for row, text in enumerate(self.texts)}
        for row, text in enumerate(self.texts):
            places.setdefault(text.strip(), row)
        return places

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The rows of some texts, int64 [n_texts].

        Raises:
            UserError: one has no vector.
        """
        absent = [text for text in texts if text not in self._places]
        if absent:
            others = f", and of {len(absent) - 1:,} others" if absent[1:] else ""
            raise UserError(f"there is no vector of {shortened(absent[0])!r}{others}.")
        return np.array([self._places[text] for text in texts], dtype=np.int64)


def read_vectors(sources: Sequence[str], limit: int | None = None) -> Vectors:
    """Read texts with embeddings, once: a later call with the same sources reads a copy of them.

    The copy lies under `downloads/embeddings`. Another is made when a file has another size or
    time, or a data set of the hub another revision.

    Args:
        sources: names. A name says the format: `.parquet`; `.jsonl` or `.jsonl.gz` (objects);
            `.npz` (arrays `texts` and `embeddings`); or `hub:NAME[/CONFIG][:SPLIT]`, a data set of
            the hub: what follows a second slash is the config, and the split is `train` unless
            it is given. The text is in the column `text`, `query` or `sentence`, or in the only
            one of texts; the vector in `embedding`, `vector`, `emb` or `embeddings`, or in the
            only one of lists of floats.
        limit: stop after so many texts.

    Returns:
        Each text once, in order and as it is written there, spaces included.

    Raises:
        UserError: a source cannot be read or has no rows or no such columns; or a row has no
            text, a vector of another dimension or with values that are not finite, or a text
            that had another vector before (the message names the rows).
    """
    versions = [version(name) for name in sources]
    key = text_sha256(itertools.chain(sources, versions), f"vectors {limit} ")
    path = paths.DOWNLOADS / "embeddings" / f"{key[:32]}.npy"
    texts_path = path.with_suffix(".jsonl")
    with lock(path):
        missing = [file for file in (path, texts_path) if not is_as_noted(file)]
        for file in missing:
            if file.exists():
                say(f"{file} is not as its checksum says; making it anew.")
                file.unlink()
        if missing:
            opened = [open_source(*named) for named in zip(sources, versions, strict=True)]
            _copy(opened, limit, path, texts_path)
        with texts_path.open("rb") as lines:
            texts = [json.loads(line) for line in lines]
        noted = [checksum_path(file).read_text().split()[0] for file in (path, texts_path)]
        return Vectors(texts, np.load(path, mmap_mode="r"), text_sha256(noted))


def is_normalised(embeddings: np.ndarray) -> bool:
    """Whether up to 1,000 rows, evenly spread, all have length 1 within 0.001."""
    rows = np.linspace(0, len(embeddings) - 1, min(len(embeddings), 1000)).astype(int)
    lengths = np.linalg.norm(embeddings[rows], axis=1)
    return bool((np.abs(lengths - 1) <= 1e-3).all())


def split(vectors: Vectors, share: float = 0.02, most: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and row numbers to validate on, ascending, one of each at least.

    A text goes there by its SHA-256, so that the order of the rows does not matter.

    Args:
        share: of the texts, to validate on; about, as chance has it.
        most: texts to validate on.

    Raises:
        UserError: there are fewer than two texts.
    """
    count = len(vectors.texts)
    if count < 2:
        raise UserError("one text is too few to train and to validate on; give two at least.")
    digests = b"".join(sha256(text.encode()).digest()[:8] for text in vectors.texts)
    drawn = np.frombuffer(digests, "<u8")
    chosen = max(1, min(int((drawn / 2.0**64 < share).sum()), most, count - 1))
    order = np.argsort(drawn)
    return np.sort(order[chosen:]), np.sort(order[:chosen])


def _copy(sources: list[Source], limit: int | None, path: Path, texts_path: Path) -> None:
    with (
        whole_file(path) as partial,
        whole_file(texts_path) as partial_texts,
        partial.open("w+b") as vectors_file,
        partial_texts.open("wb") as texts_file,
        progress_bar(desc="embeddings", unit="text") as bar,
    ):
        copy = _Copy(vectors_file, texts_file, sum(source.count for source in sources), limit)
        for source in sources:
            copy.begin(source)
            is_empty = copy.room() > 0
            while block := list(itertools.islice(source.rows, copy.room())):
                copy.add(block)
                bar.update(len(block))
                is_empty = False
            if is_empty:
                raise UserError(f"{source.name} holds no rows.")
        copy.finish()
    for file in (path, texts_path):
        note_checksum(file)
    if copy.repeated:
        say(f"left out {copy.repeated} rows that repeat a text and its vector.")


class _Copy:
    """Texts and vectors on their way to the disk, each text once; vectors are not held."""

    def __init__(
        self, vectors: BinaryIO, texts: BinaryIO, expected: int, limit: int | None
    ) -> None:
        self._vectors, self._texts = vectors, texts
        self._expected = expected if limit is None else min(expected, limit)
        self._limit = limit
        self._index: dict[str, int] = {}  # of each text, its row here
        self._numbers = array("q")  # of each text, its row in its source
        self._sources: list[Source] = []
        self._begins: list[int] = []  # of each source, its first row here
        self._dimension = 0
        self._start = 0  # of the vectors, after the header
        self.repeated = 0

    def room(self) -> int:
        """How many rows the next block may have."""
        return BLOCK if self._limit is None else min(BLOCK, self._limit - len(self._index))

    def begin(self, source: Source) -> None:
        self._sources.append(source)
        self._begins.append(len(self._index))

    def add(self, block: list[Row]) -> None:
        """Check rows, write those whose text is new, and compare the others."""
        place = self._sources[-1].place
        fresh, repeats = [], []
        for position, (number, text, vector) in enumerate(block):
            if not is_unicode(text) or not text.strip():
                raise UserError(f"{place(number)}: the text is empty or no Unicode text.")
            if not len(vector):
                raise UserError(f"{place(number)}: there is no vector.")
            if not self._dimension:
                self._begin_vectors(len(vector))
            if len(vector) != self._dimension:
                numbers = f"{len(vector)} numbers, the first has {self._dimension}"
                raise UserError(f"{place(number)}: the vector has {numbers}.")
            new = len(self._numbers)
            if (row := self._index.setdefault(text, new)) == new:
                self._numbers.append(number)
                fresh.append(position)
            else:
                repeats.append((position, row))
        vectors = np.stack([vector for _, _, vector in block])
        if (wrong := ~np.isfinite(vectors).all(axis=1)).any():
            number = block[wrong.argmax()][0]
            raise UserError(f"{place(number)}: the vector has values that are not finite.")
        self._vectors.write(vectors[fresh].tobytes())
        for position in fresh:
            line = json.dumps(block[position][1], ensure_ascii=False)
            self._texts.write(line.encode() + b"\n")
        if repeats:
            self._compare(block, vectors, repeats)

    def _begin_vectors(self, dimension: int) -> None:
        folder = paths.DOWNLOADS / "embeddings"
        check_free_space(folder, self._expected * dimension * 4, "a copy of the embeddings")
        self._dimension = dimension
        self._write_header(0)
        self._start = self._vectors.tell()

    def _write_header(self, count: int) -> None:
        """NumPy pads it, so that it has the same length for any number of rows."""
        shape = (count, self._dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._vectors, header)

    def _compare(
        self, block: list[Row], vectors: np.ndarray, repeats: list[tuple[int, int]]
    ) -> None:
        """Compare vectors with those in the file: positions in the block with rows there."""
        self._vectors.flush()
        size, file = self._dimension * 4, self._vectors.fileno()
        content = b"".join(os.pread(file, size, self._start + row * size) for _, row in repeats)
        earlier = np.frombuffer(content, "<f4").reshape(-1, self._dimension)
        later = vectors[[position for position, _ in repeats]]
        same = np.isclose(later, earlier, rtol=1e-3, atol=1e-4).all(axis=1)
        if not same.all():
            position, row = repeats[same.argmin()]
            number, text, _ = block[position]
            source = self._sources[bisect_right(self._begins, row) - 1]
            raise UserError(
                f"{source.place(self._numbers[row])} and {self._sources[-1].place(number)} have "
                f"different vectors of the same text: {shortened(text)!r}."
            )
        self.repeated += len(repeats)

    def finish(self) -> None:
        self._vectors.seek(0)
        self._write_header(len(self._numbers))
        if self._vectors.tell() != self._start:
            raise RuntimeError("the header of the .npy file has grown into its vectors")
