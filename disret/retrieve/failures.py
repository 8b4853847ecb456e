"""Where a student agrees least with its teacher: queries, and what each of them finds."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from disret.files import whole_file
from disret.retrieve.tasks import Target

BOTH = "✓"
LETTERS = 100  # of a document's text that a person is shown
SHOWN = 10  # queries, and hits of each

Hits = list[tuple[str, str]]  # document id, and text or ""


class Failure(NamedTuple):
    """A query, how far the searches agree on it, and what each has found, best first."""

    query: str
    score: float
    teacher: Hits
    student: Hits


def worst(per_query: Mapping[str, np.ndarray], count: int, by: str = "rbo") -> np.ndarray:
    """The queries with the lowest values, lowest first, of equal ones the first.

    Args:
        count: how many; all, if there are fewer.
        by: a measure that grows with agreement.

    Returns:
        Their numbers, int64 [up to count].
    """
    return np.argsort(per_query[by], kind="stable")[:count]


def write_worst(path: Path, lines: Sequence[Failure]) -> None:
    """Write queries and their hits as Markdown for a person, whole or not at all.

    Texts are cut after `LETTERS` characters.
    """
    parts = ["# Queries on which student and teacher agree least\n",
             f"{BOTH} marks a document that both found.\n"]  # fmt: skip
    for number, failure in enumerate(lines, 1):
        parts.append(f"## {number}. {_harmless(failure.query)}\n")
        parts.append(f"Agreement {failure.score:.4f}\n")
        parts.append(_side_by_side(failure.teacher, failure.student))
    with whole_file(path) as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")


def _side_by_side(teacher: Hits, student: Hits) -> str:
    """Two lists as a Markdown table, a rank in each row."""
    both = dict(teacher).keys() & dict(student).keys()

    def cell(hit: tuple[str, str] | None) -> str:
        if hit is None:
            return ""
        document, text = hit
        sign = f"{BOTH} " if document in both else ""
        parts = [_harmless(document), _harmless(text, LETTERS)]
        return sign + ": ".join(filter(None, parts))

    rows = [
        f"| {rank} | {cell(left)} | {cell(right)} |\n"
        for rank, (left, right) in enumerate(zip_longest(teacher, student), 1)
    ]
    return "".join(["| rank | teacher | student |\n", "|---:|:---|:---|\n", *rows])


def _harmless(text: str, length: int | None = None) -> str:
    """A text on one line, cut if it is long; nothing in it ends a cell or begins HTML or code."""
    line = " ".join(text.split())
    if length is not None and len(line) > length:
        line = line[:length] + "…"
    return re.sub(r"([\\`<|])", r"\\\1", line)


def failures(
    target: Target,
    per_query: Mapping[str, np.ndarray],
    teacher_rows: np.ndarray,
    student_rows: np.ndarray,
) -> list[Failure]:
    """The queries of least agreement, with the best documents that each side found.

    Args:
        teacher_rows, student_rows: row numbers of the hits, int64 [n_queries, k], best first.
    """
    queries, ids = list(target.queries.values()), target.index.ids()
    numbers = worst(per_query, SHOWN).tolist()
    found = [[ids.take(rows[i, :SHOWN]) for rows in (teacher_rows, student_rows)] for i in numbers]
    texts = target.document_texts({id for sides in found for side in sides for id in side})
    return [
        Failure(
            queries[number],
            float(per_query["rbo"][number]),
            *([(document, texts.get(document, "")) for document in side] for side in sides),
        )
        for number, sides in zip(numbers, found, strict=True)
    ]
