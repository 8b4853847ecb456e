"""Devices: chosen, refused, and one for each training process."""

import contextlib
import os

import pytest

from disret.devices import device_name, resolve_device, training_device, world_size
from disret.terminal import UserError


def test_devices():
    import torch

    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match="cannot be used"):
        resolve_device("nonsense")
    if torch.cuda.is_available():
        assert resolve_device(None) == "cuda"
    else:
        assert resolve_device(None) == "cpu"
        with pytest.raises(UserError, match="no CUDA device"):
            resolve_device("cuda")


def test_training_sees_one_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with contextlib.suppress(UserError):  # such a device may be absent here
        training_device("cuda:1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert training_device("cpu") == "cpu"


def test_processes_of_torchrun(monkeypatch):
    assert world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world_size() == 4


def test_name_of_the_cpu():
    assert device_name("cpu").endswith("threads")
