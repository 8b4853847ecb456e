"""A local server with as much of the Hugging Face hub as it takes to stream a data set."""

import json
import os
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import ROOT
from local_server import Answering, LocalServer


class DatasetHub(LocalServer):
    """As much of the hub as it takes to stream the data set `someone/set`.

    Attributes:
        files: by path, the content.
        revision: the commit.
        about: more that it says of the data set.
        sent: by path, how many bytes of each file were sent.
    """

    revision = "a" * 40

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.about: dict[str, Any] = {}
        self.sent: Counter[str] = Counter()
        server = self

        class Handler(Answering):
            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                what, _, rest = path.partition("/someone/set")
                if path == "/":
                    self.answer(b"")
                elif what == "/api/datasets" and rest.startswith("/tree/"):
                    folder = rest.removeprefix(f"/tree/{server.revision}").strip("/")
                    self._answer_json(self._listed(f"{folder}/" if folder else ""))
                elif what == "/api/datasets":
                    files = [{"rfilename": name} for name in server.files]
                    about = {"id": "someone/set", "sha": server.revision, "siblings": files,
                             **server.about}  # fmt: skip
                    known = rest in ("", f"/revision/{server.revision}")
                    self._answer_json(about) if known else self._absent("RevisionNotFound")
                elif what == "/datasets" and rest.startswith("/resolve/"):
                    self._answer_file(rest.split("/", 3)[3])
                else:
                    self._absent("RepoNotFound")

            do_HEAD = do_GET

            def _listed(self, folder: str) -> list[dict]:
                paths = [name for name in server.files if name.startswith(folder)]
                below = {folder + name.removeprefix(folder).split("/")[0] for name in paths}
                return [
                    {"type": "file", "path": name, "size": len(server.files[name]), "oid": "b" * 40}
                    if name in server.files
                    else {"type": "directory", "path": name, "oid": "c" * 40}
                    for name in sorted(below)
                ]

            def _answer_file(self, name: str) -> None:
                content = server.files.get(name)
                if content is None:
                    self._absent("EntryNotFound")
                    return
                headers = {"ETag": '"d"', "X-Repo-Commit": server.revision}
                if asked := self.headers.get("Range"):
                    start, end = asked.removeprefix("bytes=").split("-")
                    part = content[int(start) : int(end or len(content)) + 1]
                    last = int(start) + len(part) - 1
                    headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
                    server.sent[name] += len(part)
                    self.answer(part, 206, headers)
                else:
                    server.sent[name] += len(content) * (self.command != "HEAD")
                    self.answer(content, 200, headers)

            def _absent(self, code: str) -> None:
                self.answer(b"", 404, {"X-Error-Code": code})

            def _answer_json(self, value) -> None:
                self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

        super().__init__(Handler)

    def add_split(self, split: str, *columns: dict[str, list], config: str = "default") -> None:
        """A split of Parquet files, one for the columns of each; known from the card."""
        for number, part in enumerate(columns):
            buffer = BytesIO()
            pq.write_table(pa.table(part), buffer)
            self.files[f"{config}/{split}-{number}.parquet"] = buffer.getvalue()
        folders = sorted({name.rpartition("-")[0] for name in self.files if "/" in name})
        configs: dict[str, list] = {}
        for folder in folders:
            of, name = folder.split("/")
            configs.setdefault(of, []).append({"split": name, "path": f"{folder}-*.parquet"})
        listed = [{"config_name": of, "data_files": files} for of, files in configs.items()]
        self.files["README.md"] = f"---\nconfigs: {json.dumps(listed)}\n---\n".encode()


def hub_environment(folder: Path, endpoint: str) -> dict[str, str]:
    """For a process of its own: the libraries of the hub look at its address on import."""
    return {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)}  # fmt: skip
