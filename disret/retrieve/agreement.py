"""How far a student's search agrees with its teacher's on the same index, and where least.

It needs no judgments: the teacher's hits are what the student should find. It also sees what nDCG
does not, namely which of the documents that nobody has judged the student finds.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from disret.command_line import one_line
from disret.files import whole_file
from disret.retrieve.metrics import interval

RBO_P = 0.9  # the ten best have 86 % of the weight in lists without end
BLOCK = 1 << 14  # queries that are compared together
BOTH = "✓"
LETTERS = 100  # of a document's text that a person is shown
# From each overlap@10 on, the least and the most retention of students that were measured, in
# percent (evaluations/README.md, Agreement).
RETAINED = ((0.0, 15.9, 56.9), (0.3, 44.3, 96.0), (0.4, 52.1, 96.7), (0.5, 65.2, 96.1),
            (0.6, 76.0, 100.8), (0.7, 85.7, 99.2), (0.8, 95.0, 107.6))  # fmt: skip
# A mean centred cosine, and the least retention of students below it, and of those from it on.
USABLE, BELOW, KEPT = 0.6, 15.9, 64.0


def agreement(
    teacher_rows: np.ndarray,
    student_rows: np.ndarray,
    teacher_vectors: np.ndarray,
    student_vectors: np.ndarray,
    k_values: Sequence[int],
) -> dict[str, np.ndarray]:
    """How far two searches agree, query by query.

    Args:
        teacher_rows, student_rows: the hits, int64 [n_queries, k], best first, by numbers that are
            equal where the documents are; -1 for none. Two searches that find nothing agree.
        teacher_vectors, student_vectors: embeddings of the queries, [n_queries, dimension].
        k_values: cut-offs of the overlap; one above k counts as k.

    Returns:
        float64 [n_queries] each, by name:

        - `overlap@K`: the share of the teacher's K best, of those that there are, that is among
          the student's K best;
        - `rbo`: rank-biased overlap, extrapolated (`rank_biased_overlap`);
        - `first`: 1 where the student's first hit is the teacher's first, else 0;
        - `first@10`: 1 where the teacher's first hit is among the student's ten best, else 0;
        - `cosine`: of the angle between the two embeddings; 0 where one is zero;
        - `centred cosine`: the same after the teacher's mean is taken from both;
        - `squared_distance`: between the two embeddings.
    """
    if len(teacher_rows) > BLOCK:
        sides = teacher_rows, student_rows, teacher_vectors, student_vectors
        splits = [np.split(side, range(BLOCK, len(side), BLOCK)) for side in sides]
        parts = [agreement(*block, k_values) for block in zip(*splits, strict=True)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return found | {"centred cosine": centred_cosines(teacher_vectors, student_vectors)}
    k = teacher_rows.shape[1]
    depths = np.arange(1, k + 1)
    # Where the student first has each of the teacher's hits, from 0, and k if nowhere.
    places = np.full(teacher_rows.shape, k)
    for place in reversed(range(k)):
        places[teacher_rows == student_rows[:, place, None]] = place
    places[teacher_rows == -1] = k
    shared = np.stack([(places[:, :depth] < depth).sum(axis=1) for depth in depths], axis=1)
    shares = shared / np.maximum((teacher_rows != -1).cumsum(axis=1), 1)
    neither = (np.maximum(teacher_rows, student_rows) == -1).all(axis=1)
    shares[neither] = 1
    overlaps = {f"overlap@{n}": shares[:, min(n, k) - 1] for n in k_values}
    teacher, student = teacher_vectors.astype(np.float64), student_vectors.astype(np.float64)
    return {
        **overlaps,
        "rbo": rank_biased_overlap(shares),
        "first": (neither | (places[:, 0] == 0)).astype(np.float64),
        "first@10": (neither | (places[:, 0] < min(10, k))).astype(np.float64),
        "cosine": cosines(teacher, student),
        "centred cosine": centred_cosines(teacher, student),
        "squared_distance": ((teacher - student) ** 2).sum(axis=1),
    }


def centred_cosines(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Cosines of two encoders' vectors after the first one's mean is taken from both.

    They compare over teachers, as mean squared errors and plain cosines do not: two random queries
    have a cosine of 0.77 in E5's space, of 0.02 in all-MiniLM-L6-v2's.

    Args:
        teacher, student: embeddings of the same queries, [n_queries, dimension].

    Returns:
        float64 [n_queries]; 1 where the two are equal, as at the mean itself.
    """
    mean = teacher.mean(axis=0, dtype=np.float64)
    return np.where((teacher == student).all(axis=1), 1, cosines(teacher - mean, student - mean))


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Row by row; 0 where one is zero."""
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    products = np.einsum("qd,qd->q", some, others)
    return np.clip(products / np.where(lengths > 0, lengths, 1), -1, 1)


def rank_biased_overlap(shares: np.ndarray) -> np.ndarray:
    """RBO_ext of two lists of equal length, with p = `RBO_P`.

    A reader goes on from each rank to the next with probability p. This is the share of documents
    in common that is expected where such a reader stops, if it stays beyond k what it is at k:

    RBO_ext = X_k / k · p^k + (1 - p) / p · Σ_d X_d / d · p^d, d from 1 to k.

    W. Webber, A. Moffat and J. Zobel, "A similarity measure for indefinite rankings", ACM
    Transactions on Information Systems 28 (4), 2010.

    Args:
        shares: X_d / d, of the d best the share that both lists have, [n_queries, k].

    Returns:
        float64 [n_queries], between 0 and 1.
    """
    k = shares.shape[1]
    weights = (1 - RBO_P) * RBO_P ** np.arange(k)
    weights[-1] += RBO_P**k  # of all that is deeper
    return np.minimum((weights * shares).sum(axis=1), 1)


def summary(per_query: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Columns of a table: each measure's mean, `NAME low` and `NAME high`, to four decimals."""
    columns = {}
    for name, values in per_query.items():
        low, high = interval(values)
        numbers = {name: float(values.mean()), f"{name} low": low, f"{name} high": high}
        columns |= {column: round(number, 4) for column, number in numbers.items()}
    return columns


