"""The FAISS index of a collection, in shards: built once, resumed, checked, and reused."""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret import distributed, paths
from disret.command_line import UserError, is_main_process, progress_bar, say
from disret.data.collection import Collection
from disret.devices import world_size
from disret.encode.models import prompt_of
from disret.encode.timings import Timings
from disret.files import (
    check_free_space,
    checksum,
    checksum_path,
    is_as_noted,
    lock,
    note_checksum,
    read_record,
    whole_file,
    whole_folder,
    write_json,
)
from disret.retrieve.ids import Ids, read_ids

if TYPE_CHECKING:
    from disret.encode.batches import BatchEncoder
    from disret.encode.encoders import Encoder

FORMAT = 2
SHARD_DOCUMENTS = 2048  # what a kill can cost, and what ranks share out
SHARD_BYTES = 8 << 20  # of the corpus file; long documents make shards of fewer
BLOCK = 1 << 16  # vectors read together
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Shard:
    """A piece of the index: its file, its documents, and where they begin in the corpus file."""

    file: str
    documents: int
    offset: int


@dataclass(frozen=True)
class Index:
    """An index that is whole.

    The folder holds `shard-00000.faiss` and so on, which plain `faiss.read_index` reads, each with
    its checksum beside it as `sha256sum` writes it; `ids.txt` with the document id of each row, one
    a line; and `manifest.json`, which says what the index was built from and lists the shards.
    """

    folder: Path
    dimension: int
    shards: tuple[Shard, ...]
    manifest_sha256: str = ""

    def check_unchanged(self) -> None:
        """Raise `UserError` if another run has replaced the index since it was opened."""
        if _sha256(self.folder / "manifest.json") != self.manifest_sha256:
            raise UserError(f"{self.folder} was replaced by another run meanwhile; run again.")

    @property
    def documents(self) -> int:
        """The number of vectors."""
        return sum(shard.documents for shard in self.shards)

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of each shard, as it was noted when the shard was written."""
        noted = [checksum_path(self.folder / shard.file) for shard in self.shards]
        return [path.read_text().split()[0] for path in noted]

    def ids(self) -> Ids:
        """The document id of each row."""
        return read_ids(self.folder / "ids.txt", is_own=True)

    def blocks(self, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
        """Stream the vectors of some shards, in their order.

        Yields:
            float32 [up to BLOCK, dimension], to be used before the next is asked for.
        """
        import faiss

        buffer = np.empty((BLOCK, self.dimension), dtype=np.float32)
        filled = 0
        for shard in shards:
            if filled + shard.documents > BLOCK:
                yield buffer[:filled]
                filled = 0
            vectors = faiss.read_index(str(self.folder / shard.file), faiss.IO_FLAG_MMAP_IFC)
            into = buffer[filled : filled + shard.documents]
            vectors.reconstruct_n(0, shard.documents, into)
            filled += shard.documents
        if filled:
            yield buffer[:filled]

    def stored_blocks(self, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
        """Stream the vectors of some shards as they are on disk, each block an array of its own.

        Yields:
            float16 or float32 [up to BLOCK, dimension].
        """
        parts: list[np.ndarray] = []
        for shard in shards:
            if parts and sum(map(len, parts)) + shard.documents > BLOCK:
                yield np.concatenate(parts)
                parts = []
            parts.append(_stored(self.folder / shard.file))
        if parts:
            yield np.concatenate(parts)


def _stored(path: Path) -> np.ndarray:
    """The vectors of a shard, float16 or float32 [n, dimension]."""
    import faiss

    shard = faiss.read_index(str(path))
    dtype = np.dtype(np.float32 if isinstance(shard, faiss.IndexFlat) else np.float16)
    count = shard.ntotal * shard.d * dtype.itemsize
    return faiss.rev_swig_ptr(shard.codes.data(), count).view(dtype).reshape(-1, shard.d).copy()


def index_folder(collection: Collection, encoder_name: str, kind: str) -> Path:
    """Where the index lies: `benchmarks/faiss/DATASET/ENCODER.KIND`.

    A collection elsewhere than under `benchmarks/raw` adds a digest of its place, as another may
    have the same name.
    """
    slug = re.sub(r"[^\w.+-]+", "--", encoder_name.strip("/."))
    place = collection.folder.resolve()
    if not place.is_relative_to(paths.COLLECTIONS.resolve()):
        kind += f".{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    return paths.INDEXES / collection.name / f"{slug}.{kind}"


def open_index(
    collection: Collection,
    teacher: "Encoder",
    score_function: str,
    index_dtype: str,
    before_encoding: Callable[[Ids], None] = lambda ids: None,
) -> Index:
    """Return the index of a collection's documents, building what is not there or not sound.

    A shard appears only when it is whole, so that building resumes after a kill at the first that
    is missing. Under `torchrun` the ranks share out the shards; all call this.

    Args:
        teacher: a model, which embeds the documents.
        score_function: `dot`, or `cos_sim` for vectors of length 1.
        index_dtype: `float16` or `float32`, the precision of the vectors on disk.
        before_encoding: called, on rank 0, with the document ids as soon as they are known.

    Returns:
        The index; its rows are in the order of the corpus.
    """
    kind = f"flat.{score_function}.{teacher.dtype}-{index_dtype}"
    folder = index_folder(collection, teacher.name, kind).resolve()  # a link is followed
    encoder = teacher.batches

    def prepare() -> tuple[Index, list[Shard]]:
        model = encoder.model
        dimension = model.get_embedding_dimension()
        source = {
            "format": FORMAT,
            "dataset": collection.name,
            "corpus_sha256": collection.fingerprint(),
            "encoder": teacher.name,
            "encoder_sha256": teacher.fingerprint,
            "max_seq_length": model.max_seq_length,
            "prompt": prompt_of(model, "document"),
            "dtype": teacher.dtype,
            "dimension": dimension,
            "score_function": score_function,
            "index_dtype": index_dtype,
            "extension": "flat",
        }
        index = _plan(folder, source, collection, encoder.timings)
        before_encoding(index.ids())
        missing = _missing(index)
        bytes_each = dimension * (2 if index_dtype == "float16" else 4)
        needed = sum(shard.documents for shard in missing) * bytes_each
        check_free_space(folder, needed, f"the index of {collection.name}")
        return index, missing

    with contextlib.ExitStack() as stack:
        if is_main_process():
            stack.enter_context(lock(folder))
        index, missing = distributed.decided_by_first(prepare)
        if missing:
            _build(index, missing, collection, encoder, score_function, index_dtype)
        distributed.wait_for_all()
    return index


def _plan(folder: Path, source: dict[str, Any], collection: Collection, timings: Timings) -> Index:
    """Read the manifest of an index, or make it from the corpus if there is none that matches."""
    found = read_record(folder / "manifest.json", {}) or {}
    # The name is for the reader; the weights decide.
    differing = [key for key in source if key != "encoder" and found.get(key) != source[key]]
    shards = [] if differing else shards_of(found.get("shards"))
    if not shards:
        if found:
            what = ", ".join(differing) or "list of shards"
            say(f"{folder}: built from another {what}; building it anew.")
        with whole_folder(folder) as partial:  # an index that stands there goes last
            found = _scan(partial, source, collection, timings)
    elif found.get("ids_sha256") != _sha256(folder / "ids.txt"):
        say(f"{folder}: the document ids are damaged; reading the corpus again.")
        found = _scan(folder, source, collection, timings)
    return Index(
        folder,
        source["dimension"],
        tuple(shards_of(found["shards"])),
        _sha256(folder / "manifest.json"),
    )


def shards_of(listed: Any) -> list[Shard]:
    """The shards that a manifest lists; none if it lists something else. Files are named here."""
    try:
        found = [
            Shard(_file_name(number), shard["documents"], shard["offset"])
            for number, shard in enumerate(listed)
        ]
    except (TypeError, KeyError):
        return []
    counts = [value for shard in found for value in (shard.documents, shard.offset)]
    return found if all(type(value) is int and value >= 0 for value in counts) else []


def _file_name(number: int) -> str:
    return f"shard-{number:05d}.faiss"


def _scan(
    folder: Path, source: dict[str, Any], collection: Collection, timings: Timings
) -> dict[str, Any]:
    """Read and check the whole corpus; write its ids and, last, the manifest."""
    shards: list[Shard] = []
    count, first = 0, 0  # of the shard that is being filled
    empty = 0
    bar = progress_bar(desc=f"read {collection.name}", unit="doc", delay=2)

    def close() -> None:
        shards.append(Shard(_file_name(len(shards)), count, first))

    with (
        timings.measure("check corpus") as stage,
        bar,
        whole_file(folder / "ids.txt") as partial,
        partial.open("w", encoding="utf-8", newline="\n") as ids,
    ):
        for document in collection.documents():
            is_long = document.offset - first > SHARD_BYTES
            if count == SHARD_DOCUMENTS or (count and is_long):
                close()
                count = 0
            if not count:
                first = document.offset
            count += 1
            empty += not document.text
            stage.items += 1
            ids.write(f"{document.id}\n")
            bar.update()
    if not count:
        raise UserError(f"{collection.folder / 'corpus.jsonl'} has no documents.")
    if empty:
        say(f"{collection.name}: {empty} documents are empty.")
    close()
    manifest = {
        **source,
        "documents": sum(shard.documents for shard in shards),
        "ids_sha256": _sha256(folder / "ids.txt"),
        "shards": [asdict(shard) for shard in shards],
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _missing(index: Index) -> list[Shard]:
    """The shards that are not there, or not as they were written."""
    missing, damaged = [], 0
    for shard in progress_bar(index.shards, desc="check the index", unit="shard", delay=2):
        path = index.folder / shard.file
        if not is_as_noted(path):
            missing.append(shard)
            damaged += path.exists() and checksum_path(path).exists()
    if damaged:
        say(f"{index.folder}: {damaged} of {len(index.shards)} shards damaged; building them anew.")
    elif 0 < len(missing) < len(index.shards):
        done = len(index.shards) - len(missing)
        say(f"{index.folder}: {done} of {len(index.shards)} shards are there; going on.")
    return missing


def _build(
    index: Index,
    missing: Sequence[Shard],
    collection: Collection,
    encoder: "BatchEncoder",
    score_function: str,
    index_dtype: str,
) -> None:
    """Encode and write this rank's share of the missing shards."""
    from disret.encode.batches import check_finite, normalised

    mine = missing[distributed.rank() :: world_size()]
    share = sum(shard.documents for shard in mine)
    done = index.documents - sum(shard.documents for shard in missing)
    of_all = f", 1 of {world_size()} processes" if world_size() > 1 else ""
    if is_main_process():
        for shard in missing:
            checksum_path(index.folder / shard.file).unlink(missing_ok=True)
        for left_by_a_kill in index.folder.glob(".*.partial"):
            left_by_a_kill.unlink()
    distributed.wait_for_all()  # so that a checksum found from now on is of a shard of this run

    def read(shard: Shard) -> tuple[list[str], Any]:
        with encoder.timings.measure("read", shard.documents):
            documents = itertools.islice(collection.documents(shard.offset), shard.documents)
            texts = [document.text for document in documents]
        return texts, encoder.tokenise(texts, "document")

    def write(path: Path, vectors: np.ndarray) -> None:
        with encoder.timings.measure("write", len(vectors)):
            _write_shard(path, vectors, index_dtype)

    with (
        ThreadPoolExecutor(1) as ahead,
        ThreadPoolExecutor(1) as behind,
        progress_bar(
            total=done + share, initial=done, desc=f"index {collection.name}{of_all}", unit="doc"
        ) as bar,
    ):
        upcoming = ahead.submit(read, mine[0]) if mine else None
        written: Future[None] | None = None  # the disk is not waited for between two shards
        for number, shard in enumerate(mine, start=1):
            texts, tokens = upcoming.result()
            upcoming = ahead.submit(read, mine[number]) if number < len(mine) else None
            vectors = encoder.encode(tokens, "document", bar.update)
            check_finite(vectors, texts)
            if score_function == "cos_sim":
                vectors = normalised(vectors)
            if written:
                written.result()
            written = behind.submit(write, index.folder / shard.file, vectors)
        if written:
            written.result()
        distributed.wait_for_all()


def _write_shard(path: Path, vectors: np.ndarray, index_dtype: str) -> None:
    """Write a FAISS index of vectors, float32 [n, dimension], then its checksum."""
    import faiss

    dimension = vectors.shape[1]
    shard = faiss.IndexFlatIP(dimension)
    if index_dtype == "float16":
        if np.abs(vectors).max() > FLOAT16_MAX:
            raise UserError("the embeddings are too large for an index in float16; use float32.")
        kind = faiss.ScalarQuantizer.QT_fp16
        shard = faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    shard.add(vectors)
    content = faiss.serialize_index(shard)
    with whole_file(path) as partial:
        partial.write_bytes(content)
    note_checksum(path, hashlib.sha256(content).hexdigest())


def _sha256(path: Path) -> str:
    return checksum(path) if path.exists() else "absent"
