"""Search a PostgreSQL table of the teacher's vectors, in pgvector, with a student's queries.

python -m examples.pgvector_postgres TEACHER STUDENT documents.txt "dbname=mine" "a query"
"""

import argparse
from pathlib import Path

import psycopg

from disret.query_encoder import QueryEncoder


def fill(connection: psycopg.Connection, teacher: str, documents: list[str]) -> None:
    """What stands already: the teacher has embedded the documents, once."""
    from sentence_transformers import SentenceTransformer  # the search below needs no torch

    vectors = SentenceTransformer(teacher, device="cpu").encode_document(documents).tolist()
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute(f"CREATE TABLE documents (text text, embedding vector({len(vectors[0])}))")
    rows = zip(documents, map(str, vectors), strict=True)  # pgvector reads "[0.1, 0.2]"
    connection.cursor().executemany("INSERT INTO documents VALUES (%s, %s)", rows)


def main(teacher: str, student: str, documents: str, database: str, query: str) -> None:
    with psycopg.connect(database) as connection:
        if not connection.execute("SELECT to_regclass('documents')").fetchone()[0]:
            fill(connection, teacher, Path(documents).read_text(encoding="utf-8").splitlines())
        vector = QueryEncoder.from_pretrained(student).encode([query])[0].tolist()
        nearest = "SELECT text, embedding <#> %s AS distance FROM documents ORDER BY 2 LIMIT 10"
        for text, distance in connection.execute(nearest, [str(vector)]):
            print(f"{-distance:.4f}\t{text}")  # <#> is minus the dot product


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("teacher", "student", "documents", "database", "query"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
