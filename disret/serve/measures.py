"""What a server counts, for Prometheus."""

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

SECONDS = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 256, 1024)
REGISTRY = CollectorRegistry()
disable_created_metrics()


def _of(kind, name: str, text: str, labels: tuple[str, ...] = ("model",), **more):
    return kind(f"disret_{name}", text, labels, registry=REGISTRY, **more)


REQUESTS = _of(Counter, "requests", "Requests answered, by status.", ("model", "status"))
TEXTS_ASKED = _of(Counter, "texts", "Texts that vectors were sent for.")
TOKENS = _of(Counter, "tokens", "Tokens of those texts.")
REQUEST = _of(Histogram, "request_seconds", "From request to answer.", buckets=SECONDS)
ENCODING = _of(Histogram, "encode_seconds", "Encoding of a batch.", buckets=SECONDS)
BATCH = _of(Histogram, "batch_texts", "Texts encoded together.", buckets=TEXTS)
HITS = _of(Counter, "cache_hits", "Texts whose vectors were kept.")
MISSES = _of(Counter, "cache_misses", "Texts whose vectors were not.")
WAITING = _of(Gauge, "waiting_requests", "Requests that wait to be encoded.",
              multiprocess_mode="livesum")  # fmt: skip

WATCHED = _of(Counter, "watched", "Queries that the teacher was asked as well.")
WATCHED_FAILED = _of(Counter, "watch_failures", "Queries that it was to be asked, and was not.")
WATCHED_SHARES = _of(Gauge, "watched_agreement", "Means over the last 1,000 of them.",
                     ("model", "measure"), multiprocess_mode="mostrecent")  # fmt: skip


class Measures:
    """Those of one student, without a look-up of its name for each."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.waiting = WAITING.labels(model)
        self._texts, self._tokens = TEXTS_ASKED.labels(model), TOKENS.labels(model)
        self._request, self._encoding = REQUEST.labels(model), ENCODING.labels(model)
        self._batch, self._answers = BATCH.labels(model), {}
        self._hits, self._misses = HITS.labels(model), MISSES.labels(model)

    def answered(self, status: int, seconds: float) -> None:
        if status not in self._answers:
            self._answers[status] = REQUESTS.labels(self.model, status)
        self._answers[status].inc()
        self._request.observe(seconds)

    def sent(self, texts: int, tokens: int) -> None:
        self._texts.inc(texts)
        self._tokens.inc(tokens)

    def batch(self, texts: int, seconds: float) -> None:
        self._batch.observe(texts)
        self._encoding.observe(seconds)

    def cache(self, hits: int, misses: int) -> None:
        self._hits.inc(hits)
        self._misses.inc(misses)


NO_STUDENT = Measures("")  # of requests that name none


def exposition() -> bytes:
    """All of them, of all processes, in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)
