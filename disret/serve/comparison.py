"""A teacher's and a student's hits side by side on one index, and a page that shows them."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from disret.data.collection import texts_by_id
from disret.encode.encoders import Encoder
from disret.query_encoder import QueryEncoder
from disret.retrieve.agreement import agreement
from disret.retrieve.foreign import ForeignIndex
from disret.retrieve.search import search

K = 10  # hits
LETTERS = 400  # of a document that are shown
WORST = 20  # queries to click
PAGE = Path(__file__).with_name("page.html")


class Teacher:
    """A teacher that is asked by one thread at a time, opened when it is first asked.

    Args:
        open: opens it, and raises `UserError` if it does not answer.
    """

    def __init__(self, open: Callable[[], Encoder]) -> None:
        self._open, self._encoder, self._turn = open, None, Lock()

    def encoder(self) -> Encoder:
        """The encoder itself."""
        with self._turn:
            if self._encoder is None:
                self._encoder = self._open()
            return self._encoder

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n_texts, dimension]; of a service by itself, as a copy hides that it changed."""
        encoder = self.encoder()
        with self._turn:
            if encoder.backend == "service":
                return np.stack(encoder.service.embed(texts))
            return encoder.encode_query(texts)


class Comparison:
    """One index, searched with the queries of both.

    Args:
        corpus: a table with ids and texts, or a collection; its texts are shown.
    """

    def __init__(
        self, index: ForeignIndex, corpus: str, teacher: Teacher, student: QueryEncoder
    ) -> None:
        self.index, self.teacher, self.student = index, teacher, student
        self.ids = index.ids()
        wanted = set(self.ids)
        texts = ((id, text[:LETTERS]) for id, text in texts_by_id(corpus))
        self.texts = {id: text for id, text in texts if id in wanted}
        self.queries: list[str] = []
        self._turn = Lock()

    def overlap(self, teacher: np.ndarray, student: np.ndarray) -> float:
        """The share of the teacher's hits that the student has, by a vector of each."""
        return float(self._agreement(teacher[None], student[None])[f"overlap@{K}"][0])

    def rank(self, queries: Sequence[str]) -> None:
        """Keep the queries on which both agree least, the worst first."""
        found = self._agreement(self.teacher.vectors(queries), self.student.encode(queries))
        self.queries = [queries[place] for place in found["rbo"].argsort(kind="stable")[:WORST]]

    def search(self, query: str) -> dict[str, Any]:
        """What the page shows of a query: of each side its hits, and milliseconds."""
        sides = {}
        for name, encode in {"teacher": self._asked, "student": self._encoded}.items():
            vector, encoding = encode(query)
            with self._turn:
                start = perf_counter()
                values, rows = search(self.index, np.asarray(vector, np.float32), K, "cpu")
                searching = perf_counter() - start
            ids = self.ids.take(rows)[0]
            pairs = zip(ids.tolist(), values[0].tolist(), strict=True)
            hits = [{"id": id, "score": score, "text": self.texts.get(id, "")}
                    for id, score in pairs if id]  # fmt: skip
            times = {"encode": 1e3 * encoding, "search": 1e3 * searching}
            sides[name] = {"hits": hits, **times}
        first, second = ({hit["id"] for hit in side["hits"]} for side in sides.values())
        return {"query": query, "shared": len(first & second), **sides}

    def _asked(self, query: str) -> tuple[np.ndarray, float]:
        """The teacher's vector, and the seconds that its users wait for one; of two, the faster."""
        encoder, taken = self.teacher.encoder(), []
        if encoder.is_local:
            for _ in range(2):
                start = perf_counter()
                encoder.run([query], 1)
                taken.append(perf_counter() - start)
        start = perf_counter()
        vector = self.teacher.vectors([query])
        return vector, min(taken or [perf_counter() - start])

    def _encoded(self, query: str) -> tuple[np.ndarray, float]:
        taken = []
        for _ in range(2):
            start = perf_counter()
            vector = self.student.encode([query])
            taken.append(perf_counter() - start)
        return vector, min(taken)

    def _agreement(self, *vectors: np.ndarray) -> dict[str, np.ndarray]:
        """What `agreement` says of each query, by the teacher's and the student's vectors."""
        asked = np.concatenate(vectors).astype(np.float32)
        with self._turn:
            rows = self.ids.document_numbers(search(self.index, asked, K, "cpu")[1])
        return agreement(*np.split(rows, 2), *vectors, [K])


def page() -> tuple[bytes, str]:
    """The page, and the policy that lets it run what is in it, and ask this server alone."""
    content = PAGE.read_text(encoding="utf-8")

    def digest(tag: str) -> str:
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        return base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()

    policy = (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; "
        f"style-src 'sha256-{digest('style')}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return content.encode(), policy
