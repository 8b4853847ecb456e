"""Texts and embeddings in each format that they are read from."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def some_vectors(count: int, dimension: int = 8, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts, all different, and float32 [count, dimension]."""
    embeddings = np.random.default_rng(seed).standard_normal((count, dimension), np.float32)
    return [f"what is ü {number}?" for number in range(count)], embeddings


def write_vectors(path: Path, texts: list, vectors: list | np.ndarray) -> str:
    """Write a file as its name says; gives the name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "embedding": list(vectors)}), path)
    elif path.suffix == ".npz":
        np.savez(path, texts=np.array(texts), embeddings=np.asarray(vectors))
    else:
        rows = zip(texts, (np.asarray(vector).tolist() for vector in vectors), strict=True)
        lines = (json.dumps({"text": text, "embedding": vector}) + "\n" for text, vector in rows)
        content = "".join(lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)
