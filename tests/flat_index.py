"""A flat index in shards, as `open_index` leaves one, of vectors that a test has."""

import numpy as np

from disret.retrieve.index import Index, Shard, _write_shard


def make_index(folder, vectors, index_dtype="float32", documents=100):
    """Shards of `documents` vectors each, whose ids are d0, d1 and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, start in enumerate(range(0, len(vectors), documents)):
        part = vectors[start : start + documents]
        shards.append(Shard(f"shard-{number:05d}.faiss", len(part), 0))
        _write_shard(folder / shards[-1].file, part, index_dtype)
    (folder / "ids.txt").write_text("".join(f"d{row}\n" for row in range(len(vectors))))
    return Index(folder, vectors.shape[1], tuple(shards))


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def points(seed, count, dimension=32):
    """Unit vectors in random directions, float32."""
    random = np.random.default_rng(seed)
    return unit(random.standard_normal((count, dimension), dtype=np.float32))
