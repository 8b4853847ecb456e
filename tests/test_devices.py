"""Devices: chosen, refused, and one for each training process."""

import contextlib
import os
import platform

import pytest
from conftest import as_rank_0_of

from disret import devices
from disret.command_line import UserError
from disret.devices import (
    device_name,
    has_bfloat16,
    mixed_precision,
    resolve_device,
    resolve_dtype,
    training_device,
    world_size,
)


def test_devices():
    import torch

    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match="cannot be used"):
        resolve_device("nonsense")
    with pytest.raises(UserError, match="meta cannot be used"):
        resolve_device("meta")
    if torch.cuda.is_available():
        assert resolve_device(None) == "cuda"
    else:
        assert resolve_device(None) == "cpu"
        with pytest.raises(UserError, match=r"cuda cannot be used: .*; choose another device"):
            resolve_device("cuda")


def test_a_gpu_without_a_number_is_the_current_one(monkeypatch):
    import torch

    made, chosen = torch.zeros(1), []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "ones", lambda *args, **kwargs: made)
    assert resolve_device("cuda") == "cuda"  # torch.cuda.set_device takes none without a number
    assert resolve_device("cuda:1") == "cuda:1"
    assert chosen == ["cuda:1"]  # of which torch's questions about bfloat16 are answered


def test_training_sees_one_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with contextlib.suppress(UserError):  # such a device may be absent here
        training_device("cuda:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES is '5', so there is no cuda:1"):
        training_device("cuda:1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with contextlib.suppress(UserError):
        training_device("cuda:3")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert training_device("cpu") == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # which the trainer would use


def test_a_driver_that_torch_cannot_use_is_said(monkeypatch, tmp_path, capsys):
    import torch

    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(devices, "DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(None) == "cpu"
    assert capsys.readouterr().err == (
        f"note: NVIDIA's driver is here, but torch {torch.__version__} finds no GPU, so it works "
        "on the CPU.\n"
    )


def test_a_card_without_code_is_refused(monkeypatch):
    """torch sees it, and fails at the first kernel."""
    import torch

    def fail(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\n")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(UserError, match="cuda:1 cannot be used: CUDA error: no kernel image"):
        resolve_device("cuda:1")


def test_float16_where_a_gpu_has_no_bfloat16(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert resolve_dtype("auto", "cuda") == mixed_precision("cuda") == "float16"


def test_processes_of_torchrun(monkeypatch):
    assert world_size() == 1
    as_rank_0_of(monkeypatch, 4)
    assert world_size() == 4


def test_a_scheduler_that_sets_a_number_of_processes_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="no LOCAL_RANK; start several processes with torchrun"):
        world_size()


def test_name_of_the_cpu():
    assert device_name("cpu").endswith("threads")


@pytest.fixture
def modern_cpu(monkeypatch):
    """A CPU with bfloat16, whatever this one has."""
    import torch

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def test_bfloat16_of_a_modern_cpu(modern_cpu, capsys):
    assert has_bfloat16("cpu")
    assert resolve_dtype("auto", "cpu") == mixed_precision("cpu") == "bfloat16"
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"
    assert not capsys.readouterr().err


def test_variables_of_x86_mean_nothing_elsewhere(modern_cpu, monkeypatch):
    import torch

    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert has_bfloat16("cpu")


@pytest.mark.parametrize("reason", ["cpu", "torch", "onednn"])
def test_no_bfloat16_where_it_would_be_emulated(modern_cpu, monkeypatch, capsys, reason):
    """The CPU lacks it, or torch or oneDNN may not use it: one rule for all that computes."""
    import torch

    if reason == "cpu":
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    elif reason == "torch":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert not has_bfloat16("cpu")
    assert resolve_dtype("auto", "cpu") == mixed_precision("cpu") == "float32"
    assert not capsys.readouterr().err
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"
    assert "emulates it" in capsys.readouterr().err
