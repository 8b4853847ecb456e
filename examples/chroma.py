"""Search a Chroma collection of the teacher's vectors with a student's queries.

Chroma embeds with all-MiniLM-L6-v2 unless it is told otherwise: that is the teacher then, and a
student of it lies in `models/`.

python -m examples.chroma models/all-MiniLM-L6-v2-static FOLDER "a query" --precision int8
python -m examples.chroma STUDENT FOLDER --export documents.parquet  # for agree.py --index
"""

import argparse

import chromadb
import pyarrow as pa
import pyarrow.parquet as pq

from disret.query_encoder import QueryEncoder

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("student")
parser.add_argument("folder")
parser.add_argument("query", nargs="?")
parser.add_argument("--collection", default="documents")
parser.add_argument("--precision", default="float32", choices=["float32", "int8"])
parser.add_argument("--export", metavar="FILE", help="write ids, texts and vectors there")
args = parser.parse_args()

collection = chromadb.PersistentClient(args.folder).get_collection(args.collection)
if args.query:
    vector = QueryEncoder.from_pretrained(args.student, args.precision).encode([args.query])[0]
    found = collection.query(query_embeddings=[vector], n_results=10)
    for distance, text in zip(found["distances"][0], found["documents"][0], strict=True):
        print(f"{distance:.4f}\t{text}")
if args.export:
    every = collection.get(include=["documents", "embeddings"])
    columns = {"id": every["ids"], "text": every["documents"], "embedding": every["embeddings"]}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), args.export)
