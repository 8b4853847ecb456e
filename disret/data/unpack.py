"""Unpacking of archives that may be damaged or hostile."""

import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from disret.command_line import UserError
from disret.files import check_free_space


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into `folder`, regular files and folders only.

    Raises:
        UserError: the archive is damaged, or has a member that would land outside `folder` or
            is a link; nothing is unpacked then.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for info in zipped.infolist():
                    _check(archive, info.filename, stat.S_ISLNK(info.external_attr >> 16))
                needed = sum(info.file_size for info in zipped.infolist())
                check_free_space(folder, needed, f"unpacking {archive.name}")
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                members = tar.getmembers()
                for member in members:
                    _check(archive, member.name, not (member.isreg() or member.isdir()))
                check_free_space(folder, sum(m.size for m in members), f"unpacking {archive.name}")
                tar.extractall(folder, members, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); delete it and try again.") from None


def _check(archive: Path, name: str, is_special: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise UserError(f"{archive} has a path outside its folder ({name}); it was not unpacked.")
    if is_special:
        raise UserError(f"{archive} has a link or special file ({name}); it was not unpacked.")
