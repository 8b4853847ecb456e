"""Where a run's time and memory go: its timings, and what a call takes beside what was there."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from disret.command_line import without_secrets
from disret.devices import device_name, versions, world_size

STATUS = Path("/proc/self/status")  # of Linux
WARM_UP = 32  # calls before those that are timed one by one


@dataclass(eq=False)
class Stage:
    """What a stage has taken so far; `tokens` are those of texts, `positions` count padding too."""

    seconds: float = 0.0
    items: int = 0
    tokens: int = 0
    positions: int = 0
    peak_bytes: int = 0


class Timings:
    """Stages by name, in the order they began. They may overlap, in threads of their own."""

    def __init__(self) -> None:
        self.timings: dict[str, Stage] = {}
        self._active: list[Stage] = []
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, name: str, items: int = 0) -> Iterator[Stage]:
        """Add the time of the block to a stage, and note the peak of this process's memory.

        Args:
            items: how many things the block treats; where only the block knows, it adds to `items`
                of the stage it is given.
        """
        with self._lock:
            stage = self.timings.setdefault(name, Stage())
            self._note_peak()
            self._active.append(stage)
        start = time.perf_counter()
        try:
            yield stage
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                stage.seconds += seconds
                stage.items += items
                self._note_peak()
                self._active.remove(stage)

    def _note_peak(self) -> None:
        """Note the peak since the last call in the stages that were active meanwhile."""
        peak = peak_bytes()
        for stage in self._active:
            stage.peak_bytes = max(stage.peak_bytes, peak)

    def rows(self) -> list[dict[str, Any]]:
        """A line for each stage; padding is the share of positions without a token."""
        rows = []
        for name, stage in self.timings.items():
            tokens = stage.tokens / stage.positions if stage.positions else None
            rows.append({
                "stage": name,
                "seconds": round(stage.seconds, 2),
                "items": stage.items,
                "items_per_second": round(stage.items / stage.seconds, 1),
                "peak_memory_mb": round(stage.peak_bytes / 1e6) or None,
                "padding_percent": None if tokens is None else round(100 * (1 - tokens), 1),
            })  # fmt: skip
        return rows

    def report(self, arguments: Mapping[str, Any], device: str) -> dict[str, Any]:
        """What a run took: its arguments without secrets, the machine, versions, and each stage."""
        import torch

        # The mirror is a place of this machine.
        kept = {k: v for k, v in arguments.items() if v is not None and k != "mirror"}
        on_gpu = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
        return {
            "arguments": json.loads(without_secrets(json.dumps(kept, default=str))),
            "device": device_name(device),
            "processes": world_size(),
            "peak_gpu_memory_mb": round(on_gpu / 1e6) or None,
            "versions": versions(),
            "stages": self.rows(),
        }


def peak_growth(call: Callable[[], object], device: str) -> int:
    """Bytes that a call takes at its peak, beside what was there before.

    On CUDA those of tensors, elsewhere those of this process (0 where the system does not tell).
    """
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    peak_bytes()
    before = resident_bytes()
    call()
    return max(0, peak_bytes() - before)


def resident_bytes(what: str = "VmRSS") -> int:
    """Memory of this process now, or `VmHWM` at its peak; 0 where the system does not tell."""
    try:
        return 1024 * int(re.search(rf"{what}:\s*(\d+) kB", STATUS.read_text())[1])
    except FileNotFoundError:
        return 0


def peak_bytes() -> int:
    """Memory of this process at its peak since the last call; 0 where the system does not tell."""
    peak = resident_bytes("VmHWM")
    try:
        STATUS.with_name("clear_refs").write_text("5")  # the next peak begins at the present
    except OSError:
        return 0
    return peak


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """While something is timed, torch and faiss have so many threads."""
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def seconds(call: Callable, things: Sequence, threads: int, most: int) -> np.ndarray:
    """The time of each call, one after the other, after some to warm up; of `most` things.

    Args:
        threads: that torch and faiss have meanwhile.

    Returns:
        float64 [n_calls], in seconds.
    """
    found = []
    with cpu_threads(threads):
        for thing in (*things[:WARM_UP], *things[:most]):
            start = time.perf_counter()
            call(thing)
            found.append(time.perf_counter() - start)
    return np.array(found[len(things[:WARM_UP]) :])
