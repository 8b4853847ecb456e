"""An embedding service that speaks OpenAI's `/v1/embeddings`, as a teacher without weights."""

import base64
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from threading import Event
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import numpy as np

from disret.command_line import UserError, say, shortened, without_secrets
from disret.data.hub import proxy_of, unreachable
from disret.encode.batches import normalised

REQUEST = 64  # texts of a request, until a service refuses as many
AT_ONCE = 8  # requests
BLOCK = 2 * REQUEST * AT_ONCE  # texts between two writings to disk, which a kill can cost
ATTEMPTS = 8  # at a request that is refused for a while, with pauses that grow
TIMEOUT = 120  # seconds
# Embedded at each start: a service that answers otherwise than before has changed its model.
FIXED_TEXTS = (
    "what is dense retrieval?",
    "a query encoder is distilled into a smaller one",
    "wie hoch ist der Berg",
    "12 angry men 1957",
)
OF_SIZE = re.compile(r"batch|token|length|long|size|too (many|big)|larg|limit|maximum|exceed", re.I)
# In a server's own error, after which another attempt ends in the same.
LARGE, NAN = re.compile(r"too large|larger than the max", re.I), re.compile(r"\bnan\b", re.I)
PIECE = 8  # letters of the key that are not shown, in a row
HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # names of one host


class _TooLarge(Exception):
    """A service refuses a request for its size; with what it says."""


