"""Search a Qdrant collection of the teacher's vectors with a student's queries.

python -m examples.qdrant_local STUDENT FOLDER "a query" --collection documents --text text
python -m examples.qdrant_local STUDENT FOLDER --export documents.parquet  # for agree.py --index
"""

import argparse

import pyarrow as pa
import pyarrow.parquet as pq
from qdrant_client import QdrantClient

from disret.query_encoder import QueryEncoder

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("student")
parser.add_argument("folder", help="of a server: QdrantClient('http://localhost:6333') below")
parser.add_argument("query", nargs="?")
parser.add_argument("--collection", default="documents")
parser.add_argument("--text", default="text", help="the field of a payload with the text")
parser.add_argument("--export", metavar="FILE", help="write ids, texts and vectors there")
args = parser.parse_args()

client = QdrantClient(path=args.folder)
if args.query:
    vector = QueryEncoder.from_pretrained(args.student).encode([args.query])[0]
    for hit in client.query_points(args.collection, vector, limit=10).points:
        print(f"{hit.score:.4f}\t{hit.payload[args.text]}")
if args.export:
    count = client.count(args.collection).count  # of millions: in pages, by scroll's offset
    points, _ = client.scroll(args.collection, limit=count, with_vectors=True)
    rows = [
        {"id": str(point.id), "text": point.payload[args.text], "embedding": point.vector}
        for point in points
    ]
    pq.write_table(pa.Table.from_pylist(rows), args.export)
client.close()
