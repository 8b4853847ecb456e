"""Search a FAISS index of the teacher's vectors with a student's queries.

python -m examples.faiss_index STUDENT documents.faiss documents.txt "a query"

The texts have a line for each vector. beyond/agree.py reads the same file: --index documents.faiss.
"""

import argparse
from pathlib import Path

import faiss

from disret.query_encoder import QueryEncoder


def main(student: str, index: str, texts: str, query: str) -> None:
    lines = Path(texts).read_text(encoding="utf-8").splitlines()
    beside = Path(index).with_suffix(".json")  # a copy of the index.json of an export
    encoder = QueryEncoder.from_pretrained(student, index=beside if beside.exists() else None)
    scores, rows = faiss.read_index(index).search(encoder.encode([query]), 10)
    for score, row in zip(scores[0], rows[0], strict=True):
        print(f"{score:.4f}\t{lines[row]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("student", "index", "texts", "query"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
