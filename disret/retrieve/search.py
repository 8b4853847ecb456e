"""Exact search that streams over the shards of an index and keeps the best so far."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from disret import distributed
from disret.command_line import UserError, is_main_process, progress_bar, say
from disret.devices import world_size
from disret.retrieve.index import Index, Shard

GPU_MAX_K = 2048  # faiss's limit of a search on the GPU
QUERIES = 1024  # whose scores with a block are held on the GPU at once: 0.3 GB


class Searchable(Protocol):
    """An index that searches by itself."""

    documents: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [n_queries, k], falling, and rows int64 [n_queries, k]."""


def search(
    index: Index | Searchable,
    queries: np.ndarray,
    k: int,
    device: str = "cpu",
    gpu_library: str = "torch",
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the documents of the greatest inner product with each query.

    An index of another program searches as it does by itself, on the CPU.

    Under `torchrun` the ranks share out the shards; all call this with the same queries.

    Args:
        queries: float32 [n_queries, dimension].
        k: hits for each query, at most the number of documents.
        device: on CUDA, the search runs there.
        gpu_library: what searches on CUDA: `torch`, or a `faiss` that was built for GPUs.

    Returns:
        On rank 0, scores float32 [n_queries, k], falling, and rows int64 [n_queries, k]. None
        on the other ranks.
    """
    import faiss

    if not isinstance(index, Index):
        return index.search(queries, min(k, index.documents)) if is_main_process() else None
    k = min(k, index.documents)
    bounds = [len(index.shards) * part // world_size() for part in range(world_size() + 1)]
    start, end = bounds[distributed.rank() : distributed.rank() + 2]
    own = index.shards[start:end]
    first = sum(shard.documents for shard in index.shards[:start])
    found = None
    if own:
        depth = min(k, sum(shard.documents for shard in own))
        scores, rows = _search(index, own, queries, depth, device, gpu_library)
        found = scores, rows + first
    parts = distributed.gathered_by_first(found)
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
    index: Index,
    shards: Sequence[Shard],
    queries: np.ndarray,
    k: int,
    device: str,
    gpu_library: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Search some shards where it is fastest; rows count from the first of them."""
    import faiss
    from faiss.contrib.exhaustive_search import knn_ground_truth

    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if not device.startswith("cuda"):
        blocks = _with_progress(index.blocks(shards), shards)
        return knn_ground_truth(queries, blocks, k, faiss.METRIC_INNER_PRODUCT, ngpu=0)
    if gpu_library == "faiss" and k > GPU_MAX_K:
        say(f"faiss finds at most {GPU_MAX_K} hits on a GPU; torch searches.")
    elif gpu_library == "faiss":
        import torch

        torch.cuda.empty_cache()  # faiss aborts the process where torch has taken all memory
        try:
            blocks = _with_progress(index.blocks(shards), shards)
            return search_with_gpu_faiss(blocks, queries, k, device)
        except RuntimeError as error:
            say(f"faiss cannot search on {device} ({str(error).splitlines()[0]}); torch does.")
    blocks = _with_progress(index.stored_blocks(shards), shards)
    return search_with_torch(blocks, queries, k, device)


def check_gpu_faiss() -> None:
    """Raise `UserError` unless this faiss can search on a GPU."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        raise UserError("the faiss that is installed was built for the CPU; torch can search.")


def search_with_gpu_faiss(
    blocks: Iterator[np.ndarray], queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The search by a faiss that was built for GPUs; arguments and result as below."""
    import faiss

    number = int(device.partition(":")[2] or 0)
    resources = faiss.StandardGpuResources()
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    first = 0
    for block in blocks:
        scores, rows = faiss.knn_gpu(
            resources, queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT,
            device=number,
        )  # fmt: skip
        heap.add_result(scores, rows + first)
        first += len(block)
    heap.finalize()
    return heap.D, heap.I


def search_with_torch(
    blocks: Iterator[np.ndarray], queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The search by torch, in float32.

    While the device multiplies a block, the next is read, and sent as it is on disk.

    Args:
        blocks: float16 or float32 [n, dimension], each an array of its own.

    Returns:
        Scores float32 [n_queries, k], falling, and rows int64 [n_queries, k].
    """
    import torch

    def fetch() -> torch.Tensor | None:
        block = next(blocks, None)
        if block is None:
            return None
        tensor = torch.from_numpy(block)
        return tensor.pin_memory() if device.startswith("cuda") else tensor

    with torch.inference_mode(), _exact_products(), ThreadPoolExecutor(1) as ahead:
        parts = torch.from_numpy(queries).to(device).split(QUERIES)
        best = [
            (part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.int64))
            for part in parts
        ]
        first = 0
        upcoming = ahead.submit(fetch)
        while (block := upcoming.result()) is not None:
            upcoming = ahead.submit(fetch)
            documents = block.to(device, non_blocking=True).float()
            for number, part in enumerate(parts):
                scores, rows = (part @ documents.T).topk(min(k, len(block)))
                scores = torch.cat([best[number][0], scores], dim=1)
                rows = torch.cat([best[number][1], rows + first], dim=1)
                scores, places = scores.topk(min(k, scores.shape[1]))
                best[number] = scores, rows.gather(1, places)
            first += len(block)
        scores, rows = (torch.cat(column).cpu().numpy() for column in zip(*best, strict=True))
    return scores, rows


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products in float32 without TF32, which the containers of NVIDIA switch on."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _with_progress(blocks: Iterator[np.ndarray], shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    total = sum(shard.documents for shard in shards)
    with progress_bar(total=total, desc="search", unit="doc", delay=2) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))
