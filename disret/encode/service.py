"""An embedding service that speaks OpenAI's `/v1/embeddings`, as a teacher without weights."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from disret import paths
from disret.command_line import UserError, say, without_secrets
from disret.encode.batches import normalised
from disret.files import lock, read_record, write_json

REQUEST = 64  # texts of a request
AT_ONCE = 8  # requests
BLOCK = 2 * REQUEST * AT_ONCE  # texts between two writings to disk, which a kill can cost
ATTEMPTS = 8  # at a request that is refused for a while, with pauses that grow
TIMEOUT = 120  # seconds
CHARACTERS = 4  # of a token, roughly, in English
# Embedded at each start: a service that answers otherwise than before has changed its model.
FIXED_TEXTS = (
    "what is dense retrieval?",
    "a query encoder is distilled into a smaller one",
    "wie hoch ist der Berg",
    "12 angry men 1957",
)
SAME = 0.999  # cosine of two answers to one text; services round, and batch differently


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
        dimension: of its vectors.
        normalises: whether these have length 1.
        fingerprint: SHA-256 of what decides them, as far as it is known: address, model, options
            and prompt.

    Raises:
        UserError: it is not there, refuses, or answers with something else than embeddings; or its
            answers to some fixed texts are not those of an earlier start.
    """

    def __init__(
        self, url: str, model: str, options: Mapping[str, Any] | None = None, prompt: str = ""
    ) -> None:
        from openai import OpenAI

        self.url, self.model, self.prompt = url.rstrip("/"), model, prompt
        self.options = dict(options or {})
        self.name = f"{model} of {host_of(url)}"
        content = [without_secrets(self.url), model, self.options, prompt]
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        address, _, query = self.url.partition("?")
        self._client = OpenAI(
            base_url=address, max_retries=ATTEMPTS, timeout=TIMEOUT,
            # A service on this machine may want no key, but the client does.
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            default_query=dict(parse_qsl(query)) or None,
        )  # fmt: skip
        vectors = self._request(FIXED_TEXTS)
        self.dimension = vectors.shape[1]
        self.normalises = bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))
        self._check_unchanged(vectors)

    def announce(self, texts: Sequence[str]) -> None:
        """Say what embedding some texts will send."""
        tokens = sum(len(self.prompt) + len(text) for text in texts) / CHARACTERS
        say(
            f"{self.name}: {len(texts):,} texts to embed, roughly {tokens:,.0f} tokens, in "
            f"requests of {REQUEST}."
        )

    def embed(
        self, texts: Sequence[str], progress: Callable[[int], object] = lambda count: None
    ) -> np.ndarray:
        """Embed texts, several requests at a time.

        Args:
            progress: called with the number of texts of each answer.

        Returns:
            float32 [n_texts, dimension].

        Raises:
            UserError: the service refuses for good, or answers with something else.
        """
        parts = [texts[start : start + REQUEST] for start in range(0, len(texts), REQUEST)]
        vectors = []
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for answer in pool.map(self._request, parts):
                vectors.append(answer)
                progress(len(answer))
        finally:
            pool.shutdown(cancel_futures=True)  # after a refusal, what waits is not sent
        return np.concatenate(vectors) if vectors else np.empty((0, self.dimension), np.float32)

    def _request(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n_texts, dimension], in the order of the texts."""
        import openai

        try:
            answer = self._client.embeddings.create(
                model=self.model,
                input=[self.prompt + text for text in texts],
                extra_body=self.options or None,
            )
            rows = sorted(answer.data, key=lambda row: row.index)
            vectors = np.array([row.embedding for row in rows], dtype=np.float32)
        except openai.AuthenticationError as error:
            raise UserError(
                f"{self.name} does not accept the key: {_reason(error)}; set the variable "
                "OPENAI_API_KEY."
            ) from None
        except openai.APIConnectionError as error:
            reason = type(error.__cause__ or error).__name__
            raise UserError(f"cannot reach {without_secrets(self.url)} ({reason}).") from None
        except openai.APIStatusError as error:
            raise UserError(f"{self.name} answers {error.status_code}: {_reason(error)}.") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.name} answers with something else than embeddings ({type(error).__name__})."
            ) from None
        wanted = (len(texts), getattr(self, "dimension", vectors.shape[-1]))
        if vectors.shape != wanted:
            raise UserError(f"{self.name} gives vectors of shape {vectors.shape}, not {wanted}.")
        if not np.isfinite(vectors).all():
            raise UserError(f"{self.name} gives vectors with values that are not numbers.")
        return vectors

    def _check_unchanged(self, vectors: np.ndarray) -> None:
        """Compare the answers to fixed texts with those of an earlier start."""
        path = paths.DOWNLOADS / "embeddings" / f"{self.fingerprint[:32]}.service.json"
        with lock(path):
            known = read_record(path, {"vectors": list})
            if known is None:
                write_json(path, {"service": self.name, "vectors": vectors.tolist()})
                return
        earlier = np.array(known["vectors"], dtype=np.float32)
        cosine = 0.0
        if earlier.shape == vectors.shape:
            cosine = float((normalised(earlier) * normalised(vectors)).sum(axis=1).min())
        if cosine < SAME:
            raise UserError(
                f"{self.name} has changed: its vectors of fixed texts have a cosine of "
                f"{cosine:.3f} to those of an earlier run. An index and a student of the earlier "
                f"ones do not fit; to begin anew, delete {path}."
            )


def parsed_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields of a request from `KEY=VALUE`, whose value is JSON or else a text.

    Raises:
        UserError: there is no `=`, or the field is one that this project sets.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UserError(f"expected KEY=VALUE, got {pair!r}.")
        if key in ("input", "model", "encoding_format"):
            raise UserError(f"{key} is set for each request and is no option.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def host_of(url: str) -> str:
    """The host of a service's address.

    Raises:
        UserError: it is no address, or has no path.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise UserError(f"{without_secrets(url)} is no address of a service.")
    if not parts.path.strip("/"):
        raise UserError(
            f"{without_secrets(url)} has no path; embedding services lie under one, most under /v1."
        )
    return host


def _reason(error: Any) -> str:
    """What a service says, in one line and without the key."""
    body = error.body if isinstance(error.body, dict) else {}
    text = str(body.get("message") or body.get("detail") or error.message)
    key = os.environ.get("OPENAI_API_KEY")
    return " ".join((text.replace(key, "…") if key else text).split())[:200]
