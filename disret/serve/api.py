"""OpenAI's `/v1/embeddings`, answered by students: an ASGI application, without torch."""

import asyncio
import base64
import gc
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from disret.command_line import UserError
from disret.query_encoder import QueryEncoder
from disret.serve.batching import Batcher
from disret.serve.measures import NO_STUDENT, Measures, exposition

if TYPE_CHECKING:
    from disret.serve.comparison import Comparison
    from disret.serve.watch import Watch

KINDS = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
BYTES = 12  # of a character in JSON, at most: two escapes of a surrogate
OPEN = "/health"  # asks for no key


class Limits(NamedTuple):
    """What a request may be.

    Attributes:
        texts: of a request, at most.
        characters: of all its texts.
        requests: in work at once.
        seconds: to receive a request and to answer it.
    """

    texts: int = 2048
    characters: int = 200_000
    requests: int = 1024
    seconds: float = 30.0


class Student(NamedTuple):
    """A student as it is served.

    Attributes:
        name: that answers bear.
        matryoshka: whether a vector may be cut, as the teacher's can.
        watch: what looks at answers, if anything does.
    """

    name: str
    encoder: QueryEncoder
    batcher: Batcher
    measures: Measures
    matryoshka: bool
    watch: "Watch | None" = None


class Asked(BaseModel):
    """What `POST /v1/embeddings` takes; other fields are ignored, as `user` is."""

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)


class Refused(Exception):
    """An answer in OpenAI's shape of errors."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


def create_app(
    students: Mapping[str, Student],
    limits: Limits,
    key: str | None = None,
    comparison: "Comparison | None" = None,
) -> FastAPI:
    """The application.

    Args:
        students: by each name that they answer to.
        key: that a client has to bear, if any.
        comparison: what the page at `/` shows, if there is one.
    """
    # No pages of FastAPI's: they load scripts from elsewhere.
    app = FastAPI(title="disret", docs_url=None, redoc_url=None, lifespan=_settled)
    app.add_middleware(Guard, limits=limits, key=key)
    started = int(time.time())

    example = {"model": next(iter(students)), "input": ["a text", "another"]}
    asked = {"schema": Asked.model_json_schema() | {"examples": [example]}}
    described = {"requestBody": {"required": True, "content": {"application/json": asked}}}

    @app.post(
        "/v1/embeddings", responses=_errors(400, 401, 404, 408, 413, 503), openapi_extra=described
    )
    async def embeddings(request: Request) -> Response:
        try:  # by pydantic itself, in half of FastAPI's time
            body = Asked.model_validate_json(await request.body())
        except ValidationError as error:
            raise _malformed(error.errors(include_url=False, include_input=False)) from None
        student = _named(students, body.model)
        request.scope["measures"] = student.measures
        texts = _texts_of(body, limits)
        size = _size(body, student)
        vectors, tokens = await student.batcher.embed(texts)
        student.measures.sent(len(texts), tokens)
        if student.watch is not None:
            student.watch.offer(texts, vectors)
        if size < student.encoder.dimension:  # as long as the whole ones were
            whole, vectors = np.linalg.norm(vectors, axis=1, keepdims=True), vectors[:, :size]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * whole
        return _json({
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": _sent(vector, body)}
                     for i, vector in enumerate(vectors)],
            "model": student.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        })  # fmt: skip

    @app.get("/v1/models", responses=_errors(401))
    async def models() -> Response:
        return _json({"object": "list", "data": [about(name) for name in students]})

    @app.get("/v1/models/{name:path}", responses=_errors(401, 404))
    async def model(name: str) -> Response:
        _named(students, name)
        return _json(about(name))

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/metrics", responses=_errors(401), response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4")

    if comparison is not None:
        _add_page(app, comparison)

    def about(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "disret"}

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> Response:
        return _error(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> Response:
        return _error(_malformed(error.errors()))

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        return _error(Refused(error.status_code, f"{error.detail}."), error.headers)

    @app.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> Response:
        return _error(Refused(500, f"{type(error).__name__}; the server's log has more."))

    return app


def _malformed(errors: Sequence[Any]) -> Refused:
    """The first of pydantic's errors."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query")]
    param = place[0] if place else None
    what = f"'{param}': " if param else ""
    return Refused(400, f"{what}{first['msg'][:200]}.", param)


def _add_page(app: FastAPI, comparison: "Comparison") -> None:
    """`/`, and what it asks."""
    from disret.serve.comparison import page

    content, policy = page()
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
               "Referrer-Policy": "no-referrer"}  # fmt: skip

    @app.get("/", include_in_schema=False)
    async def show() -> Response:
        return Response(content, headers=headers, media_type="text/html; charset=utf-8")

    @app.get("/queries", include_in_schema=False)
    async def queries() -> Response:
        return _json(comparison.queries)

    @app.get("/search", include_in_schema=False)
    def search(q: Annotated[str, Query(min_length=1, max_length=2000)]) -> Response:
        try:
            return _json(comparison.search(q))  # in a thread
        except UserError as error:  # of a teacher that does not answer
            raise Refused(502, str(error)) from None


