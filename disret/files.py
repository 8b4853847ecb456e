"""Files that appear whole or not at all, checksums, and locks."""

import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret.command_line import UserError, at_end, say

if TYPE_CHECKING:
    from filelock import BaseFileLock

PATIENCE = 2  # seconds at a lock, before it is said
LONGEST = 120  # letters of a name in that of a file
SHOWN = 200  # letters of a file's name in that of a temporary one
# Of this start of the system, and of processes' numbers, which a container has of its own.
BOOT, OWN_NUMBERS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def _beside(path: Path, what: str) -> Path:
    """A name beside `path` that nobody foresees; what a killed process has left is removed."""
    import psutil

    start = path.name[:SHOWN]
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{glob.escape(start)}.{_host()}-*.{what}"):
        process = old.suffixes[-2].split("-")[1]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            remove(old)
    return path.with_name(f".{start}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.{what}")


@cache
def _host() -> str:
    """This host since it was started, and on it what has process numbers of its own."""
    system = [platform.node()]
    with suppress(OSError):  # elsewhere than on Linux; containers may share the name of a host
        system += [BOOT.read_text(), str(OWN_NUMBERS.readlink())]
    return text_sha256(system)[:8]


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place if the block succeeds.

    On failure, a full disk included, the temporary file is removed and `path` is as it was. What
    `path` links to is replaced, with its rights, and not the link.

    Raises:
        UserError: what stands at `path` is a device or a pipe.
    """
    if path.exists():
        readable(path)
    path = path.resolve()
    partial = _beside(path, "partial")
    partial.touch(exist_ok=False)
    try:
        yield partial
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a folder, which replaces the one at `path` if there is one.

    Raises:
        UserError: what stands at `path` is no folder.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is in the way of a folder; move it elsewhere.")
    path = path.resolve()
    partial = _beside(path, "partial")
    partial.mkdir()
    try:
        yield partial
        replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Move the folder `new` to `path`, or to where that links; what stands there goes last."""
    path = path.resolve()
    old = _beside(path, "old")
    if path.exists():
        path.replace(old)
    new.replace(path)
    remove(old)


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the rights of new ones; safetensors lets only the owner read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def _lock_of(path: Path) -> "BaseFileLock":
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def lock(path: Path, work: str = "") -> Iterator[None]:
    """Let one process at a time run a `with` block; who waits for long is told for which `work`.

    Where nothing can be written there is nothing to lock: what is whole is read.
    """
    from filelock import Timeout

    try:
        held = _lock_of(path).acquire(timeout=PATIENCE)
    except Timeout:
        say(f"waiting for another run that {work or f'is at work on {path}'}.")
        held = _lock_of(path).acquire()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        held = nullcontext()
    with held:
        yield


def claim(path: Path) -> None:
    """Keep other runs away from an output until this script ends.

    Raises:
        UserError: another run is at work on it.
    """
    from filelock import Timeout

    held = _lock_of(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is at work on {path}; wait until it has ended.") from None

    def give_up() -> None:
        # Safe while it is held: who waits for it sees that the file has no name any more.
        Path(held.lock_file).unlink(missing_ok=True)
        held.release()

    at_end.callback(give_up)


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


def kept(path: Path, make: Callable[[Path], object]) -> Path:
    """Make a file, with its checksum beside it, unless it is there and as that says.

    Of several processes one makes it, and the others wait.

    Args:
        make: writes the whole content to the path that it is given.
    """
    if is_as_noted(path):
        return path
    with lock(path):
        if not is_as_noted(path):
            if path.exists():
                say(f"{path} is not as its checksum says; making it anew.")
            with whole_file(path) as partial:
                make(partial)
            note_checksum(path)
    return path


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def version_of(path: Path) -> tuple[int, ...]:
    """What differs once a file has changed: size, inode and times, that of any change among them.

    Raises:
        UserError: it is no file.
    """
    status = readable(path).stat()
    # `cp -p` and `rsync -t` set back the time of writing, and not the last.
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


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


def file_name(text: str) -> str:
    """A text as part of the name of a file; a long one ends in its digest."""
    name = re.sub(r"[^\w.+-]+", "--", text.strip("/."))
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{text_sha256([text])[:8]}"


def text_sha256(texts: Iterable[str], settings: str = "") -> str:
    """SHA-256 of settings and of texts after them, in hexadecimal: the name of a cache's file."""
    digest = hashlib.sha256(settings.encode())
    for text in texts:
        digest.update(text.encode().replace(b"\0", b"\xff") + b"\0")  # which no text has
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; None when it is absent or not JSON (a leftover of something else)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, RecursionError, ValueError):
        return None


def read_record(path: Path, needed: Mapping[str, type]) -> dict[str, Any] | None:
    """Read a JSON object that was written by `write_json`; None when there is no such object.

    Args:
        needed: the type of each value without which it is another object.
    """
    record = read_json(path)
    if isinstance(record, dict) and all(isinstance(record.get(n), needed[n]) for n in needed):
        return record
    return None


def readable(path: Path) -> Path:
    """The path, if it is that of a file: no folder, and no pipe to wait for.

    Raises:
        UserError: it is not.
    """
    if not path.exists():
        raise UserError(f"there is no file {path}.")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "no regular file"
        raise UserError(f"{path} is {kind}; name a file.")
    return path


def check_writable(path: Path, is_file: bool = True) -> None:
    """Raise `UserError` unless a file, or a folder, can be made at `path`."""
    if is_file and path.exists():
        readable(path)
    try:
        probe = _beside(path.resolve(), "probe")
        probe.touch()
        probe.unlink()
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
