"""Which device a process works on, what its maker calls it, and which versions run on it."""

import contextlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from disret.command_line import UserError, say

DRIVER = Path("/proc/driver/nvidia/version")


def share_of_cores(processes: int) -> int:
    """Threads for each of several processes on this machine."""
    return max(1, (os.cpu_count() or 1) // processes)


def world_size() -> int:
    """The number of processes that `torchrun` started; 1 without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and "LOCAL_RANK" not in os.environ:  # as some schedulers set it
        raise UserError(f"WORLD_SIZE is {size}, but there is no LOCAL_RANK; start several "
                        "processes with torchrun.")  # fmt: skip
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
            say(f"note: NVIDIA's driver is here, but torch {torch.__version__} finds no GPU, so it "
                "works on the CPU.")  # fmt: skip
    if device == "cuda" and world_size() > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.ones(1, device=device).item()  # torch may have no code for a card that it sees
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)  # of which torch and its libraries speak from now on
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the device {device} cannot be used: {reason}; choose another device."
        ) from None
    return device


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
        say(f"note: {device} has no bfloat16 and emulates it, which can take twenty times as long "
            "as float32.")  # fmt: skip
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
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the trainer would take what it sees
    if not (found := re.fullmatch(r"cuda:?(\d*)", device or "cuda")):
        return resolve_device(device)
    number = int(found[1] or 0)
    listed = [str(number)] * (number + 1) if visible is None else visible.split(",")
    if number >= len(listed):
        raise UserError(f"CUDA_VISIBLE_DEVICES is {visible!r}, so there is no {device}; choose "
                        "another device.")  # fmt: skip
    os.environ["CUDA_VISIBLE_DEVICES"] = listed[number]
    return resolve_device("cuda" if device else None)


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
