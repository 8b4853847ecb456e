"""Whether a student that is served still follows its teacher, asked a share of its queries."""

import math
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Full, Queue
from threading import Thread

import numpy as np

from disret.command_line import one_line, say
from disret.encode.service import FIXED_TEXTS
from disret.retrieve.agreement import centred_cosines, cosines
from disret.serve.comparison import Comparison, Teacher
from disret.serve.measures import WATCHED, WATCHED_FAILED, WATCHED_SHARES

WINDOW = 1000  # queries that are looked at together, the last
FIRST, EVERY = 200, 50  # queries that say what to expect, and between two verdicts
SIGMAS = 4.0  # below what is expected; verdicts are many, and neighbours share their queries
WORST, MOST = 2.0, 10_000  # standard deviations below, from where a query is written; how many
SAME = 0.995  # cosine of the teacher's answers to fixed texts, to its earlier ones


class Watch:
    """Asks the teacher in a thread of its own, after the student has answered.

    The first queries say what to expect, where that is less than on the texts that distillation
    held out: these may have been of other kinds.

    Args:
        share: of the requests, of each of which one query is asked.
        held_out: mean and standard deviation of the student's centred cosine there, if known.
        worst: a file that gets the queries where it is lowest, a line each.
        comparison: searches with both encoders, for the overlap.
    """

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        share: float,
        held_out: tuple[float, float] | None,
        worst: Path | None = None,
        comparison: Comparison | None = None,
        seed: int | None = None,
    ) -> None:
        self.name, self.teacher, self.share, self.held_out = name, teacher, share, held_out
        self.worst, self.comparison = worst, comparison
        self.expected: tuple[float, float] | None = None  # once the first queries are seen
        self._chance = random.Random(seed)
        self._queue: Queue[tuple[str, np.ndarray]] = Queue(WINDOW)
        self._pairs: deque[tuple[str, np.ndarray, np.ndarray]] = deque(maxlen=WINDOW)
        self._overlaps: deque[float] = deque(maxlen=WINDOW)
        self._seen, self._said, self._written = 0, set(), set()
        self._fixed: np.ndarray | None = None
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
                self._say_once("error", f"note: the teacher could not be asked: {error}")
            finally:
                self._queue.task_done()

    def _look(self, text: str, vector: np.ndarray) -> None:
        if self._fixed is None:
            self._fixed = self._of_fixed_texts()
        target = self.teacher.vectors([text])[0]
        if target.shape != vector.shape:
            raise ValueError(f"it has {len(target)} dimensions, and {self.name} {len(vector)}")
        self._pairs.append((text, target.astype(np.float64), vector.astype(np.float64)))
        self._seen += 1
        WATCHED.labels(self.name).inc()
        if self.comparison is not None:
            self._overlaps.append(self.comparison.overlap(target, vector))
        if self._seen % EVERY == 0 and self._seen >= FIRST:
            self._judge()

    def _judge(self) -> None:
        """A verdict on the last queries; what is far below is written down."""
        targets, vectors = (np.stack([pair[side] for pair in self._pairs]) for side in (1, 2))
        centred = centred_cosines(targets, vectors)
        self._measure(targets, vectors, centred)
        if self.expected is None:
            self._expect(centred)
        mean, spread = self.expected
        if self.worst:
            recent = list(self._pairs)[-EVERY:]
            low = centred[-EVERY:] < mean - WORST * spread
            self._write([text for (text, *_), is_low in zip(recent, low, strict=True) if is_low])
        if centred.mean() < mean - SIGMAS * spread * math.sqrt(1 / len(centred) + 1 / FIRST):
            self._say_once("student", f"warning: {self.name} follows its teacher less than it did: "
                           f"a centred cosine of {centred.mean():.3f} on the last {len(centred):,} "
                           f"queries that were watched, {mean:.3f} before. They may be of another "
                           "kind: distil again with them.")  # fmt: skip
        now = self._of_fixed_texts()
        if now is not None and cosines(self._fixed, now).min() < SAME:
            self._say_once("teacher", "warning: the teacher answers fixed texts otherwise than "
                           "when this server began: it is another model now, or another "
                           "version, and the index does not fit it.")  # fmt: skip

    def _expect(self, centred: np.ndarray) -> None:
        """From the first queries; if they are lower than those held out, that is said."""
        first = float(centred.mean()), float(centred.std())
        self.expected = self.held_out or first
        mean, spread = self.expected
        if first[0] < mean - SIGMAS * spread / math.sqrt(len(centred)):
            self.expected = first
            say(f"note: on the first {len(centred):,} queries that were watched, {self.name} has a "
                f"centred cosine of {first[0]:.3f} to its teacher, {mean:.3f} on what it held out: "
                "it was trained on texts of other kinds.")  # fmt: skip

    def _measure(self, targets: np.ndarray, vectors: np.ndarray, centred: np.ndarray) -> None:
        plain = cosines(targets, vectors)
        shares = {"cosine": plain, "centred_cosine": centred, "overlap_at_10": self._overlaps}
        for measure, values in shares.items():
            if len(values):
                WATCHED_SHARES.labels(self.name, measure).set(float(np.mean(values)))

    def _write(self, texts: Sequence[str]) -> None:
        """Each once, and so many at most."""
        new = [line for line in map(one_line, texts) if line not in self._written]
        with self.worst.open("a", encoding="utf-8") as file:
            for line in new[: MOST - len(self._written)]:
                file.write(f"{line}\n")
                self._written.add(line)
        if len(self._written) >= MOST:
            self._say_once("worst", f"note: {self.worst} has {MOST:,} queries, and gets no more.")

    def _of_fixed_texts(self) -> np.ndarray | None:
        """What a service answers now; a model in this process stays as it is."""
        is_service = self.teacher.encoder().backend == "service"
        return self.teacher.vectors(FIXED_TEXTS) if is_service else None

    def _say_once(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            say(sentence)
