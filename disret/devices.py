"""Which device a process works on, what its maker calls it, and which versions run on it."""

import contextlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from disret.command_line import UserError, say

_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
DRIVER = Path("/proc/driver/nvidia/version")
# The oldest driver for each major version, by NVIDIA's CUDA compatibility guide.
DRIVER_OF_CUDA = {"11": 450, "12": 525, "13": 580}


def share_of_cores(processes: int) -> int:
    """Threads for each of several processes on this machine."""
    return max(1, (os.cpu_count() or 1) // processes)


def world_size() -> int:
    """The number of processes that `torchrun` started; 1 without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    absent = [name for name in _OF_TORCHRUN if name not in os.environ]
    if size > 1 and absent:
        raise UserError(
            f"the variable WORLD_SIZE is {size}, but there is no {absent[0]}; start several "
            "processes with torchrun."
        )
    return size


def resolve_device(device: str | None) -> str:
    """The device to use: the one asked for, else CUDA where there is one, else the CPU.

    Under `torchrun`, each process of a machine gets a GPU of its own.

    Raises:
        UserError: no such device here.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and DRIVER.exists():
            say(f"note: {_why_no_cuda()}, so it works on the CPU.")
    if device == "cuda" and world_size() > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        kind = torch.device(device).type
        if kind == "meta":
            raise RuntimeError("it computes nothing")
        if kind == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(_why_no_cuda())
        if kind == "cuda" and torch.device(device).index is not None:
            torch.cuda.set_device(device)  # of which torch and its libraries speak from now on
        torch.ones(1, device=device).add_(1)  # torch may have no code for a card that it sees
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the device {device} cannot be used: {reason}; choose another device."
        ) from None
    return device


def _why_no_cuda() -> str:
    """What keeps torch from a GPU."""
    import torch

    if not DRIVER.exists():
        return "no CUDA device is present here"
    found = re.search(r"Module.*?(\d+\.[\d.]+)", DRIVER.read_text())
    driver = f"NVIDIA's driver {found[1]} is here" if found else "a driver of NVIDIA is here"
    if (cuda := torch.version.cuda) is None:
        return f"{driver}, but torch {torch.__version__} was built without CUDA"
    needed = DRIVER_OF_CUDA.get(cuda.partition(".")[0])
    needs = f"CUDA {cuda}" + (f", which needs driver {needed} or newer" if needed else "")
    return f"{driver}, but torch finds no GPU; it was built for {needs}"


def has_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 itself, instead of by a slow emulation.

    Of a CPU, what torch and oneDNN may use counts: the variables `ATEN_CPU_CAPABILITY` and
    `ONEDNN_MAX_CPU_ISA` can hold them to older instructions.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    if not any("bf16" in name and there for name, there in capabilities.items()):
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2") and any(
        name in limit for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
    )


def resolve_dtype(dtype: str, device: str) -> str:
    """The precision to encode in.

    `auto` is bfloat16 where the device has it, float16 on other GPUs, and float32 on other CPUs.
    """
    if dtype == "auto":
        return mixed_precision(device)
    if dtype == "bfloat16" and not has_bfloat16(device):
        say(
            f"note: {device} has no bfloat16 and emulates it, which can take twenty times as long "
            "as float32."
        )
    return dtype


def mixed_precision(device: str) -> str:
    """The lower precision that pays: bfloat16 where the device has it, float16 on other GPUs.

    A CPU without bfloat16 has none, so there it is float32.
    """
    import torch

    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if torch.device(device).type == "cuda" else "float32"


def training_device(device: str | None) -> str:
    """Like `resolve_device`, for a process that trains; keeps the trainer to one GPU a process.

    The trainer takes the first GPU it sees, and spreads a batch over all of them where it sees
    several, so this process is shown one only. To be called before torch looks for devices.
    """
    if world_size() > 1:
        return resolve_device(device)
    kind, _, number = (device or "cuda").partition(":")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the trainer would take what it sees
    if kind != "cuda" or not (number or "0").isdigit():
        return resolve_device(device)
    visible, wanted = os.environ.get("CUDA_VISIBLE_DEVICES"), int(number or 0)
    listed = visible.split(",") if visible is not None else list(map(str, range(wanted + 1)))
    if wanted >= len(listed):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES shows only {visible!r}, so there is no {device}; choose another "
            "device."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = listed[wanted]
    try:
        return resolve_device("cuda" if device else None)
    except UserError:
        if number:
            raise UserError(f"there is no device {device} here; choose another device.") from None
        raise


def device_name(device: str) -> str:
    """The device as its maker names it, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    return f"{name}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Python and the packages that decide a result or its speed."""
    names = (
        "torch", "transformers", "sentence-transformers", "accelerate", "datasets", "beir",
        "faiss-cpu", "faiss-gpu", "tokenizers", "onnxruntime",
    )  # fmt: skip
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
