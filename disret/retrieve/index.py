"""The FAISS index of a collection, in shards: built once, resumed, checked, and reused."""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from disret import distributed, paths
from disret.command_line import UserError, is_main_process, progress_bar, say
from disret.data.collection import Collection
from disret.devices import world_size
from disret.encode.batches import BatchEncoder, check_finite, normalised, one_ahead
from disret.encode.encoders import Encoder
from disret.encode.models import prompt_of
from disret.encode.timings import Timings
from disret.files import (
    check_free_space,
    checksum,
    checksum_path,
    file_name,
    is_as_noted,
    lock,
    note_checksum,
    read_record,
    whole_file,
    whole_folder,
    write_json,
)
from disret.retrieve.ids import Ids, own_ids

FORMAT = 2
SHARD_DOCUMENTS = 2048  # what a kill can cost, and what ranks share out
SHARD_BYTES = 8 << 20  # of the corpus file; long documents make shards of fewer
BLOCK = 1 << 16  # vectors read together


class Shard(NamedTuple):
    """A piece of the index: its file, its documents, and where they begin in the corpus file."""

    file: str
    documents: int
    offset: int


def documents_in(shards: Iterable[Shard]) -> int:
    return sum(shard.documents for shard in shards)


class Index(NamedTuple):
    """An index that is whole.

    The folder holds `shard-00000.faiss` and so on, which plain `faiss.read_index` reads, each with
    its checksum beside it as `sha256sum` writes it; `ids.txt` with the document id of each row, one
    a line; and `manifest.json`, which says what the index was built from and lists the shards.
    """

    folder: Path
    dimension: int
    shards: tuple[Shard, ...]
    fingerprint: str = ""  # SHA-256 of the manifest
    description: str = ""

    def check_unchanged(self) -> None:
        """Raise `UserError` if another run has replaced the index since it was opened."""
        if checksum(self.folder / "manifest.json") != self.fingerprint:
            raise UserError(f"{self.folder} was replaced by another run meanwhile; run again.")

    @property
    def documents(self) -> int:
        """The number of vectors."""
        return documents_in(self.shards)

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of each shard, as it was noted when the shard was written."""
        noted = [checksum_path(self.folder / shard.file) for shard in self.shards]
        return [path.read_text().split()[0] for path in noted]

    def ids(self) -> Ids:
        """The document id of each row."""
        return own_ids(self.folder / "ids.txt")

    def blocks(self, shards: Sequence[Shard]) -> Iterator[np.ndarray]:
        """Stream the vectors of some shards as they are on disk, in their order.

        Yields:
            float16 or float32 [up to BLOCK, dimension].
        """
        import faiss

        def vectors(mapped: faiss.Index) -> np.ndarray:
            dtype = np.float32 if isinstance(mapped, faiss.IndexFlat) else np.float16
            codes = faiss.rev_swig_ptr(mapped.codes.data(), mapped.ntotal * mapped.code_size)
            return codes.view(dtype).reshape(-1, self.dimension)

        held: list[faiss.Index] = []
        for shard in shards:
            if held and sum(each.ntotal for each in held) + shard.documents > BLOCK:
                yield np.concatenate([vectors(each) for each in held])
                held = []
            held.append(faiss.read_index(str(self.folder / shard.file), faiss.IO_FLAG_MMAP_IFC))
        if held:
            yield np.concatenate([vectors(each) for each in held])


def open_index(
    collection: Collection,
    teacher: Encoder,
    score_function: str,
    index_dtype: str,
    before_encoding: Callable[[Ids], None] = lambda ids: None,
) -> Index:
    """Return the index of a collection's documents, building what is not there or not sound.

    A shard appears only when it is whole, so that building resumes after a kill at the first that
    is missing. Under `torchrun` the ranks share out the shards; all call this.

    It lies in `benchmarks/faiss/DATASET/ENCODER.KIND`. A collection elsewhere than under
    `benchmarks/raw` adds a digest of its place, as another may have the same name.

    Args:
        teacher: a model, which embeds the documents.
        score_function: `dot`, or `cos_sim` for vectors of length 1.
        index_dtype: `float16` or `float32`, the precision of the vectors on disk.
        before_encoding: called, on rank 0, with the document ids as soon as they are known.

    Returns:
        The index; its rows are in the order of the corpus.
    """
    kind = f"flat.{score_function}.{teacher.dtype}-{index_dtype}"
    place = collection.folder.resolve()
    if not place.is_relative_to(paths.COLLECTIONS.resolve()):
        kind += f".{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
    folder = paths.INDEXES / collection.name / f"{file_name(teacher.name)}.{kind}"
    folder = folder.resolve()  # a link is followed
    encoder = teacher.batches
    says_cosine = getattr(encoder.model, "_similarity_fn_name", None) == "cosine"
    if score_function == "dot" and says_cosine and not teacher.normalises:
        say(f"note: {teacher.name} is made for cosines, and its vectors have not length 1; the dot "
            "product ranks otherwise.")  # fmt: skip

    def prepare() -> tuple[Index, list[Shard]]:
        dimension = encoder.model.get_embedding_dimension()
        source = {
            "format": FORMAT,
            "dataset": collection.name,
            "corpus_sha256": collection.fingerprint(),
            "encoder": teacher.name,
            "encoder_sha256": teacher.fingerprint,
            "max_seq_length": encoder.model.max_seq_length,
            "prompt": prompt_of(encoder.model, "document"),
            "dtype": teacher.dtype,
            "dimension": dimension,
            "score_function": score_function,
            "index_dtype": index_dtype,
            "extension": "flat",
        }
        shards = _shards_from(folder, source, collection, encoder.timings)
        digest = checksum(folder / "manifest.json")
        index = Index(folder, dimension, tuple(shards), digest)
        before_encoding(index.ids())
        missing = _missing(folder, shards)
        if 0 < len(missing) < len(shards):
            sound = len(shards) - len(missing)
            say(f"{folder}: {sound} of {len(shards)} shards are there and sound; going on.")
        bytes_each = dimension * np.dtype(index_dtype).itemsize
        needed = documents_in(missing) * bytes_each
        check_free_space(folder, needed, f"the index of {collection.name}")
        return index, missing

    version = collection.version()
    with contextlib.ExitStack() as stack:
        if is_main_process():
            stack.enter_context(lock(folder))
        index, missing = distributed.decided_by_first(prepare)
        is_same = partial(_check_same_corpus, index, collection, version)
        try:
            if missing:
                _build(index, missing, collection, encoder, score_function, index_dtype)
            distributed.wait_for_all()
        except Exception:  # for which that is the reason, if it is so
            is_same()
            raise
        distributed.decided_by_first(is_same)
    return index


def open_built(
    folder: Path, score_function: str | None = None, made_by: str | None = None
) -> Index:
    """The index in a folder of `open_index`, whatever it was built from.

    Args:
        made_by: fingerprint of what its documents must have been embedded by, if that is known.

    Raises:
        UserError: it is not whole, or of another encoder, or cosines are asked for and it was
            built for `dot`.
    """
    path, ids = folder / "manifest.json", folder / "ids.txt"
    kinds = {"dimension": int, "score_function": str, "ids_sha256": str, "shards": list,
             "encoder": str, "encoder_sha256": str}  # fmt: skip
    found = read_record(path, {"format": int, **kinds})
    shards = shards_of(found["shards"]) if found and found["format"] == FORMAT else []
    is_whole = shards and ids.exists() and checksum(ids) == found["ids_sha256"]
    if not is_whole or _missing(folder, shards):
        raise UserError(f"{folder} holds no whole index of format {FORMAT}; build it again.")
    if made_by not in (None, found["encoder_sha256"]):
        raise UserError(f"{folder} was made by {found['encoder']}, and not by the encoder of the "
                        "documents that is named here.")  # fmt: skip
    if score_function == "cos_sim" != found["score_function"]:
        raise UserError(f"{folder} was built for the dot product; build one for cosines.")
    name = "cosine" if found["score_function"] == "cos_sim" else "inner product"
    description = f"{len(shards)} shards, {name}"
    return Index(folder, found["dimension"], tuple(shards), checksum(path), description)


def _check_same_corpus(index: Index, collection: Collection, version: tuple[int, ...]) -> None:
    """Give up an index, with `UserError`, if its corpus was written while it was read."""
    if collection.version() != version:
        (index.folder / "manifest.json").unlink(missing_ok=True)
        raise UserError(f"{collection.folder / 'corpus.jsonl'} was changed while it was indexed; "
                        "run again.")  # fmt: skip


def _missing(folder: Path, shards: Sequence[Shard]) -> list[Shard]:
    """The shards that are not there or not as they were written."""
    checked = progress_bar(shards, desc="check the index", unit="shard", delay=2)
    return [shard for shard in checked if not is_as_noted(folder / shard.file)]


def _shards_from(
    folder: Path, source: Mapping[str, Any], collection: Collection, timings: Timings
) -> list[Shard]:
    """The shards that the manifest lists; it is made from the corpus unless it is of `source`."""
    found = read_record(folder / "manifest.json", {"shards": list}) or {}
    # The name is for the reader; the weights decide.
    differing = [key for key in source if key != "encoder" and found.get(key) != source[key]]
    ids = folder / "ids.txt"
    if differing:
        if found:
            say(f"{folder}: built from another {', '.join(differing)}; building it anew.")
        with whole_folder(folder) as partial:  # an index that stands there goes last
            found = _read_corpus(partial, source, collection, timings)
    elif not (ids.exists() and checksum(ids) == found["ids_sha256"]):
        say(f"{folder}: the document ids are damaged; reading the corpus again.")
        found = _read_corpus(folder, source, collection, timings)
    return shards_of(found["shards"])


def shards_of(listed: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """The shards that a manifest lists; their files are named here, whatever it calls them."""
    return [
        Shard(f"shard-{number:05d}.faiss", shard["documents"], shard["offset"])
        for number, shard in enumerate(listed)
    ]


def _read_corpus(
    folder: Path, source: Mapping[str, Any], collection: Collection, timings: Timings
) -> dict[str, Any]:
    """Read and check the whole corpus; write its ids and, last, the manifest."""
    shards: list[dict[str, Any]] = []
    empty = 0
    with (
        timings.measure("check corpus") as stage,
        progress_bar(desc=f"read {collection.name}", unit="doc", delay=2) as bar,
        whole_file(folder / "ids.txt") as partial,
        partial.open("w", encoding="utf-8", newline="\n") as ids,
    ):
        for document in collection.documents():
            if (
                not shards
                or shards[-1]["documents"] == SHARD_DOCUMENTS
                or document.offset - shards[-1]["offset"] > SHARD_BYTES
            ):
                file = f"shard-{len(shards):05d}.faiss"
                shards.append({"file": file, "documents": 0, "offset": document.offset})
            shards[-1]["documents"] += 1
            empty += not document.text
            stage.items += 1
            ids.write(f"{document.id}\n")
            bar.update()
    if not shards:
        raise UserError(f"{collection.folder / 'corpus.jsonl'} has no documents.")
    if empty:
        say(f"{collection.name}: {empty} documents are empty.")
    manifest = {
        **source,
        "documents": sum(shard["documents"] for shard in shards),
        "ids_sha256": checksum(folder / "ids.txt"),
        "shards": shards,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _build(
    index: Index,
    missing: Sequence[Shard],
    collection: Collection,
    encoder: BatchEncoder,
    score_function: str,
    index_dtype: str,
) -> None:
    """Encode and write this rank's share of the missing shards."""
    if is_main_process():
        for shard in missing:
            checksum_path(index.folder / shard.file).unlink(missing_ok=True)
        for left_by_a_kill in index.folder.glob(".*.partial"):
            left_by_a_kill.unlink()
    distributed.wait_for_all()  # so that a checksum found from now on is of a shard of this run

    mine = missing[distributed.rank() :: world_size()]
    # One stream, as what is gzipped would be unpacked from its start for each shard.
    stream = collection.documents(mine[0].offset if mine else 0)

    def read(shard: Shard) -> tuple[Path, list[str], Any]:
        with encoder.timings.measure("read", shard.documents):
            documents = itertools.dropwhile(lambda each: each.offset < shard.offset, stream)
            texts = [document.text for document in itertools.islice(documents, shard.documents)]
        return index.folder / shard.file, texts, encoder.tokenise(texts, "document")

    def write(path: Path, vectors: np.ndarray) -> None:
        with encoder.timings.measure("write", len(vectors)):
            _write_shard(path, vectors, index_dtype)

    done = index.documents - documents_in(missing)
    of_all = f", 1 of {world_size()} processes" if world_size() > 1 else ""
    title = f"index {collection.name}{of_all}"
    with (
        ThreadPoolExecutor(1) as behind,
        progress_bar(total=done + documents_in(mine), initial=done, desc=title, unit="doc") as bar,
    ):
        written: Future[None] | None = None  # the disk is not waited for between two shards
        for path, texts, tokens in one_ahead(map(read, mine)):
            vectors = encoder.encode(tokens, "document", bar.update)
            check_finite(vectors, texts)
            if score_function == "cos_sim":
                vectors = normalised(vectors)
            if written:
                written.result()
            written = behind.submit(write, path, vectors)
        if written:
            written.result()


def _write_shard(path: Path, vectors: np.ndarray, index_dtype: str) -> None:
    """Write a FAISS index of vectors, float32 [n, dimension], then its checksum."""
    import faiss

    dimension = vectors.shape[1]
    shard = faiss.IndexFlatIP(dimension)
    if index_dtype == "float16":
        largest, limits = np.abs(vectors).max(axis=1), np.finfo(np.float16)
        if largest.max() > limits.max or (largest[largest > 0] < limits.smallest_normal).any():
            raise UserError("the embeddings are too large, or too small, for an index in float16; "
                            "use float32.")  # fmt: skip
        kind = faiss.ScalarQuantizer.QT_fp16
        shard = faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)
    shard.add(vectors)
    content = faiss.serialize_index(shard)
    with whole_file(path) as partial:
        partial.write_bytes(content)
    note_checksum(path, hashlib.sha256(content).hexdigest())
