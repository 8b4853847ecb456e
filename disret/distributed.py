"""The processes of one run under `torchrun`: what rank 0 decides, and what all bring together.

Without `torchrun` there is one process, and everything here does nothing.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from disret.command_line import is_main_process
from disret.devices import world_size

T = TypeVar("T")

# Rank 0 may embed queries, or score a large data set, while the others wait for it.
PATIENCE = timedelta(days=7)


def join(device: str = "cpu") -> None:
    """Meet the other processes; to be called once, before anything else here.

    Args:
        device: where tensors lie that all bring together. Decisions and results travel from
            memory to memory in any case.
    """
    if world_size() > 1:
        import torch.distributed

        backend = "gloo" if device.partition(":")[0] == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes at the end of a run, together, if they have met."""
    if world_size() > 1:
        import torch.distributed

        wait_for_all()
        torch.distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def decided_by_first(decide: Callable[[], T]) -> T:
    """What `decide` returns on rank 0, where alone it is called; the same on all ranks."""
    if world_size() == 1:
        return decide()
    import torch.distributed

    answer: list[Any] = [decide() if is_main_process() else None]
    torch.distributed.broadcast_object_list(answer)
    return answer[0]


def gathered_by_first(value: T) -> list[T] | None:
    """The value of every rank, in the order of ranks, on rank 0; None on the others."""
    if world_size() == 1:
        return [value]
    import torch.distributed

    values: list[Any] | None = [None] * world_size() if is_main_process() else None
    torch.distributed.gather_object(value, values)
    return values


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()
