"""Unpacking of archives that may be damaged or hostile."""

import tarfile
import zipfile
import zlib
from pathlib import Path

from disret.command_line import UserError
from disret.files import check_free_space


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into `folder`.

    The standard library keeps every member inside: zipfile drops `..` and leading slashes and
    makes no links, tarfile's filter `data` refuses what would lie outside or is no plain file.

    Raises:
        UserError: the archive is damaged or refused, or there is no room for its content.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                sizes = [info.file_size for info in zipped.infolist()]
                check_free_space(folder, sum(sizes), f"unpacking {archive.name}")
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                sizes = [member.size for member in tar]
                check_free_space(folder, sum(sizes), f"unpacking {archive.name}")
                tar.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"{archive} cannot be unpacked ({reason}); delete it and try again."
        ) from None