class Service:
    """An embedding service.

    Args:
        url: where `/embeddings` lies under, such as `https://api.openai.com/v1`; what follows a `?`
            goes with each request.
        model: as the service calls it.
        options: more fields of each request, such as `{"dimensions": 256}`.
        prompt: put before each text.

    Attributes:
        name: the model and the host.
        of_fixed_texts: its vectors of `FIXED_TEXTS`.
        fingerprint: SHA-256 of what decides vectors, as far as it is known: address, model, options
            and prompt.

    Raises:
        UserError: it is not there, refuses, or answers with something else than embeddings.
    """

    def __init__(
        self, url: str, model: str, options: Mapping[str, Any] | None = None, prompt: str = ""
    ) -> None:
        import openai

        self.url, host = address_of(url)
        self.model, self.prompt, self._stopped = model, prompt, Event()
        self.options = dict(options or {})
        self.name = f"{model} of {host}"
        content = [spelt_alike(self.url), model, self.options, prompt]
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._size, self._encoding, self._longs = REQUEST, "base64", 0
        address, _, query = self.url.partition("?")
        key = api_key()
        try:
            self._client = openai.OpenAI(
                base_url=address, max_retries=0, timeout=openai.Timeout(TIMEOUT, connect=10),
                # A service on this machine may want no key, but the client does.
                api_key=key or "none", default_query=dict(parse_qsl(query)) or None,
                default_headers={"api-key": key} if key and "api-version" in query else None,
                http_client=openai.DefaultHttpxClient(follow_redirects=False),
            )  # fmt: skip
        except Exception as error:  # of a proxy, whose address may hold a password
            reason = error if isinstance(error, ImportError) else "it is no address of a proxy."
            proxy = proxy_of(address) or "a proxy of the environment"
            raise UserError(f"{proxy} cannot be used: {reason}") from None
        if key and address.startswith("http:") and (host not in HERE or proxy_of(address)):
            say(f"note: the key goes to {proxy_of(address) or host} as plain text; https would "
                "hide it.")  # fmt: skip
        vectors = np.stack(self.embed(FIXED_TEXTS))
        self.dimension = vectors.shape[1]
        if (normalised(vectors) @ normalised(vectors)[0]).min() > 1 - 1e-6:
            raise UserError(f"{self.name} gives different texts the same vector.")
        self.of_fixed_texts = vectors

    def embed(
        self,
        texts: Sequence[str],
        progress: Callable[[int], object] = lambda count: None,
        long_texts: str = "refuse",
        without: str = "",
    ) -> list[np.ndarray | None]:
        """Embed texts, several requests at a time.

        Args:
            progress: called with the number of texts of each answer.
            long_texts: of texts that it refuses as too long: refuse them, cut or skip them.
            without: what the texts begin with and is not embedded.

        Returns:
            float32 [dimension] each; None for a text that is skipped.

        Raises:
            UserError: the service refuses for good, or answers with something else. Its `paid`, as
                that of an interruption, is what was answered before.
        """
        texts = [text.removeprefix(without) for text in texts]
        rows: list[np.ndarray | None] = [None] * len(texts)
        pool, start, waiting = ThreadPoolExecutor(AT_ONCE), 0, deque()
        self._stopped.clear()

        def send(start: int, part: Sequence[str]) -> None:
            self._embed(part, rows, start, long_texts)
            progress(len(part))

        try:
            while start < len(texts) or waiting:
                if start < len(texts) and len(waiting) < AT_ONCE:
                    part = texts[start : start + self._size]
                    waiting.append(pool.submit(send, start, part))
                    start += len(part)
                else:
                    waiting.popleft().result()
        except BaseException as error:
            error.paid = rows
            raise
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)  # what waits is not sent
        return rows

    def _embed(
        self, texts: Sequence[str], rows: list[np.ndarray | None], start: int, long_texts: str
    ) -> None:
        """Put vectors into `rows`; a request that is too large is halved."""
        try:
            rows[start : start + len(texts)] = self._request(texts)
            return
        except _TooLarge as error:
            reason = str(error)
        if len(texts) > 1:
            half, longs = len(texts) // 2, self._longs
            self._embed(texts[:half], rows, start, long_texts)
            self._embed(texts[half:], rows, start + half, long_texts)
            if self._longs == longs:  # else it was for a text that is too long by itself
                self._size = min(self._size, half)
            return
        if len(texts[0]) <= max(map(len, FIXED_TEXTS)):  # which are not long
            raise UserError(f"{self.name} answers {reason}.")
        self._longs += 1
        if long_texts == "refuse":
            long = f"{shortened(texts[0])!r}, of {len(texts[0]):,} letters"
            raise UserError(f"{self.name} refuses {long}: {reason}. Cut or skip long texts.")
        if long_texts == "cut":
            self._embed([texts[0][: len(texts[0]) // 2]], rows, start, long_texts)

    def _request(self, texts: Sequence[str], attempt: int = 1) -> list[np.ndarray]:
        """The vectors of some texts, by one request, after those that were refused for a while."""
        import openai

        body = {"model": self.model, "input": [self.prompt + text for text in texts],
                "encoding_format": self._encoding, **self.options}  # fmt: skip
        try:
            answer = self._client.post("/embeddings", body=body, cast_to=object)
            return self._vectors(answer, texts)
        except openai.AuthenticationError as error:
            raise UserError(f"{self.name} does not accept the key: {_reason(error)}; set the "
                            "variable OPENAI_API_KEY.") from None  # fmt: skip
        except openai.APIConnectionError as error:
            if self._paused(attempt, None, {}):
                return self._request(texts, attempt + 1)
            raise UserError(unreachable(self.url, error)) from None
        except openai.APIStatusError as error:
            reason, status = _reason(error), error.status_code
            if place := error.response.headers.get("location"):
                raise UserError(f"{self.name} has moved to {_one_line(place)}; name that address, "
                                "if it may have your texts.") from None  # fmt: skip
            is_refused, is_own = status in (400, 422), status >= 500
            is_ours = body["encoding_format"] == "base64" and "encoding_format" not in self.options
            if is_refused and is_ours and re.search("base64|encoding", reason):
                self._encoding = "float"
                return self._request(texts)
            is_large = (is_refused and OF_SIZE.search(reason)) or (is_own and LARGE.search(reason))
            is_nan = is_own and NAN.search(reason)  # of several texts it is searched for which
            if status == 413 or is_large or (is_nan and len(texts) > 1):
                raise _TooLarge(f"{status}: {reason}") from None
            if not is_nan and self._paused(attempt, status, error.response.headers):
                return self._request(texts, attempt + 1)
            about = f" for {shortened(texts[0])!r}" if len(texts) == 1 else ""
            raise UserError(f"{self.name} answers {status}{about}: {reason}.") from None
        except (openai.OpenAIError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.name} answers with something else than embeddings "
                            f"({type(error).__name__}).") from None  # fmt: skip

    def _paused(self, attempt: int, status: int | None, headers: Mapping[str, str]) -> bool:
        """Whether another attempt may help, after a pause, which the end of `embed` cuts short."""
        # A host that has never answered may not be there.
        most = ATTEMPTS if status or hasattr(self, "dimension") else 1
        is_late = status in (None, 408, 409, 429) or status >= 500
        if not is_late or attempt > most or headers.get("x-should-retry") == "false":
            return False
        pause = min(2 ** (attempt - 2), 8)  # seconds
        with suppress(KeyError, ValueError):
            pause = min(float(headers["retry-after"]), 60)
        return not self._stopped.wait(pause)

    def _vectors(self, answer: Any, texts: Sequence[str]) -> list[np.ndarray]:
        """What an answer holds, in the order of the texts."""
        rows = answer.get("data") if isinstance(answer, dict) else answer
        if isinstance(answer, dict) and not rows and (said := answer.get("error")):
            said = said.get("message", said) if isinstance(said, dict) else said
            raise UserError(f"{self.name} answers with an error: {_one_line(str(said))}.")
        if isinstance(rows, list):
            rows = [row if isinstance(row, dict) else {"embedding": row} for row in rows]
        if not isinstance(rows, list) or not all("embedding" in row for row in rows):
            shown = shortened(_one_line(str(answer)))
            raise UserError(f"{self.name} answers with something else than embeddings: {shown!r}.")
        if len(rows) != len(texts):
            raise UserError(f"{self.name} gives {len(rows)} vectors of {len(texts)} texts.")
        places = [row.get("index") for row in rows]
        with suppress(ValueError, TypeError):  # some are left out, or given as texts
            places = [n if place is None else int(place) for n, place in enumerate(places)]
        if sorted(map(str, places)) != sorted(map(str, range(len(rows)))):
            raise UserError(f"{self.name} numbers {len(rows)} vectors {shortened(str(places))}, so "
                            "that nobody knows whose they are.")  # fmt: skip
        rows = [row for _, row in sorted(zip(places, rows, strict=True), key=itemgetter(0))]
        vectors = [
            self._vector(row["embedding"], text) for row, text in zip(rows, texts, strict=True)
        ]
        sizes = {len(vector) for vector in vectors} | {getattr(self, "dimension", len(vectors[0]))}
        if len(sizes) > 1:
            sizes = ", ".join(map(str, sorted(sizes)))
            raise UserError(f"{self.name} gives vectors of several dimensions: {sizes}.")
        return vectors

    def _vector(self, value: Any, text: str) -> np.ndarray:
        """A vector, float32 [dimension], from floats or base64; else ValueError or TypeError."""
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value), "<f4")
        else:
            vector = np.array(value, dtype=np.float32)  # None becomes NaN
        if vector.ndim == 2 and len(vector) > 1:
            raise UserError(f"{self.name} gives a vector for each token: it does not pool.")
        vector = vector.reshape(-1)
        if not np.isfinite(vector).all():
            what = "values that are not numbers"
        elif not vector.any():
            what = "zeros alone"
        else:
            return vector
        raise UserError(f"{self.name} gives a vector of {what} for {shortened(text)!r}.")


