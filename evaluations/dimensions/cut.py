#!/usr/bin/env python
"""Fewer dimensions by PCA of the documents: their indexes, encoders that end in it, and vectors.

    python evaluations/dimensions/cut.py 256 --indexes benchmarks/faiss/*/models--all-mpnet* \\
        --encoders models/all-mpnet-base-v2 models/vectors/static-80000 \\
        --vectors mix-80000.parquet --output models/cut

One PCA of the documents of all indexes. Each index is written as Parquet (`id`, `embedding`), each
encoder with one more Dense layer, and the vectors of texts as a teacher to distil from, all cut
to so many dimensions and of length 1. Dense layers that follow one another are one rotation more
in the last of them.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from disret.command_line import argument_parser, positive, run
from disret.encode.batches import normalised
from disret.retrieve.index import open_built


def write(path: Path, columns: dict[str, list[str]], vectors: np.ndarray) -> None:
    flat = pa.array(normalised(vectors).ravel())
    embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pq.write_table(pa.table({**columns, "embedding": embedding}), path)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("dimension", type=positive)
    parser.add_argument("--indexes", nargs="+", type=Path, required=True, metavar="DIR")
    parser.add_argument("--encoders", nargs="+", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--vectors", type=Path, required=True, metavar="PARQUET")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    import faiss
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    indexes = [open_built(folder) for folder in args.indexes]
    documents = [np.concatenate([*index.blocks(index.shards)]).astype(np.float32)
                 for index in indexes]  # fmt: skip
    pca = faiss.PCAMatrix(indexes[0].dimension, args.dimension)
    pca.train(np.concatenate(documents))
    args.output.mkdir(parents=True, exist_ok=True)
    for folder, index, vectors in zip(args.indexes, indexes, documents, strict=True):
        path = args.output / f"{folder.parent.name}-{args.dimension}.parquet"
        write(path, {"id": list(index.ids())}, pca.apply(vectors))
    rotation, shift = (torch.from_numpy(faiss.vector_to_array(each)) for each in (pca.A, pca.b))
    weight = rotation.reshape(pca.d_out, pca.d_in)
    for name in args.encoders:
        dense = Dense(pca.d_in, pca.d_out, True, None, init_weight=weight, init_bias=shift)
        encoder = SentenceTransformer(str(name), device="cpu")
        encoder.extend([dense, Normalize()])
        encoder.save_pretrained(str(args.output / f"{name.name}-{args.dimension}"))
    table = pq.read_table(args.vectors)
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float32)
    path = args.output / f"{args.vectors.stem}-{args.dimension}.parquet"
    write(path, {"text": table["text"].to_pylist()}, pca.apply(vectors))


if __name__ == "__main__":
    run(main)
