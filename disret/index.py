"""The FAISS index of a collection: built once, checked against its manifest, reused."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disret import paths
from disret.collection import Collection
from disret.files import check_free_space, read_json, whole_folder, write_json
from disret.terminal import UserError, say
from disret.vectors import encode_to_file

if TYPE_CHECKING:
    import faiss
    from sentence_transformers import SentenceTransformer

FORMAT = 1
GPU_MAX_K = 2048  # faiss's limit of a search on the GPU


def index_folder(collection: Collection, encoder_name: str, extension: str, score: str) -> Path:
    """Where the index lies: `benchmarks/faiss/DATASET/ENCODER.EXTENSION.SCORE`."""
    slug = re.sub(r"[^\w.+-]+", "--", encoder_name.strip("/."))
    return paths.INDEXES / collection.name / f"{slug}.{extension}.{score}"


def open_index(
    collection: Collection,
    document_ids: Sequence[str],
    encoder: "SentenceTransformer",
    encoder_name: str,
    encoder_sha256: str,
    score_function: str,
    batch_size: int,
    extension: str = "flat",
) -> "faiss.Index":
    """Return the index of a collection's documents, building it unless a matching one is there.

    The folder holds `index.faiss`, which plain `faiss.read_index` reads, `ids.txt` with the
    document id of each row, one a line, and `manifest.json`, which says what the index was built
    from. An index whose manifest does not match is built anew. Building resumes after a kill.

    Args:
        document_ids: those of the corpus, in order (`Collection.document_ids`).
        encoder: its `encode_document` gives the vectors, at its own maximum sequence length.
        encoder_sha256: its fingerprint.
        score_function: `dot`, or `cos_sim` for vectors of length 1.

    Returns:
        The inner-product index; its rows are in the order of the corpus.
    """
    from filelock import FileLock

    folder = index_folder(collection, encoder_name, extension, score_function)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        manifest = {
            "format": FORMAT,
            "dataset": collection.name,
            "corpus_sha256": collection.fingerprint(),
            "encoder": encoder_name,
            "encoder_sha256": encoder_sha256,
            "max_seq_length": encoder.max_seq_length,
            "prompt": encoder.prompts.get("document"),
            "dtype": str(encoder.dtype).removeprefix("torch."),
            "dimension": encoder.get_embedding_dimension(),
            "score_function": score_function,
            "extension": extension,
        }
        index = _read(folder, manifest)
        if index is None:
            _build(folder, manifest, collection, document_ids, encoder, batch_size)
            index = _read(folder, manifest)
        if index is None:
            raise UserError(f"the index in {folder} cannot be read back; delete it and try again.")
    return index


def on_device(index: "faiss.Index", device: str, k: int) -> "faiss.Index":
    """The index where its search is fastest: on the encoder's GPU if faiss has GPUs and it fits."""
    import faiss

    kind, _, number = device.partition(":")
    if kind != "cuda" or not hasattr(faiss, "StandardGpuResources") or k > GPU_MAX_K:
        return index
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(number or 0), index)
    except RuntimeError:
        say("the index does not fit on the GPU; searching on the CPU.")
        return index


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a zero row stays zero. float32 [n, dimension]."""
    import faiss

    vectors = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(vectors)
    return vectors


def _read(folder: Path, manifest: dict[str, Any]) -> "faiss.Index | None":
    """The index in `folder` if it was built from what `manifest` says."""
    import faiss

    found = read_json(folder / "manifest.json")
    if found is None:
        return None
    # The name is for the reader; the weights decide.
    differing = [key for key in manifest if key != "encoder" and found.get(key) != manifest[key]]
    if differing:
        say(f"{folder}: built from another {', '.join(differing)}; building it anew.")
        return None
    try:
        index = faiss.read_index(str(folder / "index.faiss"))
        with (folder / "ids.txt").open(encoding="utf-8") as file:
            rows = sum(1 for _ in file)
    except (RuntimeError, OSError):
        say(f"{folder}: the index cannot be read; building it anew.")
        return None
    if not index.ntotal == rows == found["documents"]:
        say(f"{folder}: index and document ids do not belong together; building it anew.")
        return None
    return index


def _build(
    folder: Path,
    manifest: dict[str, Any],
    collection: Collection,
    ids: Sequence[str],
    encoder: "SentenceTransformer",
    batch_size: int,
) -> None:
    import faiss

    dimension = manifest["dimension"]
    vector_bytes = len(ids) * dimension * 4
    check_free_space(folder, 2 * vector_bytes, f"the index of {collection.name}")
    vectors_path = folder.with_name(f".{folder.name}.npy")
    # Left by a kill between encoding and indexing, possibly of another encoder.
    vectors_path.unlink(missing_ok=True)
    vectors = encode_to_file(
        vectors_path,
        _key(manifest),
        lambda texts: encoder.encode_document(
            texts, batch_size=batch_size, show_progress_bar=False
        ),
        collection.texts(),
        len(ids),
        dimension,
        batch_size,
        f"index {collection.name}",
    )
    prepare: Callable = normalised if manifest["score_function"] == "cos_sim" else np.asarray
    index = faiss.IndexFlatIP(dimension)
    for start in range(0, len(ids), 1 << 16):
        index.add(np.ascontiguousarray(prepare(vectors[start : start + (1 << 16)])))
    with whole_folder(folder) as partial:
        faiss.write_index(index, str(partial / "index.faiss"))
        (partial / "ids.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
        write_json(partial / "manifest.json", {**manifest, "documents": len(ids)})
    vectors_path.unlink()


def _key(manifest: dict[str, Any]) -> str:
    settings = {k: v for k, v in manifest.items() if k != "encoder"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
