"""Whether a student that is served still follows its teacher, asked a share of its queries."""

import math
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import one_line, say
from disret.encode.encoders import Encoder
from disret.encode.service import FIXED_TEXTS
from disret.retrieve.agreement import centred_cosines
from disret.serve.measures import WATCHED, WATCHED_FAILED, WATCHED_SHARES

if TYPE_CHECKING:
    from disret.serve.comparison import Comparison

WINDOW = 1000  # queries that are looked at together, the last
FEWEST, EVERY = 100, 50  # queries before the first verdict, and between two
SIGMAS = 4.0  # below what is expected; verdicts are many, and neighbours share their queries
WORST = 2.0  # standard deviations below the mean, from where a query is written down
SAME = 0.995  # cosine of the teacher's answers to fixed texts, to its earlier ones


class Watch:
    """Asks the teacher in a thread of its own, after the student has answered.

    Args:
        share: of the requests, of each of which one query is asked.
        expected: mean and standard deviation of the student's centred cosine on held-out queries.
        worst: a file that gets the queries where it is lowest, a line each.
        comparison: searches with both encoders, for the overlap.
    """

    def __init__(
        self,
        name: str,
        teacher: Encoder,
        share: float,
        expected: tuple[float, float] | None,
        worst: Path | None = None,
        comparison: "Comparison | None" = None,
        seed: int | None = None,
    ) -> None:
        self.name, self.teacher, self.share, self.expected = name, teacher, share, expected
        self.worst, self.comparison = worst, comparison
        self._chance = random.Random(seed)
        self._queue: Queue[tuple[str, np.ndarray]] = Queue(WINDOW)
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=WINDOW)
        self._overlaps: deque[float] = deque(maxlen=WINDOW)
        self._seen, self._said = 0, set()
        self._fixed = self._of_fixed_texts()
        Thread(target=self._work, daemon=True, name="watch").start()

    def offer(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Perhaps take a query of an answered request; never wait."""
        if self._chance.random() < self.share:
            place = self._chance.randrange(len(texts))
            try:
                self._queue.put_nowait((texts[place], np.array(vectors[place])))
            except Full:  # the teacher is slower than its share
                WATCHED_FAILED.labels(self.name).inc()

    def wait(self) -> None:
        """Until what was taken has been looked at."""
        self._queue.join()

    def _work(self) -> None:
        while True:
            text, vector = self._queue.get()
            try:
                self._look(text, vector)
            except Exception as error:  # a teacher that does not answer costs the watch alone
                WATCHED_FAILED.labels(self.name).inc()
                self._say_once("error", f"note: {self.teacher.name} could not be asked: {error}")
            finally:
                self._queue.task_done()

    def _look(self, text: str, vector: np.ndarray) -> None:
        target = self._ask([text])[0].astype(np.float64)
        self._pairs.append((target, vector.astype(np.float64)))
        self._seen += 1
        WATCHED.labels(self.name).inc()
        if self.comparison is not None:
            self._overlaps.append(self.comparison.overlap(target, vector))
        if self._seen < FEWEST:
            return
        targets, vectors = map(np.stack, zip(*self._pairs, strict=True))
        cosines = centred_cosines(targets, vectors)
        self._measure(targets, vectors, cosines)
        mean, spread = self.expected or (cosines.mean(), cosines.std())
        if self.worst and cosines[-1] < mean - WORST * spread:
            with self.worst.open("a", encoding="utf-8") as file:
                file.write(f"{one_line(text)}\n")
        if self._seen % EVERY == 0:
            self._judge(cosines)

    def _measure(self, targets: np.ndarray, vectors: np.ndarray, cosines: np.ndarray) -> None:
        lengths = np.linalg.norm(targets, axis=1) * np.linalg.norm(vectors, axis=1)
        plain = (targets * vectors).sum(axis=1) / np.maximum(lengths, 1e-12)
        shares = {"cosine": plain, "centred_cosine": cosines, "overlap_at_10": self._overlaps}
        for measure, values in shares.items():
            if len(values):
                WATCHED_SHARES.labels(self.name, measure).set(float(np.mean(values)))

    def _judge(self, cosines: np.ndarray) -> None:
        now = self._of_fixed_texts()
        if self._fixed is not None and now is not None:
            lengths = np.linalg.norm(self._fixed, axis=1) * np.linalg.norm(now, axis=1)
            if ((self._fixed * now).sum(axis=1) / lengths).min() < SAME:
                self._say_once("teacher", f"warning: {self.teacher.name} answers fixed texts "
                               "otherwise than when this server began: it is another model now, "
                               "or another version, and the index does not fit it.")  # fmt: skip
        if self.expected is None:
            return
        mean, spread = self.expected
        least = mean - SIGMAS * spread / math.sqrt(len(cosines))
        if cosines.mean() < least:
            self._say_once("student", f"warning: {self.name} follows its teacher less than it did: "
                           f"a centred cosine of {cosines.mean():.3f} on the last {len(cosines):,} "
                           f"queries that were watched, {mean:.3f} on held-out ones. They may be "
                           "of another kind: distil again with them.")  # fmt: skip

    def _of_fixed_texts(self) -> np.ndarray | None:
        """What a service answers now; a model in this process stays as it is."""
        return self._ask(FIXED_TEXTS) if self.teacher.backend == "service" else None

    def _ask(self, texts: Sequence[str]) -> np.ndarray:
        """A service by itself: what it answered before would hide that it has changed."""
        if self.teacher.backend == "service":
            return np.stack(self.teacher.service.embed(texts))
        return self.teacher.encode_query(texts)

    def _say_once(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            say(sentence)
