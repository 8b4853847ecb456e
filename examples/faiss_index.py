"""Search a FAISS index of the teacher's vectors with a student's queries.

python -m examples.faiss_index TEACHER STUDENT documents.txt documents.faiss "a query"
"""

import argparse
from pathlib import Path

import faiss

from disret.query_encoder import QueryEncoder


def fill(path: str, teacher: str, documents: list[str]) -> None:
    """What stands already: the teacher has embedded the documents, once."""
    from sentence_transformers import SentenceTransformer  # the search below needs no torch

    vectors = SentenceTransformer(teacher, device="cpu").encode_document(documents)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, path)


def main(teacher: str, student: str, documents: str, index: str, query: str) -> None:
    texts = Path(documents).read_text(encoding="utf-8").splitlines()
    if not Path(index).exists():
        fill(index, teacher, texts)
    beside = Path(index).with_suffix(".json")  # a copy of the index.json of an export
    encoder = QueryEncoder.from_pretrained(student, index=beside if beside.exists() else None)
    scores, rows = faiss.read_index(index).search(encoder.encode([query]), 10)
    for score, row in zip(scores[0], rows[0], strict=True):
        print(f"{score:.4f}\t{texts[row]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "student", "documents", "index", "query"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
