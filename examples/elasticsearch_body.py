"""The body of a vector search in Elasticsearch or OpenSearch. Not run here against either.

python -m examples.elasticsearch_body STUDENT elasticsearch "a query" |
curl -H "Content-Type: application/json" -d @- http://localhost:9200/documents/_search
"""

import argparse
import json

from disret.query_encoder import QueryEncoder


def elasticsearch(vector: list[float], k: int = 10) -> dict:
    """For a field `embedding` of type `dense_vector`."""
    knn = {"field": "embedding", "query_vector": vector, "k": k, "num_candidates": 10 * k}
    return {"knn": knn, "size": k, "_source": ["text"]}


def opensearch(vector: list[float], k: int = 10) -> dict:
    """For a field `embedding` of type `knn_vector`."""
    return {"query": {"knn": {"embedding": {"vector": vector, "k": k}}}, "size": k}


def main(student: str, engine: str, query: str) -> None:
    vector = QueryEncoder.from_pretrained(student).encode([query])[0].tolist()
    print(json.dumps({"elasticsearch": elasticsearch, "opensearch": opensearch}[engine](vector)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("engine", choices=["elasticsearch", "opensearch"])
    parser.add_argument("query")
    main(**vars(parser.parse_args()))
