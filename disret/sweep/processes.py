"""Scripts of this project in processes of their own, on a share of the machine each."""

import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from disret.command_line import UserError, at_end, tell
from disret.devices import share_of_cores

SCRIPTS = Path(__file__).resolve().parents[2]


def environment_of(place: int, places: int) -> dict[str, str]:
    """The variables of one of several processes: its GPU, or its share of the cores."""
    import torch

    if places == 1:
        return {}
    threads = {"OMP_NUM_THREADS": str(share_of_cores(places))}
    if not (count := torch.cuda.device_count()):
        return threads
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(map(str, range(count)))
    return {**threads, "CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}


def call(
    script: str,
    *arguments: object,
    processes: int = 1,
    environment: dict[str, str] | None = None,
    log: Path | None = None,
) -> None:
    """Run one of the scripts and print its command; it ends with this one at the latest.

    Args:
        processes: how many share the work, by `torchrun`.
        log: a file for what it prints, when several run at once.

    Raises:
        UserError: it failed.
    """
    words = [script, *map(str, arguments)]
    several = ["--nproc-per-node", str(processes)] if processes > 1 else []
    tell(f"\n$ {shlex.join(['torchrun' if several else 'python', *several, *words])}")
    launcher = ["-m", "torch.distributed.run", *several] if several else []
    command = [sys.executable, *launcher, str(SCRIPTS / script), *words[1:]]
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") if log else nullcontext() as file:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=file, stderr=file
        )
        at_end.callback(process.wait)
        at_end.callback(process.terminate)  # which is called first, and leaves an ended one alone
        status = process.wait()
    if status:
        where = f"; {log} says why" if log else ""
        again = "" if status == 2 else " Run the same again to go on."
        raise UserError(f"{script} ended with status {status}{where}.{again}")
