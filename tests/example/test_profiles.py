"""Which form of the example is chosen."""

import pytest
import torch

from disret.command_line import UserError
from disret.example import profiles


def test_without_cuda_it_is_the_embedded_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert profiles.choose("auto") == "embedded"
    said = capsys.readouterr().err
    assert "no CUDA device" in said
    assert "PROFILE=paper forces" in said


def test_without_network_it_is_the_embedded_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("DISRET_MIRROR", ".")
    assert profiles.choose("auto") == "embedded"
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
    with pytest.raises(UserError, match="PROFILE=embedded can"):
        profiles.choose("paper")


def test_with_both_it_is_the_paper(monkeypatch):
    from local_server import FileServer

    server = FileServer()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", server.url)  # answers 404, as a hub's root may
    monkeypatch.setenv("DISRET_MIRROR", ".")
    assert profiles.choose("auto") == profiles.choose("paper") == "paper"
    server.close()
