"""A local embedding service in OpenAI's protocol, which can refuse, err and lie."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from threading import Lock

import numpy as np
from local_server import LocalServer

KEY = "sk-a-secret-key-of-tests"


def letters(texts: list[str]) -> np.ndarray:
    """Vectors of length 1 by the letters of a text; the same for the same text."""
    counts = np.array([[text.lower().count(c) for c in "abcdefghijklmnop"] for text in texts])
    vectors = counts + 0.1 * np.array([[len(text) % (i + 2) for i in range(16)] for text in texts])
    vectors = vectors.astype(np.float32) + 0.01
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class EmbeddingService(LocalServer):
    """Answers `POST /v1/embeddings`.

    Attributes:
        embed: texts to vectors.
        faults: what goes wrong with the next requests: a status as a number, or `cut`, `few`,
            `nan`, `dimension`, `html`, `ragged`; nothing, where it is 0.
        key: asked for, if not None.
        texts: how often each text was embedded.
        requests: the bodies of all requests.
        paths: what they asked for.
        reorder: answer in another order, as the protocol allows.
        as_floats: answer with lists, whatever encoding was asked for.
        most: texts of a request, or if there is none any number.
        longest: letters of a text, or if there is none any number.
        refusal: status and words of a request that is too large.
        too_long: status and words of one with a text that is too long.
        form: what becomes of an answer.
        item: what becomes of an item of the answer, from it and its text.
        poison: a text that ends in an error of the server's own.
        route: where embeddings are.
    """

    def __init__(self, embed: Callable[[list[str]], np.ndarray] = letters) -> None:
        self.embed = embed
        self.faults: list[int | str] = []
        self.key: str | None = None
        self.texts: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.paths: list[str] = []
        self.reorder = False
        self.as_floats = False
        self.most: int | None = None
        self.longest: int | None = None
        self.refusal = 413, "batch size {} > maximum allowed batch size {}"
        self.too_long = 413, "`inputs` must have less than 512 tokens. Given: {}"
        self.form: Callable[[dict], dict | list] = lambda answer: answer
        self.item: Callable[[dict, str], dict] = lambda item, text: item
        self.poison = ""
        self.route = "/v1/embeddings"
        self.headers: list[dict[str, str]] = []
        self.lock = Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with service.lock:
                    fault = service.faults.pop(0) if service.faults else None
                    service.requests.append(body)
                    service.paths.append(self.path)
                    service.headers.append(dict(self.headers))
                longest = max(map(len, body["input"]))
                if self.path.partition("?")[0] != service.route:
                    self.answer(404, {"error": {"message": "no such route"}})
                elif service.key and self.headers["Authorization"] != f"Bearer {service.key}":
                    self.answer(401, {"error": {"message": f"no {self.headers['Authorization']}"}})
                elif body["model"] != "tiny":
                    self.answer(404, {"error": {"message": f"no model {body['model']}"}})
                elif service.most and len(body["input"]) > service.most:
                    status, words = service.refusal
                    said = words.format(len(body["input"]), service.most)
                    self.answer(status, {"message": said, "code": status})
                elif service.longest and longest > service.longest:
                    status, words = service.too_long
                    self.answer(status, {"message": words.format(longest), "code": status})
                elif service.poison and service.poison in body["input"]:
                    self.answer(500, {"error": {"message": "json: unsupported value: NaN"}})
                elif isinstance(fault, tuple):  # a status, and what comes with it
                    self.answer(*fault)
                elif isinstance(fault, int) and fault:
                    self.answer(fault, {"error": {"message": "for a while"}})
                elif fault == "cut":
                    self.close_connection = True
                elif fault == "html":
                    self.answer(200, "<html>welcome</html>", "text/html")
                else:
                    self.answer(200, service.form(service.respond(body, fault or None)))

            def answer(
                self, status: int, body, kind: str = "application/json", pause: str = "0.05"
            ) -> None:
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                if status in (429, 503):
                    self.send_header("Retry-After", pause)
                if status == 307:
                    self.send_header("Location", "http://127.0.0.1:9/v1")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args) -> None:
                pass

        super().__init__(Handler)
        self.address = f"{self.url}/v1"

    def respond(self, body: dict, fault: int | str | None) -> dict:
        texts = body["input"]
        vectors = self.embed(texts)[:, : body.get("dimensions")]
        if fault == "nan":
            vectors[0, 0] = np.nan
        if fault == "dimension":
            vectors = vectors[:, :-1]
        rows = list(enumerate(vectors))
        if fault == "few":
            rows = rows[1:]
        if fault == "ragged":
            rows[0] = (0, rows[0][1][:-1])
        if fault is None:
            with self.lock:
                self.texts.update(texts)
        if self.reorder:
            rows.reverse()
        as_floats = self.as_floats or body.get("encoding_format") != "base64"

        def item(row: int, vector: np.ndarray) -> dict:
            packed = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            embedding = vector.tolist() if as_floats else packed
            return {"object": "embedding", "index": row, "embedding": embedding}

        return {
            "object": "list",
            "model": body["model"],
            "data": [self.item(item(row, vector), texts[row]) for row, vector in rows],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }  # fmt: skip
