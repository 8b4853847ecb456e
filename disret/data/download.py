"""Verified download: resumed after a break, checked, unpacked, and in place only when whole."""

import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from disret import paths
from disret.command_line import UserError, is_out_of_space, progress_bar, say
from disret.data.catalog import Archive
from disret.files import checksum, install, is_as_noted, lock, note_checksum

if TYPE_CHECKING:
    import requests

ATTEMPTS = 5
TIMEOUT = (10, 60)  # seconds to connect, and without a byte


def mirror_from(option: str | None) -> str | None:
    """The mirror to use: the option, else `DISRET_MIRROR`, else none.

    Raises:
        UserError: the mirror is neither an address nor a directory.
    """
    mirror = option or os.environ.get("DISRET_MIRROR") or None
    if mirror and not _is_url(mirror) and not Path(mirror).is_dir():
        raise UserError(f"the mirror {mirror} is neither a directory nor an http address.")
    return mirror


def fetch(archive: Archive, mirror: str | None = None) -> Path:
    """Return the archive under `downloads/`, downloading it if it is not there yet.

    A broken transfer is taken up where it stopped, now or in a later run; of two processes that
    want the same archive, one waits for the other.

    Args:
        mirror: a directory or address that holds `archive.path`, as `mirror_from` gives it. The
            checksum is the one in its SHA256SUMS where it has one, else the archive's own.

    Raises:
        UserError: unreachable, absent, or another content than the checksum says.
    """
    target = paths.DOWNLOADS / archive.path
    partial = target.with_name(f"{target.name}.part")
    with lock(target):
        if is_as_noted(target):
            return target
        source, algorithm, expected = _where(archive, mirror)
        if target.exists():
            if checksum(target, algorithm) == expected:
                note_checksum(target)
                return target
            say(f"{target} is not what its checksum says; downloading it again.")
        if _is_url(source):
            _transfer(source, partial)
        elif Path(source).is_file():
            shutil.copyfile(source, partial)
        else:
            raise UserError(f"the mirror has no {source}.")
        found = checksum(partial, algorithm)
        if found != expected:
            partial.unlink()  # its beginning may be of an earlier run, and of another version
            raise UserError(
                f"{source} has {algorithm} {found}, expected {expected}; nothing was kept. The "
                "file was altered or replaced: try again, or another mirror."
            )
        partial.replace(target)
        note_checksum(target)
    return target


def fetch_folder(
    archive: Archive,
    folder: Path,
    needed: Sequence[str],
    mirror: str | None = None,
    inner: str = "",
) -> Path:
    """Download an archive and unpack it as `folder`, unless that is there.

    Args:
        needed: files without which the archive is not kept, wherever they lie in it.
        inner: the one folder that the archive holds, whose content is wanted.

    Raises:
        UserError: as `fetch`, or the archive cannot be unpacked, or lacks something.
    """

    def fill(partial: Path) -> None:
        path = fetch(archive, mirror)
        unpack(path, partial)
        content = partial / inner
        if lacking := [name for name in needed if not any(content.rglob(name))]:
            path.unlink()
            raise UserError(
                f"{path} did not hold {', '.join(lacking)}, so it was not kept; try again with "
                "another mirror."
            )
        if inner:
            for member in list(content.iterdir()):
                member.rename(partial / member.name)
            content.rmdir()

    return install(folder, fill)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive, perhaps damaged or hostile, into `folder`.

    The standard library keeps every member inside: zipfile drops `..` and leading slashes and
    makes no links, tarfile's filter `data` refuses what would lie outside. Links are refused here,
    as chains of them have passed that filter (CVE-2025-4517).

    Raises:
        UserError: the archive is damaged or refused.
    """

    def plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        if not (member.isfile() or member.isdir()):
            raise UserError(f"{archive} cannot be unpacked ({member.name!r} is no plain file).")
        return tarfile.data_filter(member, folder)

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter=plain)
    except UserError:
        raise
    except Exception as error:  # of each kind of compression its own, and of passwords
        if is_out_of_space(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        raise UserError(
            f"{archive} cannot be unpacked ({reason}); delete it and try again."
        ) from None


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _where(archive: Archive, mirror: str | None) -> tuple[str, str, str]:
    """Address or path of an archive, and the algorithm and value of its checksum."""
    published = ("sha256" if len(archive.digest) == 64 else "md5", archive.digest)
    if mirror is None:
        return archive.url, *published
    mirror = mirror.rstrip("/")
    source, sums = f"{mirror}/{archive.path}", f"{mirror}/SHA256SUMS"
    if not _is_url(mirror):
        listed = Path(sums).read_text(encoding="utf-8") if Path(sums).exists() else ""
    else:
        import requests

        try:
            response = requests.get(sums, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise _failed(sums, error) from None
        listed = response.text if response.ok else ""
    for line in listed.splitlines():
        digest, _, path = line.partition(" ")
        if path.lstrip(" *").removeprefix("./") == archive.path:
            return source, "sha256", digest.lower()
    return source, *published


def _transfer(url: str, partial: Path) -> None:
    """Bring what is at `url` to `partial`, going on from the bytes that are there already."""
    import requests

    for attempt in range(1, ATTEMPTS + 1):
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Accept-Encoding": "identity"}  # so that a part can be continued by bytes
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                if response.status_code == 416:  # the part is already as long as the file
                    return
                response.raise_for_status()
                start = have if response.status_code == 206 else 0
                total = start + int(response.headers.get("Content-Length", 0)) or None
                with (
                    partial.open("ab" if start else "wb") as file,
                    progress_bar(desc=partial.stem, total=total, initial=start, unit="B",
                                 unit_scale=True) as bar,
                ):  # fmt: skip
                    for block in response.iter_content(1 << 16):
                        file.write(block)
                        bar.update(len(block))
            return
        except requests.RequestException as error:
            is_final = error.response is not None and error.response.status_code < 500
            if is_final or attempt == ATTEMPTS:
                raise _failed(url, error) from None
        say(f"{url}: the connection broke; attempt {attempt + 1} of {ATTEMPTS}.")
        time.sleep(min(2**attempt, 8) / 4)


def _failed(url: str, error: "requests.RequestException") -> UserError:
    if error.response is not None:
        return UserError(f"{url} answers {error.response.status_code} {error.response.reason}.")
    return UserError(
        f"cannot reach {url} ({type(error).__name__}); what was downloaded is kept for the next "
        "try. Without a network, name a mirror, here or in DISRET_MIRROR."
    )
