"""Search a PostgreSQL table of the teacher's vectors, in pgvector, with a student's queries.

`--export` writes what `beyond/agree.py --index documents.parquet` searches.

python -m examples.pgvector_postgres STUDENT "dbname=mine" "a query" --table documents
python -m examples.pgvector_postgres STUDENT "dbname=mine" --export documents.parquet
"""

import argparse

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.sql import SQL, Identifier

from disret.query_encoder import QueryEncoder

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("student")
parser.add_argument("database")
parser.add_argument("query", nargs="?")
for name, column in (("table", "documents"), ("id", "id"), ("text", "text")):
    parser.add_argument(f"--{name}", default=column)
parser.add_argument("--column", default="embedding", help="of type vector")
parser.add_argument("--export", metavar="FILE", help="write ids, texts and vectors there")
args = parser.parse_args()

names = {name: Identifier(vars(args)[name]) for name in ("table", "id", "text", "column")}
with psycopg.connect(args.database) as connection:
    if args.query:
        vector = QueryEncoder.from_pretrained(args.student).encode([args.query])[0].tolist()
        nearest = "SELECT {text}, {column} <#> %s FROM {table} ORDER BY 2 LIMIT 10"
        for text, distance in connection.execute(SQL(nearest).format(**names), [str(vector)]):
            print(f"{-distance:.4f}\t{text}")  # <#> is minus the dot product
    if args.export:
        every = "SELECT {id}::text, {text}, {column}::real[] FROM {table}"
        rows = connection.execute(SQL(every).format(**names)).fetchall()
        columns = zip(("id", "text", "embedding"), zip(*rows, strict=True), strict=True)
        pq.write_table(pa.table({name: list(values) for name, values in columns}), args.export)
