"""Where a run's time and memory go: its timings, and what a call takes beside what was there."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disret.command_line import without_secrets

STATM = Path("/proc/self/statm")
INTERVAL = 0.05  # seconds between two looks at the memory


@dataclass
class Stage:
    """What a stage has taken so far; `tokens` are those of texts, `positions` count padding too."""

    seconds: float = 0.0
    items: int = 0
    tokens: int = 0
    positions: int = 0
    peak_bytes: int = 0

    def row(self, name: str) -> dict[str, Any]:
        """The stage as a line of a table; padding is the share of positions without a token."""
        padding = 1 - self.tokens / self.positions if self.positions else None
        return {
            "stage": name,
            "seconds": round(self.seconds, 2),
            "items": self.items,
            "items_per_second": round(self.items / self.seconds, 1) if self.seconds else None,
            "peak_memory_mb": round(self.peak_bytes / 1e6) if self.peak_bytes else None,
            "padding_percent": None if padding is None else round(100 * padding, 1),
        }


@dataclass
class Timings:
    """Timings by name, in the order they began. Timings may overlap, in threads of their own."""

    timings: dict[str, Stage] = field(default_factory=dict)
    _active: list[str] = field(default_factory=list)
    _is_watched: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, name: str, items: int = 0) -> Iterator[Stage]:
        """Add the time of the block to a stage, and watch the memory of this process meanwhile.

        Args:
            items: how many things the block treats; where only the block knows, it adds to `items`
                of the stage it is given.
        """
        with self._lock:
            stage = self.timings.setdefault(name, Stage())
            self._active.append(name)
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, daemon=True).start()
        start = time.perf_counter()
        try:
            yield stage
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                stage.seconds += seconds
                stage.items += items
                stage.peak_bytes = max(stage.peak_bytes, resident_bytes())
                self._active.remove(name)

    def rows(self) -> list[dict[str, Any]]:
        """A line for each stage."""
        return [stage.row(name) for name, stage in self.timings.items()]

    def _watch(self) -> None:
        while True:
            with self._lock:
                if not self._active:
                    self._is_watched = False
                    return
                for name in self._active:
                    stage = self.timings[name]
                    stage.peak_bytes = max(stage.peak_bytes, resident_bytes())
            time.sleep(INTERVAL)

    def report(self, arguments: Mapping[str, Any], device: str) -> dict[str, Any]:
        """What a run took: its arguments, the machine, versions, and each stage."""
        import torch

        from disret.devices import device_name, versions, world_size

        on_gpu = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
        return {
            "arguments": {
                name: _recorded(value)
                for name, value in arguments.items()
                if value is not None and name != "mirror"  # a place of this machine
            },
            "device": device_name(device),
            "processes": world_size(),
            "peak_gpu_memory_mb": round(on_gpu / 1e6) if on_gpu else None,
            "versions": versions(),
            "stages": self.rows(),
        }


def _recorded(value: Any) -> Any:
    """An argument as JSON, without secrets."""
    if isinstance(value, list | tuple):
        return [_recorded(item) for item in value]
    return without_secrets(str(value)) if isinstance(value, str | Path) else value


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
    timings = Timings()
    before = resident_bytes()
    with timings.measure("call") as stage:
        call()
    return max(0, stage.peak_bytes - before)


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell (it is not Linux)."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0
