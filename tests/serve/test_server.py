"""The server, asked by clients that others wrote, and by those who mean no good."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest
from conftest import ROOT
from tiny import save_encoder

from disret.distil.static import student_of_tokens
from disret.encode.models import load_encoder
from disret.query_encoder import QueryEncoder
from disret.serve.export import export

KEY = "sk-a-key-of-tests"
NODE = ROOT / ".node-runtimes"  # by make runtimes
QUERIES = [f"who has seen {i * 3} things in {i} days" for i in range(40)]
TEXTS = ["a", "Größe, 東京; naïve!", "a long text " * 50, *QUERIES[:5]]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the students `two` and `static`."""
    folder = tmp_path_factory.mktemp("models")
    two = load_encoder(str(save_encoder(folder / "two", layers=2)), "cpu")
    static = student_of_tokens(two)
    static.save_pretrained(str(folder / "static"))
    for name, model in {"two": two, "static": static}.items():
        export(model, folder / name, QUERIES, folder / name)
    return folder


class Server:
    """`python -m disret.serve`, until it is closed.

    Attributes:
        url: of its `/v1`.
        http: a client that has the key.
    """

    def __init__(self, folder: Path, *arguments: object, key: str | None = KEY) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = folder / f"{port}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment |= {"DISRET_API_KEY": key} if key else {}
        command = [sys.executable, "-m", "disret.serve", *map(str, arguments), "--port", str(port)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.at = f"http://127.0.0.1:{port}"
        self.url = f"{self.at}/v1"
        self.http = httpx.Client(
            base_url=self.at, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                if self.http.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self.log.read_text()[-2000:])

    def embed(self, texts: object, model: str = "static") -> httpx.Response:
        return self.http.post("/v1/embeddings", json={"model": model, "input": texts})

    def measured(self, name: str) -> float:
        """The sum of a measure over its labels."""
        shown = self.http.get("/metrics").text
        found = re.findall(rf"^disret_{name}(?:{{.*}})? (\S+)$", shown, re.MULTILINE)
        return sum(map(float, found))

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


@contextmanager
def serving(folder: Path, *arguments: object, **kwargs: str | None) -> Iterator[Server]:
    server = Server(folder, *arguments, **kwargs)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with serving(
        tmp_path_factory.mktemp("logs"), f"two,text-embedding-3-small={models}/two",
        models / "static", f"{models}/two@int8", "--max-characters", 20_000,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def encoders(models) -> dict[str, QueryEncoder]:
    return {
        "two": QueryEncoder.from_pretrained(models / "two", num_threads=1),
        "text-embedding-3-small": QueryEncoder.from_pretrained(models / "two", num_threads=1),
        "static": QueryEncoder.from_pretrained(models / "static"),
        "two@int8": QueryEncoder.from_pretrained(models / "two", "int8", num_threads=1),
    }


# --- Clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two", "text-embedding-3-small", "static", "two@int8"])
def test_openai(server, encoders, name):
    client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    expected = encoders[name].encode(TEXTS)
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = client.embeddings.create(model=name, input=TEXTS, user="someone", **encoding)
        data = [one.embedding for one in answer.data]
        if isinstance(data[0], str):
            import base64

            data = [np.frombuffer(base64.b64decode(one), "<f4") for one in data]
        np.testing.assert_array_equal(np.array(data, np.float32), expected)
        assert [one.index for one in answer.data] == list(range(len(TEXTS)))
    tokens = sum(len(one) for one in encoders[name].tokenise(TEXTS))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    one = client.embeddings.create(model=name, input=TEXTS[1], encoding_format="float")
    np.testing.assert_array_equal(
        np.float32(one.data[0].embedding), encoders[name].encode([TEXTS[1]])[0]
    )
    assert name in [model.id for model in client.models.list()]
    assert client.models.retrieve(name).id == name


def test_langchain(server, encoders):
    from langchain_openai import OpenAIEmbeddings

    def asking(**more):
        return OpenAIEmbeddings(model="static", base_url=server.url, api_key=KEY, **more)

    found = asking(check_embedding_ctx_length=False).embed_documents(TEXTS)
    np.testing.assert_array_equal(np.float32(found), encoders["static"].encode(TEXTS))


def test_token_ids_are_refused_with_what_to_do(server):
    """As LangChain sends them unless it is told otherwise."""
    client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    for ids in ([1, 2, 3], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model="static", input=ids)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server, encoders):
    body = json.dumps({"model": "static", "input": "one text"})
    heads = ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
    command = ["curl", "-sS", "--fail", *heads, "-d", body, f"{server.url}/embeddings"]
    answer = json.loads(subprocess.check_output(command))
    np.testing.assert_array_equal(
        np.float32(answer["data"][0]["embedding"]), encoders["static"].encode(["one text"])[0]
    )


def test_this_projects_own_commands(server, encoders, monkeypatch, home):
    """What a server of students answers, `--query-encoder https://HOST/v1#NAME` scores."""
    from disret.encode.encoders import open_encoder

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    encoder = open_encoder(f"{server.url}#static")
    np.testing.assert_array_equal(encoder.encode_query(TEXTS), encoders["static"].encode(TEXTS))


JAVASCRIPT = """
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, input] = JSON.parse(readFileSync(0));
const client = new OpenAI({ baseURL, apiKey });
const answer = await client.embeddings.create({ model: "static", input });
console.log(JSON.stringify(answer.data.map((one) => one.embedding)));
"""


@pytest.mark.skipif(
    not (NODE / "node_modules" / "openai").exists(), reason="no client for Node: make runtimes"
)
def test_node(server, encoders):
    program = NODE / "ask.mjs"
    program.write_text(JAVASCRIPT)
    shown = subprocess.check_output(
        ["node", program.name], cwd=NODE, text=True, input=json.dumps([server.url, KEY, TEXTS])
    )
    np.testing.assert_array_equal(np.float32(json.loads(shown)), encoders["static"].encode(TEXTS))


# --- What is refused ------------------------------------------------------------------------------

GOOD = {"model": "static", "input": "a"}
MALFORMED = [
    b"", b"{", b"[]", b"null", b"3", b'"a"', b"\xff\xfe", b"{}", b"{'model': 'static'}",
    b'{"model": "static"}', b'{"input": "a"}', b'{"model": "static", "input": "a"',
    b'{"model": "static", "input": "\\ud800"}', b'{"model": "\\ud800", "input": "a"}',
    b'{"model": "static", "input": ["a", "\\udfff"]}', b"[" * 100_000, b'{"a":' * 50_000,
    b'{"model": "static", "input": NaN}', b"\x00" * 100,
    *(json.dumps(GOOD | {name: value}).encode()
      for name, values in {
          "model": [1, None, [], {}, "", "nothing", "STATIC", " static", "../static", "x" * 10_000,
                    True, "\x1b[31m", "two@int4"],
          "input": [None, 1, 1.5, True, {}, [], "", [""], ["a", ""], [None], [[]], [["a"]], [{}],
                    {"text": "a"}, [1, "a"], [1.5], [[1], "a"], [[1.5]], ["a"] * 3000, "x" * 30_000,
                    ["x" * 15_000] * 2, [True], [[None]], [[[1]]], 10**400],
          "encoding_format": ["hex", 1, None, "", [], "FLOAT", "base64 "],
          "dimensions": [0, -1, 1, 31, 33, 10**20, 1.5, "a", [], {}, "32a", 1e300],
      }.items() for value in values),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_what_is_malformed_is_refused_in_the_shape_of_errors(server, number):
    answer = server.http.post(
        "/v1/embeddings", content=MALFORMED[number], headers={"Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) < 400
    assert error["type"] == "invalid_request_error"


def test_enough_is_malformed():
    assert len(MALFORMED) + 2 >= 75


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/embeddings", 405), ("POST", "/v1/completions", 404), ("GET", "/", 404),
     ("GET", "/v1/models/nothing", 404), ("GET", "/docs", 404), ("DELETE", "/health", 405)],
)  # fmt: skip
def test_other_paths(server, method, path, status):
    answer = server.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_key_is_asked_for_and_never_shown(server):
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
        answer = httpx.post(f"{server.url}/embeddings", json=GOOD, headers=header)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{server.at}/metrics").status_code == 401
    assert httpx.get(f"{server.at}/health").status_code == 200
    assert KEY not in server.log.read_text() + server.http.get("/metrics").text


def test_a_large_body_is_refused_before_it_is_read(server):
    with socket.create_connection(server.at.removeprefix("http://").split(":")) as raw:
        head = (f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")  # fmt: skip
        raw.sendall(head.encode() + b"x" * 1000)
        assert b" 413 " in raw.recv(1000).splitlines()[0]

    def chunks():
        for _ in range(100_000):
            yield b" " * 10_000

    before = psutil.Process(server.process.pid).memory_info().rss
    with suppress(httpx.TransportError):  # it may be refused while it is sent
        assert server.http.post("/v1/embeddings", content=chunks()).status_code == 413
    assert psutil.Process(server.process.pid).memory_info().rss < before + 100e6
    assert server.embed("a").status_code == 200


def test_schemathesis(server, tmp_path):
    """From the server's own description; no answer is a failure of the server."""
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{server.at}/openapi.json",
               "-H", f"Authorization: Bearer {KEY}", "--checks",
               "not_a_server_error,status_code_conformance,content_type_conformance",
               "--max-examples", "60", "--seed", "1", "--no-color", "--phases",
               "examples,coverage,fuzzing"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    generated, passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups()
    assert int(passed) == int(generated) > 100


# --- Together -------------------------------------------------------------------------------------


def test_requests_that_wait_are_encoded_together(models, tmp_path, encoders):
    with serving(tmp_path, models / "two", key=None) as server:
        with ThreadPoolExecutor(32) as threads:
            answers = list(threads.map(lambda text: server.embed(text, "two"), QUERIES * 10))
        found = np.float32([answer.json()["data"][0]["embedding"] for answer in answers])
        np.testing.assert_allclose(found, encoders["two"].encode(QUERIES * 10), atol=1e-6)
        assert server.measured("requests_total") >= 400
        assert server.measured("texts_total") == 400
        assert server.measured("batch_texts_sum") == 400
        assert server.measured("batch_texts_count") < 300


def test_a_cache_answers_what_was_asked_before(models, tmp_path, encoders):
    with serving(tmp_path, models / "static", "--cache", 3) as server:
        expected = encoders["static"].encode(["one", "two", "three"])
        for asked in (["one", "two", "one"], ["two", "three"], ["four"], ["two"], ["one"]):
            answer = server.embed(asked).json()
            for text, one in zip(asked, answer["data"], strict=True):
                if text != "four":
                    wanted = expected[["one", "two", "three"].index(text)]
                    np.testing.assert_allclose(np.float32(one["embedding"]), wanted, atol=1e-6)
        # Three are kept: as `four` came, `one` was the oldest.
        assert server.measured("cache_hits_total") == 2
        assert server.measured("cache_misses_total") == 5
        tokens = [server.embed("two").json()["usage"] for _ in range(2)]
        assert tokens[0] == tokens[1]


def test_vectors_are_cut_where_that_is_allowed(models, tmp_path, encoders):
    with serving(tmp_path, models / "static", "--matryoshka") as server:
        body = {"model": "static", "input": QUERIES, "dimensions": 16}
        answer = server.http.post("/v1/embeddings", json=body).json()
        cut = encoders["static"].encode(QUERIES)[:, :16]
        expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        found = [one["embedding"] for one in answer["data"]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_thousand_connections(models, tmp_path):
    async def ask(at: str) -> list[int]:
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
        async with httpx.AsyncClient(base_url=at, limits=limits, timeout=120) as client:
            calls = (client.post("/v1/embeddings", json=GOOD) for _ in range(1000))
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    with serving(tmp_path, models / "static", key=None) as server:
        assert set(asyncio.run(ask(server.at))) == {200}
    with serving(tmp_path, models / "static", "--max-requests", 5, key=None) as server:
        statuses = asyncio.run(ask(server.at))
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= 5
        assert server.http.get("/health").status_code == 200
        assert server.embed("a").status_code == 200


# --- Faults ---------------------------------------------------------------------------------------


def test_a_client_that_sends_a_byte_now_and_then(models, tmp_path):
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with (
        serving(tmp_path, models / "static", "--timeout", 1, key=None) as server,
        socket.create_connection(server.at.removeprefix("http://").split(":")) as raw,
    ):
        raw.sendall(head)
        raw.settimeout(0.3)
        answer, start = b"", time.monotonic()
        while not answer and time.monotonic() - start < 20:
            raw.sendall(b" ")
            assert server.embed("a").status_code == 200  # others are not kept waiting
            with suppress(TimeoutError):
                answer = raw.recv(1000)
        assert b" 408 " in answer.splitlines()[0]


@pytest.mark.kill
def test_sigterm_loses_no_request(models, tmp_path):
    """Those that were accepted are answered, and the server ends."""
    server = Server(tmp_path, models / "two", key=None)
    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(server.embed, QUERIES * 40, "two") for _ in range(16)]
        while server.measured("batch_texts_count") < 1:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        answers = []
        for one in calls:
            try:
                answers.append(one.result().status_code)
            except httpx.ConnectError:
                answers.append(None)  # it came too late to be accepted
        assert set(answers) <= {200, None}
        assert answers.count(200) >= 8
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.kill
def test_a_worker_that_is_killed_is_replaced(models, tmp_path):
    with serving(tmp_path, models / "static", "--workers", 2, key=None) as server:
        assert server.embed("a").status_code == 200
        workers = [child for child in psutil.Process(server.process.pid).children()
                   if "spawn_main" in " ".join(child.cmdline())]  # fmt: skip
        assert len(workers) == 2
        workers[0].kill()
        lost = 0
        for _ in range(100):
            try:
                assert httpx.post(f"{server.url}/embeddings", json=GOOD).status_code == 200
            except httpx.TransportError:
                lost += 1
            time.sleep(0.02)
        assert lost < 20
        assert server.measured("texts_total") >= 50


# --- The command ----------------------------------------------------------------------------------


def test_it_needs_no_torch(models):
    code = (
        "import sys; from disret.serve import __main__ as m\n"
        "m.application(m.parse_args(sys.argv[1:]))\n"
        "print([n for n in ('torch', 'transformers', 'pandas', 'faiss') if n in sys.modules])"
    )
    shown = subprocess.check_output(
        [sys.executable, "-c", code, str(models / "two")], cwd=ROOT, text=True
    )
    assert shown == "[]\n"


def test_a_port_that_is_taken(server, models):
    command = [sys.executable, "-m", "disret.serve", models / "two", "--port",
               server.at.rpartition(":")[2]]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "Address already in use" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no student nowhere"),
        (["{models}"], "holds no exported query encoder"),
        (["{models}/two@int8", "two@int8={models}/static"], "two students answer to two@int8"),
        (["{models}/two", "--index-of", "{models}/other.json"], "but .*other.json is of another"),
        (["{models}/two", "--port", "0"], "must be from 1 to 65535"),
        (["{models}/two", "--port", "99999"], "must be from 1 to 65535"),
    ],
)
def test_bad_arguments(models, arguments, said):
    other = {"encoder_sha256": "0" * 64, "dimension": 32, "encoder": "another"}
    (models / "other.json").write_text(json.dumps(other))
    words = [word.format(models=models) for word in arguments]
    done = subprocess.run([sys.executable, "-m", "disret.serve", *words], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert re.search(said, done.stderr)


@pytest.mark.parametrize("key", ["", " ", "two words", "ключ"])
def test_a_key_that_is_none(models, key):
    """An empty variable would have opened the door in silence."""
    done = subprocess.run(
        [sys.executable, "-m", "disret.serve", models / "two"], cwd=ROOT, capture_output=True,
        text=True, check=False, env={**os.environ, "DISRET_API_KEY": key},
    )  # fmt: skip
    assert done.returncode == 2
    assert "DISRET_API_KEY is empty, or has spaces" in done.stderr


def test_an_open_door_is_said(models, tmp_path):
    with serving(tmp_path, models / "static", "--host", "0.0.0.0", key=None) as server:
        assert "note: anyone who reaches 0.0.0.0 may ask" in server.log.read_text()
