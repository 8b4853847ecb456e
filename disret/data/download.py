"""Verified download: resumed after a break, checked, and in place only when whole."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from disret import paths
from disret.command_line import Unreachable, UserError, progress_bar, say
from disret.data.catalog import Archive
from disret.data.unpack import unpack
from disret.files import checksum, install, lock, readable

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
            checksum is the one in its SHA256SUMS where it has one, else the table's MD5.

    Raises:
        UserError: unreachable, absent, or another content than the checksum says.
    """
    target = paths.DOWNLOADS / archive.path
    if target.exists():
        return target
    with lock(target):
        if target.exists():
            return target
        algorithm, expected = _expected_checksum(archive, mirror)
        source = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.path}"
        partial = target.with_name(target.name + ".part")
        # A part left by an earlier run may come from another version of the file, so a wrong
        # checksum after a resumed transfer earns one fresh start.
        resumed = partial.exists()
        for last_try in (not resumed, True):
            _copy(source, partial)
            found = checksum(partial, algorithm)
            if found == expected:
                partial.replace(target)
                return target
            partial.unlink()
            if last_try:
                break
            say(f"{source}: the resumed download was not the expected file; starting again.")
        raise UserError(
            f"{source} has {algorithm} {found}, expected {expected}; nothing was kept. The file "
            "was altered or replaced: try later or another mirror."
        )


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def fetch_folder(
    archive: Archive,
    folder: Path,
    needed: Sequence[str],
    mirror: str | None = None,
    inner: str | None = None,
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
        lacking = [name for name in needed if not any(partial.rglob(name))]
        if inner is not None and not (partial / inner).is_dir():
            lacking.append(f"a folder {inner}")
        if lacking:
            path.unlink()
            raise UserError(
                f"{path} did not hold {', '.join(lacking)}, so it was not kept; try again with "
                "another mirror."
            )
        if inner is None:
            return
        for member in list((partial / inner).iterdir()):
            member.rename(partial / member.name)
        (partial / inner).rmdir()

    return install(folder, fill)


def _expected_checksum(archive: Archive, mirror: str | None) -> tuple[str, str]:
    if mirror is not None:
        listing = _read_text(f"{mirror.rstrip('/')}/SHA256SUMS")
        for line in listing.splitlines():
            digest, _, path = line.partition(" ")
            if path.lstrip(" *").removeprefix("./") == archive.path:
                return "sha256", digest.lower()
    return "md5", archive.md5


def _read_text(source: str) -> str:
    """A small text file, or nothing when there is none."""
    if not _is_url(source):
        path = Path(source)
        return readable(path).read_text(encoding="utf-8") if path.exists() else ""
    import requests

    try:
        response = requests.get(source, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(source, error) from None
    return response.text if response.ok else ""


def _copy(source: str, partial: Path) -> None:
    """Bring `source` to `partial`, going on from the bytes that are there already."""
    if _is_url(source):
        _transfer(source, partial)
        return
    if not Path(source).is_file():
        raise UserError(f"the mirror has no {source}.")
    try:
        shutil.copyfile(source, partial)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _transfer(url: str, partial: Path) -> None:
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
                _receive(response, partial, have if response.status_code == 206 else 0)
            return
        except requests.HTTPError as error:
            code = error.response.status_code
            if code < 500 or attempt == ATTEMPTS:
                raise UserError(f"{url} answers {code} {error.response.reason}.") from None
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                raise _unreachable(url, error) from None
        progressed = partial.exists() and partial.stat().st_size > have
        if not progressed:
            time.sleep(min(2 ** (attempt - 1), 8) / 2)
        say(f"{url}: the connection broke; attempt {attempt + 1} of {ATTEMPTS}.")


def _receive(response, partial: Path, offset: int) -> None:
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else None
    with (
        partial.open("ab" if offset else "wb") as file,
        progress_bar(
            desc=partial.name.removesuffix(".part"),
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
        ) as bar,
    ):
        try:
            for block in response.iter_content(1 << 16):
                file.write(block)
                bar.update(len(block))
        except OSError as error:
            import requests

            if not isinstance(error, requests.RequestException):
                file.close()
                partial.unlink(missing_ok=True)
            raise


def _unreachable(url: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"cannot reach {url} ({type(error).__name__}); what was downloaded is kept for the next try"
    )
