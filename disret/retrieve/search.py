"""Exact search that streams over the shards of an index and keeps the best so far."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from disret import distributed
from disret.command_line import UserError, is_main_process, progress_bar, say
from disret.devices import world_size
from disret.encode.batches import one_ahead
from disret.retrieve.ids import Ids
from disret.retrieve.index import Index, documents_in

GPU_MAX_K = 2048  # faiss's limit of a search on the GPU
HITS = 1 << 23  # of all queries that are held at once to tell documents apart, 12 bytes each
QUERIES = 1024  # whose scores with a block are held on the GPU at once: 0.3 GB


def search(
    index: Any,
    queries: np.ndarray,
    k: int,
    device: str = "cpu",
    gpu_library: str = "torch",
) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the documents of the greatest inner product with each query.

    Any but an `Index` searches as it does by itself, on the CPU.

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
    k = min(k, index.documents)
    if not isinstance(index, Index):
        return index.search(queries, k) if is_main_process() else None
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    bounds = [len(index.shards) * part // world_size() for part in range(world_size() + 1)]
    start, end = bounds[distributed.rank() : distributed.rank() + 2]
    own = index.shards[start:end]
    total = documents_in(own)

    def blocks() -> Iterator[np.ndarray]:
        with progress_bar(total=total, desc="search", unit="doc", delay=2) as bar:
            for block in index.blocks(own):
                yield block
                bar.update(len(block))

    library = gpu_library if device.startswith("cuda") else "faiss on the CPU"
    if library == "faiss" and k > GPU_MAX_K:
        say(f"faiss finds at most {GPU_MAX_K} hits on a GPU; torch searches.")
        library = "torch"
    found = None
    if own:
        find = search_with_torch if library == "torch" else search_with_faiss
        scores, rows = find(blocks(), queries, min(k, total), device)
        found = scores, rows + documents_in(index.shards[:start])
    parts = distributed.gathered_by_first(found)
    if parts is None:
        return None
    return parts[0] if len(parts) == 1 else _best(filter(None, parts), len(queries), k)


def check_gpu_faiss() -> None:
    """Raise `UserError` unless this faiss can search on a GPU."""
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        raise UserError("the faiss that is installed was built for the CPU; torch can search.")


def search_with_faiss(
    blocks: Iterable[np.ndarray], queries: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The search by faiss, on CUDA by one that was built for it; arguments and result as below."""
    import faiss

    find = faiss.knn
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()  # faiss aborts the process where torch has taken all memory
        number = int(device.partition(":")[2] or 0)
        find = partial(faiss.knn_gpu, faiss.StandardGpuResources(), device=number)

    def found() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = 0
        for block in blocks:
            vectors = block.astype(np.float32, copy=False)
            metric = faiss.METRIC_INNER_PRODUCT
            scores, rows = find(queries, vectors, min(k, len(block)), metric=metric)
            yield scores, rows + first
            first += len(block)

    return _best(found(), len(queries), k)


def _best(
    found: Iterable[tuple[np.ndarray, np.ndarray]], n_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best hits of all that were found; scores and rows as `search` returns them."""
    import faiss

    heap = faiss.ResultHeap(n_queries, k, keep_max=True)
    for scores, rows in found:
        heap.add_result(scores, rows)
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

    def pinned(block: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(block)
        return tensor.pin_memory() if device.startswith("cuda") else tensor

    with torch.inference_mode(), ExitStack() as at_end:
        # The containers of NVIDIA switch on TF32, whose products are not those of float32.
        at_end.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
        parts = torch.from_numpy(queries).to(device).split(QUERIES)
        best = [
            (part.new_empty(len(part), 0), part.new_empty(len(part), 0, dtype=torch.int64))
            for part in parts
        ]
        first = 0
        for block in one_ahead(map(pinned, blocks)):
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


def by_document(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    ids: Ids,
    queries: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of each query, where several rows may be of one: by its best (MaxP).

    Args:
        search: of queries and a number of hits; as `ForeignIndex.search`.
    """
    depth = min(k, len(ids))
    if ids.are_unique:
        return search(queries, depth)
    found = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1)
    left = np.arange(len(queries))
    while len(left):
        lacking = []
        for some in np.split(left, range(HITS // depth or 1, len(left), HITS // depth or 1)):
            scores, rows = search(queries[some], depth)
            numbers = ids.document_numbers(rows)
            for query, own, *hits in zip(some, numbers, scores, rows, strict=True):
                places = np.unique(own, return_index=True)[1]
                places = np.sort(places[own[places] >= 0])[:k]
                for to, of in zip(found, hits, strict=True):
                    to[query, : len(places)] = of[places]
                if len(places) < k and own[-1] != -1:
                    lacking.append(query)
        left = np.array(lacking if depth < len(ids) else [], dtype=np.int64)
        depth = min(4 * depth, len(ids))
    return found