def address_of(url: str) -> tuple[str, str]:
    """The address that `/embeddings` lies under, and its host.

    Raises:
        UserError: it is no address, or has no path.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise UserError(f"{without_secrets(url)} is no address of a service.")
    path = parts.path.rstrip("/")
    if not path:
        raise UserError(f"{without_secrets(url)} has no path; embedding services lie under one, "
                        "most under /v1.")  # fmt: skip
    return urlunsplit(parts._replace(path=path.removesuffix("/embeddings"), fragment="")), host


def spelt_alike(url: str) -> str:
    """An address as every spelling of it comes out, without secrets."""
    parts = urlsplit(url)
    host = "localhost" if parts.hostname in HERE else parts.hostname
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return without_secrets(urlunsplit(parts._replace(netloc=f"{host}:{port}")))


def api_key() -> str:
    """The key of the environment, without white space around it.

    Raises:
        UserError: it holds what no key does.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if re.search(r"[^!-~]", key):
        what = "white space" if re.search(r"\s", key) else "a letter that is not ASCII"
        raise UserError(f"the variable OPENAI_API_KEY holds {what}, which no key does.")
    return key


def _reason(error: Any) -> str:
    """What a service says, in one line and without the key."""
    body = error.body if isinstance(error.body, dict) else {}
    return _one_line(
        str(body.get("message") or body.get("detail") or body.get("error") or error.message)
    )


def _one_line(text: str) -> str:
    """A text without line breaks and pieces of the key, cut to 200 letters."""
    key, places = api_key(), [place for place, letter in enumerate(text) if not letter.isspace()]
    letters, hidden = "".join(text[place] for place in places), set()
    for start in range(len(letters) - min(len(key), PIECE) + 1 if key else 0):
        if letters[start : start + PIECE] in key:
            hidden.update(places[start : start + PIECE])
    shown = "".join("\0" if place in hidden else letter for place, letter in enumerate(text))
    return " ".join(re.sub(r"\0(\s*\0)*", "…", shown).split())[:200].rstrip(".")