def retained_range(overlap: float) -> tuple[float, float, float]:
    """What an overlap@10 has meant: where its class starts, the least and the most retention."""
    return max(each for each in RETAINED if overlap >= each[0])


def retained(overlap: float) -> str:
    """The same in a sentence."""
    start, low, high = retained_range(overlap)
    place = RETAINED.index((start, low, high))
    end = [*(first for first, _, _ in RETAINED[1:]), 1.0][place]
    return (
        f"Students that found {start:.1f} to {end:.1f} of their teacher's ten best kept {low} to "
        f"{high} % of its nDCG@10, where that was measured."
    )


def usable(centred_cosine: float) -> str:
    """What a student's mean centred cosine to its teacher has meant, in a sentence."""
    if centred_cosine >= USABLE:
        return f"Students from {USABLE} on kept {KEPT} % of nDCG@10 and more, where measured."
    return (
        f"That may be too little: students below {USABLE} kept as little as {BELOW} % of nDCG@10, "
        "where measured. Texts of other kinds bring more: docs/texts.md."
    )


def write_worst(
    path: Path,
    queries: Sequence[str],
    scores: Sequence[float],
    teacher: np.ndarray,
    student: np.ndarray,
    texts: Mapping[str, str],
) -> None:
    """Write queries, how far the searches agree on each, and their hits, as Markdown.

    Args:
        teacher, student: ids of the documents that each found, [n_queries, k], best first; "" for
            none.
        texts: of documents by id, as far as they are known; `LETTERS` of each are shown.
    """

    def cell(id: str, other: Sequence[str]) -> str:
        text = " ".join(texts.get(id, "").split())
        shown = text[:LETTERS] + ("…" if len(text) > LETTERS else "")
        words = ": ".join(filter(None, map(_harmless, (id, shown))))
        return f"{BOTH} {words}" if id in other else words

    parts = ["# Queries on which student and teacher agree least\n",
             f"{BOTH} marks a document that both found.\n"]  # fmt: skip
    for number, query in enumerate(queries):
        first, second = ([id for id in side[number] if id] for side in (teacher, student))
        parts += [f"## {number + 1}. {_harmless(query)}\n",
                  f"Rank-biased overlap {scores[number]:.4f}\n",
                  "| rank | teacher | student |\n|---:|:---|:---|"]  # fmt: skip
        for rank, (left, right) in enumerate(zip_longest(first, second, fillvalue=""), 1):
            parts.append(f"| {rank} | {cell(left, second)} | {cell(right, first)} |")
        parts.append("")
    with whole_file(path) as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")


def _harmless(text: str) -> str:
    """A text on one line, that neither ends a cell, marks anything up nor steers a terminal."""
    return re.sub(r"([\\`<|\[\]!#*_~:@])", r"\\\1", one_line(text))
