"""A local server with as much of the Hugging Face hub as an upload needs."""

import base64
import json

from local_server import Answering, LocalServer


class LocalHub(LocalServer):
    """Takes uploads of small files.

    Attributes:
        url: for HF_ENDPOINT.
        token: the one that is known; another is refused.
        role: what that token may do, `write` or `read`.
        repositories: by name, the files of each.
    """

    token = "hf_right"
    role = "write"

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        server = self

        class Handler(Answering):
            def do_GET(self) -> None:
                self._answer({}, 200 if self.path == "/" else 404)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                body = self._body()
                if self._is_unknown():
                    self._answer({})
                elif server.role == "read":
                    self._answer({"error": "this token may only read"}, 403)
                elif self.path == "/api/repos/create":
                    request = json.loads(body)
                    owner = request.get("organization") or "someone"
                    name = f"{owner}/{request['name']}"
                    server.repositories.setdefault(name, {})
                    self._answer({"url": f"{server.url}/{name}", "name": name})
                elif self.path == "/api/validate-yaml":
                    self._answer({"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    self._answer({"files": [{"path": f["path"], **regular} for f in files]})
                elif "/commit/" in self.path:
                    name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                    for line in body.decode().splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            server.repositories[name][entry["value"]["path"]] = content
                    self._answer({"commitUrl": f"{server.url}/{name}/commit/1", "commitOid": "1"})
                else:
                    self._answer({}, 404)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers["Content-Length"]))

            def _is_unknown(self) -> bool:
                return self.headers.get("Authorization") != f"Bearer {server.token}"

            def _answer(self, value: dict, status: int = 200) -> None:
                if self._is_unknown() and self.path.startswith("/api/"):
                    status, value = 401, {"error": "Invalid credentials"}
                self.answer(json.dumps(value).encode(), status)

        super().__init__(Handler)
