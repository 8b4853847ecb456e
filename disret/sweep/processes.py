"""Scripts of this project in processes of their own, on a share of the machine each."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from disret.command_line import Ended, UserError
from disret.devices import share_of_cores

_running: set[subprocess.Popen] = set()
SCRIPTS = Path(__file__).resolve().parents[2]


def environment_of(place: int, places: int) -> dict[str, str]:
    """The variables of one of several processes: its GPU, or its share of the cores."""
    import torch

    if places == 1:
        return {}
    threads = str(share_of_cores(places))
    if not (count := torch.cuda.device_count()):
        return {"OMP_NUM_THREADS": threads}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(map(str, range(count)))
    return {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}


@contextmanager
def children_end_too() -> Iterator[None]:
    """Where threads call scripts: end these when the block is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, Ended):
        for process in list(_running):
            process.terminate()
        raise


def visible_gpus() -> int:
    """The number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()


def call(
    script: str,
    *arguments: object,
    processes: int = 1,
    environment: dict[str, str] | None = None,
    log: Path | None = None,
) -> None:
    """Run one of the scripts and print its command.

    Args:
        processes: how many share the work, by `torchrun`.
        log: a file for what it prints, when several run at once.

    Raises:
        UserError: it failed.
    """
    words = [str(argument) for argument in arguments]
    several = ["--nproc-per-node", str(processes)] if processes > 1 else []
    shown = ["torchrun", *several] if several else ["python"]
    print(f"\n$ {shlex.join([*shown, script, *words])}", flush=True)
    launcher = ["-m", "torch.distributed.run", *several] if several else []
    command = [sys.executable, *launcher, str(SCRIPTS / script), *words]
    environment = {**os.environ, **(environment or {})}
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") if log else nullcontext() as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        _running.add(process)
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            _running.discard(process)
    if status:
        where = f"; {log} says why" if log else ""
        again = "" if status == 2 else " Run the same again to go on."
        raise UserError(f"{script} ended with status {status}{where}.{again}")
