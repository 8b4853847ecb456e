"""Files that appear whole or not at all, checksums, and locks."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError, at_end

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place if the block succeeds.

    On failure, a full disk included, the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a folder, which replaces the one at `path` if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Move the folder `new` to `path`; a folder that stands there is removed last."""
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.replace(old)
        new.replace(path)
        shutil.rmtree(old)
    else:
        new.replace(path)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the rights of new ones; safetensors lets only the owner read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def lock(path: Path) -> "BaseFileLock":
    """A lock beside `path`, for a `with` block that one process at a time may run."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def claim(path: Path) -> None:
    """Keep other runs away from an output until this script ends.

    Raises:
        UserError: another run is at work on it.
    """
    from filelock import Timeout

    held = lock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is at work on {path}; wait until it has ended.") from None
    at_end.callback(held.release)


def install(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Make a folder unless it is there; of several processes one does, and the others wait.

    Args:
        fill: puts the content into the folder that it is given, or fails and leaves nothing.
    """
    if not folder.exists():
        with lock(folder):
            if not folder.exists():
                with whole_folder(folder) as partial:
                    fill(partial)
    return folder


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def checksum_path(path: Path) -> Path:
    """Where the checksum of a file is noted, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def note_checksum(path: Path, digest: str | None = None) -> None:
    """Note a file's checksum beside it, once its content is on the disk itself.

    Args:
        digest: SHA-256 of the content, if it is known.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
    with whole_file(checksum_path(path)) as partial:
        partial.write_text(f"{digest or checksum(path)}  {path.name}\n")


def is_as_noted(path: Path) -> bool:
    """Whether a file is there, and has the checksum that is noted beside it."""
    noted = checksum_path(path)
    if not (path.exists() and noted.exists()):
        return False
    return noted.read_text(errors="replace").split()[:1] == [checksum(path)]


def text_sha256(texts: Iterable[str], settings: str = "") -> str:
    """SHA-256 of settings and of texts after them, in hexadecimal: the name of a cache's file."""
    digest = hashlib.sha256(settings.encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; None when it is absent or not JSON (a leftover of something else)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def check_writable(path: Path, is_file: bool = True) -> None:
    """Raise `UserError` unless a file, or a folder, can be made at `path`."""
    if is_file and path.is_dir():
        raise UserError(f"{path} is a directory; name a file.")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{path.name}.{os.getpid()}.probe"
        probe.touch()
        probe.unlink(missing_ok=True)  # another machine's process may have the same number
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}") from None


def check_free_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise `UserError` if fewer than `needed` bytes are free where `folder` is (or will be)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{purpose} needs about {needed / 1e9:.1f} GB in {folder}, "
            f"where only {free / 1e9:.1f} GB are free."
        )