@asynccontextmanager
async def _settled(_app: FastAPI) -> AsyncIterator[None]:
    """What is there at the start stays: the collector of garbage need not look at it again."""
    gc.collect()
    gc.freeze()
    yield


def _named(students: Mapping[str, Student], name: str) -> Student:
    if name not in students:
        known = ", ".join(students)
        raise Refused(404, f"The model {name[:100]!r} does not exist; there are {known}.", "model",
                      "model_not_found")  # fmt: skip
    return students[name]


def _texts_of(body: Asked, limits: Limits) -> list[str]:
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(isinstance(text, str) for text in texts):
        raise Refused(
            400,
            "'input' must be a string or an array of strings: this model has a tokenizer of its "
            "own, and takes no token ids (LangChain: check_embedding_ctx_length=False).",
            "input",
        )
    if not texts or not all(texts):
        what = "an empty string" if texts else "an empty array"
        raise Refused(400, f"'input' cannot be {what}.", "input")
    if len(texts) > limits.texts:
        raise Refused(400, f"'input' has {len(texts):,} texts; {limits.texts:,} may be sent at "
                      "once.", "input")  # fmt: skip
    together = "".join(texts)
    try:
        together.encode()
    except UnicodeEncodeError:  # half of a character that JSON writes as two
        raise Refused(400, "'input' is no Unicode text.", "input") from None
    if (letters := len(together)) > limits.characters:
        raise Refused(400, f"'input' has {letters:,} characters; {limits.characters:,} may be "
                      "sent at once.", "input")  # fmt: skip
    return texts


def _size(body: Asked, student: Student) -> int:
    whole = student.encoder.dimension
    size = body.dimensions or whole
    if size != whole and not (student.matryoshka and size < whole):
        at_most = " at most" if student.matryoshka else ""
        message = f"This model's embeddings have {whole} dimensions{at_most}, not {size}."
        raise Refused(400, message, "dimensions")
    return size


def _sent(vector: np.ndarray, body: Asked) -> np.ndarray | str:
    if body.encoding_format == "float":
        return np.ascontiguousarray(vector)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, "application/json")


def _error(error: Refused, headers: Mapping[str, str] | None = None) -> Response:
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else KINDS[500])
    return _json(
        {"error": {"message": error.message, "type": kind, "param": error.param,
                   "code": error.code}}, error.status, headers)  # fmt: skip


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the description of the protocol."""
    return {status: {"description": HTTPStatus(status).phrase} for status in statuses}


class Guard:
    """Keys and limits, before anything is parsed; and what is counted of every request."""

    def __init__(self, app: Any, limits: Limits, key: str | None) -> None:
        self.app, self.limits = app, limits
        self.bearer = f"Bearer {key}".encode() if key else None
        self.most = BYTES * limits.characters + 8 * limits.texts + 10_000  # bytes of a body
        self.active = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, status, start = dict(scope["headers"]), 0, time.perf_counter()

        async def sent(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.active += 1
        try:
            if self.bearer and scope["path"] != OPEN:
                given = headers.get(b"authorization", b"")
                if not hmac.compare_digest(given, self.bearer):
                    raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")
            if self.active > self.limits.requests and scope["path"].startswith("/v1/"):
                raise Refused(503, "The server is busy; try again.")
            await self._answer(scope, headers, receive, sent)
        except Refused as error:
            if not status:
                await _error(error, {"connection": "close"})(scope, receive, sent)
        finally:
            self.active -= 1
            measures = scope.get("measures", NO_STUDENT)
            measures.answered(status or 500, time.perf_counter() - start)

    async def _answer(self, scope: Any, headers: Any, receive: Any, send: Any) -> None:
        rest: list[bytes] | None = None

        async def received() -> Any:
            return {"type": "http.request", "body": rest.pop()} if rest else await receive()

        try:
            async with asyncio.timeout(self.limits.seconds):
                rest = [await self._body(headers, receive)]
                await self.app(scope, received, send)
        except TimeoutError:
            if rest is None:
                raise Refused(408, "The request did not arrive in time.") from None
            raise Refused(504, "The answer took too long.") from None

    async def _body(self, headers: Mapping[bytes, bytes], receive: Any) -> bytes:
        length = headers.get(b"content-length", b"0")
        announced, parts, size, more = int(length) if length.isdigit() else 0, [], 0, True
        while more:
            if max(announced, size) > self.most:
                raise Refused(413, f"A request may have {self.most:,} bytes.")
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "The client went away.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts)
