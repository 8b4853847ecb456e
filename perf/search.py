#!/usr/bin/env python
"""Indexing and exact search at the size of MS MARCO: memory, time, and time over a bare product.

    python perf/search.py                          # 15 GB of disk, 22 minutes on 2 cores
    python perf/search.py --documents 1000000      # the same, smaller

The vectors are synthetic: random documents of eight words, embedded by averaging random vectors of
words, indexed by the code that benchmark.py uses, and searched by it. Every eighth block of the
search is also multiplied with all queries and nothing more, so that a drift of the machine meets
both. Peers, which hold all vectors in memory, search --peer-documents: FAISS's IndexFlatIP in one
piece, and BEIR's exact search.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from disret import paths
from disret.command_line import add_device, argument_parser, positive, run, say
from disret.data.collection import Collection
from disret.files import check_writable, whole_file, write_json

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from disret.retrieve.index import Index

RESULTS = Path(__file__).resolve().parent / "results"
MSMARCO = 8_841_823
WORDS = 20_000
EVERY = 8  # blocks; of these one is multiplied bare as well
TILE = 4096  # documents, of the bare product


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--documents", type=positive, default=MSMARCO, help="(default: MS MARCO's %(default)s)")
    add("--dimension", type=positive, default=768, help="(default: %(default)s)")
    add("--queries", type=positive, default=6980, help="(default: MS MARCO's %(default)s)")
    add("--k", type=positive, default=1000, help="hits for each query (default: %(default)s)")
    add("--index-dtype", choices=["float16", "float32"], default="float16",
        help="(default: float16)")
    add("--peer-documents", type=positive, default=200_000, help="(default: %(default)s)")
    add("--output", type=Path, default=RESULTS / "search.json",
        help="(default: perf/results/search.json)")
    # fmt: on
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_writable(args.output)
    collection = synthetic_collection(args.documents)

    from disret.devices import device_name, resolve_device, versions
    from disret.encode.batches import BatchEncoder, normalised
    from disret.encode.timings import Timings, resident_bytes
    from disret.retrieve.index import open_index
    from disret.tables import format_table

    args.device = resolve_device(args.device)
    timings = Timings()
    model = word_averages(args.dimension)
    encoder = BatchEncoder(model, timings=timings)
    before = resident_bytes()
    teacher = SimpleNamespace(
        name=f"words-{args.dimension}", fingerprint="words", dtype="float32", batches=encoder
    )
    index = open_index(collection, teacher, "cos_sim", args.index_dtype)
    queries = normalised(encoder.encode_query(list(iter_texts(args.queries, 4, seed=1))))
    say("peers")
    peers = compare_with_peers(args, index, queries)
    say("search")
    result = time_search(args, index, queries, timings)
    report = {
        "documents": args.documents,
        "dimension": args.dimension,
        "queries": args.queries,
        "k": args.k,
        "index_dtype": args.index_dtype,
        "device": device_name(args.device),
        "versions": versions(),
        "memory_before_mb": round(before / 1e6),  # Python, torch, the word vectors
        **result,
        "stages": timings.rows(),
        "peers": peers,
    }
    write_json(args.output, report)
    print(format_table(timings.rows()))
    print(f"\n{format_table(peers)}\n")
    for name, value in result.items():
        print(f"{name}: {value}")
    print(f"All of it is in {args.output}.")


def time_search(
    args: argparse.Namespace, index: "Index", queries: "np.ndarray", timings
) -> dict[str, float]:
    """Search the whole index, and multiply every eighth block bare.

    Returns:
        Seconds of the search, of the bare product of the same size, and their ratio.
    """
    from disret.retrieve.metrics import metrics
    from disret.retrieve.runs import to_run
    from disret.retrieve.search import search

    timed = with_bare_products(index, queries, args.device)
    start = time.perf_counter()
    with timings.measure("search", args.queries):
        scores, rows = search(timed, queries, args.k, args.device)
    seconds = time.perf_counter() - start - timed.bare_seconds[0]
    bare = timed.bare_seconds[0] * index.documents / timed.bare_documents[0]
    timings.timings["search"].seconds = seconds
    names = [f"q{number}" for number in range(args.queries)]
    with timings.measure("score", args.queries):
        hits = index.ids().take(rows)
        run = to_run(names, hits, scores, args.k)
        metrics(judgments(names, hits), run, [10, args.k])
    return {
        "search_seconds": round(seconds, 1),
        "bare_product_seconds": round(bare, 1),
        "search_over_bare_product": round(seconds / bare, 3),
        "extrapolated_to_msmarco_seconds": round(seconds * MSMARCO / index.documents, 1),
    }


def with_bare_products(index: "Index", queries: "np.ndarray", device: str) -> "Index":
    """The same index, whose blocks are also multiplied bare, some of them, when they are read."""
    import torch

    from disret.retrieve.index import Index

    class Timed(Index):
        bare_seconds = [0.0]  # noqa: RUF012
        bare_documents = [0]  # noqa: RUF012

        def blocks(self, shards) -> Iterator["np.ndarray"]:
            for number, block in enumerate(super().blocks(shards)):
                if number % EVERY == 0:
                    start = time.perf_counter()
                    bare_product(block)
                    self.bare_seconds[0] += time.perf_counter() - start
                    self.bare_documents[0] += len(block)
                yield block

    on_device = torch.from_numpy(queries).to(device)

    def bare_product(block: "np.ndarray") -> None:
        for tile in torch.from_numpy(block).to(device).float().split(TILE):
            on_device @ tile.T
        if on_device.device.type == "cuda":
            torch.cuda.synchronize(on_device.device)

    return Timed(index.folder, index.dimension, index.shards)


def compare_with_peers(
    args: argparse.Namespace, index: "Index", queries: "np.ndarray"
) -> list[dict]:
    """Search the first documents of the index with each peer; score all on the same judgments.

    Returns:
        A row for each: seconds, peak memory, and nDCG@10.
    """
    import faiss
    import numpy as np

    from disret.encode.timings import Timings
    from disret.retrieve.metrics import metrics
    from disret.retrieve.runs import to_run
    from disret.retrieve.search import search

    ends = itertools.accumulate(shard.documents for shard in index.shards)
    count = sum(end <= args.peer_documents for end in ends)
    part = index._replace(shards=index.shards[:count])
    ids = index.ids()
    names = [f"q{number}" for number in range(args.queries)]
    timings = Timings()

    def streamed() -> tuple["np.ndarray", "np.ndarray"]:
        return search(part, queries, args.k, args.device)

    def in_one_piece() -> tuple["np.ndarray", "np.ndarray"]:
        whole = faiss.IndexFlatIP(index.dimension)
        for block in part.blocks(part.shards):
            whole.add(block)
        return whole.search(queries, args.k)

    rows, judged = [], None
    for name, find in (("this project", streamed), ("IndexFlatIP in one piece", in_one_piece)):
        with timings.measure(name, args.queries):
            scores, found = find()
        hits = ids.take(found)
        judged = judged or judgments(names, hits)
        with timings.measure(f"score {name}"):
            score = metrics(judged, to_run(names, hits, scores, args.k), [10])["NDCG@10"]
        rows.append({"peer": name, "ndcg@10": score})
    vectors = np.concatenate([block.copy() for block in part.blocks(part.shards)])
    with timings.measure("BEIR's exact search", args.queries):
        run = beir_search(
            names, queries, [ids[row] for row in range(len(vectors))], vectors, args.k
        )
    rows.append({"peer": "BEIR's exact search", "ndcg@10": metrics(judged, run, [10])["NDCG@10"]})
    by_name = {row["stage"]: row for row in timings.rows()}
    return [
        {
            "peer": row["peer"],
            "documents": part.documents,
            "seconds": by_name[row["peer"]]["seconds"],
            "peak_memory_mb": by_name[row["peer"]]["peak_memory_mb"],
            "ndcg@10": row["ndcg@10"],
        }
        for row in rows
    ]


def beir_search(
    query_ids: Sequence[str],
    queries: "np.ndarray",
    document_ids: Sequence[str],
    documents: "np.ndarray",
    k: int,
) -> dict[str, dict[str, float]]:
    """BEIR's DenseRetrievalExactSearch over vectors that are there already."""
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    class Vectors:
        def encode_queries(self, texts, **kwargs) -> "np.ndarray":
            return queries[[int(text) for text in texts]]

        def encode_corpus(self, corpus, **kwargs) -> "np.ndarray":
            return documents[[int(document["text"]) for document in corpus]]

    corpus = {name: {"text": str(row)} for row, name in enumerate(document_ids)}
    texts = {name: str(row) for row, name in enumerate(query_ids)}
    return DenseRetrievalExactSearch(Vectors()).search(corpus, texts, k, "dot")


