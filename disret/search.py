"""Exact search that streams over the shards of an index and keeps the best so far."""

from collections.abc import Iterator

import numpy as np

from disret import ranks
from disret.devices import world_size
from disret.index import Index
from disret.terminal import is_main_process

GPU_MAX_K = 2048  # faiss's limit of a search on the GPU
QUERIES = 1024  # whose scores with a block are held on the GPU at once: 0.3 GB


def search(
    index: Index, queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the documents of the greatest inner product with each query.

    Under `torchrun` the ranks share out the shards; all call this with the same queries.

    Args:
        queries: float32 [n_queries, dimension].
        k: hits for each query, at most the number of documents.
        device: on CUDA, the search runs there, by faiss if it was built for GPUs.

    Returns:
        On rank 0, scores float32 [n_queries, k], falling, and rows int64 [n_queries, k]. None
        on the other ranks.
    """
    import faiss

    k = min(k, index.documents)
    shares = np.array_split(np.arange(len(index.shards)), world_size())
    own = [index.shards[number] for number in shares[ranks.rank()]]
    first = sum(shard.documents for share in shares[: ranks.rank()]
                for shard in map(index.shards.__getitem__, share))  # fmt: skip
    found = None
    if own:
        depth = min(k, sum(shard.documents for shard in own))
        scores, rows = _search(_with_progress(index, own), queries, depth, device)
        found = scores, rows + first
    parts = ranks.gathered_by_first(found)
    if parts is None:
        return None
    if len(parts) == 1:
        return parts[0]
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    for scores, rows in filter(None, parts):
        heap.add_result(scores, rows)
    heap.finalize()
    return heap.D, heap.I


def _search(
    blocks: Iterator[np.ndarray], queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

    queries = np.ascontiguousarray(queries, dtype=np.float32)
    on_cuda = device.startswith("cuda")
    faiss_has_gpus = faiss.get_num_gpus() > 0 and world_size() == 1 and k <= GPU_MAX_K
    if on_cuda and not faiss_has_gpus:
        return search_with_torch(blocks, queries, k, device)
    ngpu = -1 if on_cuda else 0
    return knn_ground_truth(queries, blocks, k, faiss.METRIC_INNER_PRODUCT, ngpu=ngpu)


def search_with_torch(
    blocks: Iterator[np.ndarray], queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The search by torch, for CUDA where faiss was built without; float32 throughout.

    Returns:
        Scores float32 [n_queries, k], falling, and rows int64 [n_queries, k].
    """
    import torch

    with torch.inference_mode():
        parts = torch.from_numpy(queries).to(device).split(QUERIES)
        best = [
            (part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.int64))
            for part in parts
        ]
        first = 0
        for block in blocks:
            documents = torch.from_numpy(block).to(device)
            for number, part in enumerate(parts):
                scores, rows = (part @ documents.T).topk(min(k, len(block)))
                scores = torch.cat([best[number][0], scores], dim=1)
                rows = torch.cat([best[number][1], rows + first], dim=1)
                scores, places = scores.topk(min(k, scores.shape[1]))
                best[number] = scores, rows.gather(1, places)
            first += len(block)
        scores, rows = (torch.cat(column).cpu().numpy() for column in zip(*best, strict=True))
    return scores, rows


def _with_progress(index: Index, shards: list) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    total = sum(shard.documents for shard in shards)
    with tqdm(
        total=total, desc="search", unit="doc", delay=2, disable=not is_main_process()
    ) as bar:
        for block in index.blocks(shards):
            yield block
            bar.update(len(block))
