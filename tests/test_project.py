"""What the files of the project promise each other."""

import subprocess

from conftest import ROOT


def test_requirements_differ_in_faiss_only():
    cpu, gpu = (
        [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        for name in ("requirements.txt", "requirements-gpu.txt")
    )
    assert [line.replace("faiss-cpu", "faiss-gpu") for line in cpu] == gpu
    assert cpu != gpu


def test_make_help_lists_the_targets():
    result = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    targets = [line.split()[0] for line in result.stdout.splitlines()]
    assert targets == [
        "help",
        "setup",
        "example",
        "dist",
        "bench",
        "speed",
        "sweep",
        "paper",
        "test",
        "lint",
        "clean",
    ]