def judgments(names: Sequence[str], hits: "np.ndarray") -> dict[str, dict[str, int]]:
    """Three of the first thirty hits of each query, at random."""
    choose = random.Random(2).sample
    return {
        name: {str(hits[row, rank]): 1 for rank in choose(range(min(30, hits.shape[1])), 3)}
        for row, name in enumerate(names)
    }


def synthetic_collection(documents: int) -> Collection:
    """A collection of random documents of eight words, written once."""
    from tqdm import tqdm

    folder = paths.COLLECTIONS / f"synthetic-{documents}"
    path = folder / "corpus.jsonl"
    if not path.exists():
        with whole_file(path) as partial, partial.open("w") as file:
            texts = iter_texts(documents, 8, seed=0)
            for number, text in enumerate(tqdm(texts, total=documents, desc="write the corpus")):
                file.write(f'{{"_id": "{number}", "text": "{text}"}}\n')
    return Collection(folder.name, folder)


def iter_texts(count: int, words: int, seed: int) -> Iterator[str]:
    generator = random.Random(seed)
    for _ in range(count):
        yield " ".join(f"w{int(WORDS * generator.random())}" for _ in range(words))


def word_averages(dimension: int) -> "SentenceTransformer":
    """A static encoder: the average of the random vectors of the words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    vectors = torch.randn(WORDS, dimension)
    static = StaticEmbedding(tokenizer, embedding_weights=vectors)
    return SentenceTransformer(modules=[static], device="cpu")


if __name__ == "__main__":
    run(main)
