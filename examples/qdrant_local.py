"""Search a Qdrant collection of the teacher's vectors with a student's queries.

python -m examples.qdrant_local TEACHER STUDENT documents.txt FOLDER "a query"
"""

import argparse
from pathlib import Path

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, VectorParams

from disret.query_encoder import QueryEncoder


def fill(client: QdrantClient, teacher: str, documents: list[str]) -> None:
    """What stands already: the teacher has embedded the documents, once."""
    from sentence_transformers import SentenceTransformer  # the search below needs no torch

    vectors = SentenceTransformer(teacher, device="cpu").encode_document(documents)
    params = VectorParams(size=vectors.shape[1], distance=Distance.DOT)
    client.create_collection("documents", vectors_config=params)
    payload = [{"text": text} for text in documents]
    client.upload_collection("documents", vectors, payload, ids=range(len(documents)))


def main(teacher: str, student: str, documents: str, folder: str, query: str) -> None:
    client = QdrantClient(path=folder)  # of a server: QdrantClient("http://localhost:6333")
    if not client.collection_exists("documents"):
        fill(client, teacher, Path(documents).read_text(encoding="utf-8").splitlines())
    encoder = QueryEncoder.from_pretrained(student)
    for hit in client.query_points("documents", encoder.encode([query])[0], limit=10).points:
        print(f"{hit.score:.4f}\t{hit.payload['text']}")
    client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "student", "documents", "folder", "query"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
