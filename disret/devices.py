"""Which device a process works on, and what its maker calls it."""

import os
import platform
from pathlib import Path

from disret.terminal import UserError


def world_size() -> int:
    """The number of processes that `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def resolve_device(device: str | None) -> str:
    """The device to use: the one asked for, else CUDA where there is one, else the CPU.

    Raises:
        UserError: no such device here.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(f"--device {device}: no CUDA device is present here.")
        torch.empty(1, device=device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from None
    return device


def training_device(device: str | None) -> str:
    """Like `resolve_device`, for a process that trains; keeps the trainer to one GPU a process.

    The trainer takes the first GPU it sees, and spreads a batch over all of them where it sees
    several, so this process is shown one only. To be called before torch looks for devices.
    """
    if world_size() > 1:
        kind = resolve_device(device)
        return f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" else kind
    kind, _, number = (device or "cuda").partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        return resolve_device(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = visible.split(",") if visible is not None else None
    wanted = int(number or 0)
    if listed is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(wanted)
    elif wanted < len(listed):
        os.environ["CUDA_VISIBLE_DEVICES"] = listed[wanted]
    else:
        raise UserError(f"--device {device}: CUDA_VISIBLE_DEVICES shows only {visible!r}.")
    return resolve_device("cuda" if device else None)


def device_name(device: str) -> str:
    """The device as its maker names it, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {torch.get_num_threads()} threads"
