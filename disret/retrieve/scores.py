"""The table of scores: what was measured on what, which of it is known, and what is kept."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from disret import distributed
from disret.command_line import is_main_process
from disret.encode.encoders import Encoder, named
from disret.retrieve.metrics import retention
from disret.retrieve.runs import RunFiles, identify
from disret.retrieve.statistics import compare
from disret.tables import Row, append_row, read_rows

# Two rows that agree in these measure the same; names and dates do not matter.
IDENTITY = (
    "dataset", "split", "score_function", "document_weights", "query_weights", "collection",
    "document_max_length", "query_max_length", "dtype", "index_dtype", "query_backend",
)  # fmt: skip
COUNTS = ("documents", "queries")
# Of agreement with the document encoder's own queries; beside each, its interval.
AGREEMENT = ("rbo", "first", "first@10", "cosine", "squared_distance")
_OF_AGREEMENT = ("overlap@", *AGREEMENT)


def read_scores(path: Path) -> list[Row]:
    """The rows of a table of scores, none when there is no file.

    Raises:
        UserError: the file is another table.
    """
    return read_rows(path, (*IDENTITY, "query_encoder", "retention", *COUNTS))


class Scores:
    """The CSV table of `benchmark.py`, which grows row by row, and the run files beside it.

    Every rank of `torchrun` holds the same rows; rank 0 reads and writes the files.

    Args:
        k_values: cut-offs that a row must have to be of use.
        run_folder: where TREC run files go, if they are wanted.
        settings: `score_function`, and `dtype` and `index_dtype`, the precision of the encoders
            and of the vectors on disk.

    Attributes:
        depth: hits that the metrics look at; MRR@10 needs ten.
        runs: the run files.
        cut: the cut-off of the main metric.
        per_query: by data set and query encoder, its overlap with the document encoder's own hits
            on each query, of this run.

    Raises:
        UserError: the file is something else.
    """

    def __init__(
        self,
        path: Path,
        k_values: Sequence[int],
        run_folder: Path | None = None,
        **settings: str,
    ) -> None:
        self.path = path
        self.k_values = k_values
        self.depth = max(10, *k_values)
        self.cut = 10 if 10 in k_values else min(k_values)
        self.main_metric = f"NDCG@{self.cut}"
        self.per_query: dict[str, dict[str, np.ndarray]] = {}
        self._settings = settings
        self._document_backend = "torch"
        self.runs = RunFiles(run_folder, self.depth)
        kinds = ("NDCG", "MAP", "Recall", "P")
        self._needed = [*(f"{kind}@{k}" for kind in kinds for k in k_values), "MRR@10", *COUNTS]
        self._rows: list[Row] = distributed.decided_by_first(lambda: read_scores(path))

    def identify(
        self, dataset: str, split: str, content: str, teacher: Encoder, student: Encoder
    ) -> Row:
        """What a row is about, by names and by content.

        Args:
            content: fingerprint of the collection and its split.
        """
        self._document_backend = teacher.backend
        return identify(dataset, split, content, teacher, student, **self._settings)

    def scores(self, identity: Row) -> dict[str, float] | None:
        """Metrics and counts that are known already, unless a run file is missing."""
        row = self._find(identity)
        if not row or not distributed.decided_by_first(lambda: self.runs.is_there(identity)):
            return None
        more = [name for name in row if name.startswith(_OF_AGREEMENT) and row[name] is not None]
        return {name: row[name] for name in dict.fromkeys([*self._needed, *more])}

    def note(self, identity: Row, per_query: Mapping[str, np.ndarray]) -> None:
        """Keep an encoder's agreement on each query, for `comparisons`."""
        overlap = per_query[f"overlap@{self.cut}"]
        self.per_query.setdefault(identity["dataset"], {})[encoder_of(identity)] = overlap

    def add(self, identity: Row, scores: Mapping[str, float]) -> Row:
        """Complete a row with retention, and save it unless the file has it.

        Retention is the share of the document encoder's own score on the same index that is
        kept, in percent of the main metric; None as long as that score is not known.
        """
        of_teacher = {
            **identity,
            "query_encoder": identity["document_encoder"],
            "query_weights": identity["document_weights"],
            "query_max_length": identity["document_max_length"],
            "query_backend": self._document_backend,
        }
        share = None
        if of_teacher == identity:
            share = 100.0
        elif teacher := self._find(of_teacher):
            share = retention(scores[self.main_metric], teacher[self.main_metric])
        earlier = self._find(identity)
        row = _assemble(identity, scores, share)
        is_new = earlier is None or (earlier["retention"] is None and share is not None)
        if is_new and is_main_process():
            append_row(self.path, row)
        self._rows.append(row)
        return row

    def comparisons(self) -> list[str]:
        """Of each data set, whether later query encoders agree more or less than the first."""
        lines = []
        for dataset, encoders in self.per_query.items():
            (first, of_first), *others = encoders.items()
            for name, values in others:
                found = compare(of_first, values)
                more = "higher" if found["difference"] > 0 else "lower"
                lines.append(
                    f"{dataset}: overlap@{self.cut} of {name} is {more} than that of {first} by "
                    f"{abs(found['difference']):.4f} (p = {found['p']:.4f})."
                )
        return lines

    def _find(self, identity: Row) -> Row | None:
        """The newest row about the same that has all the cut-offs."""
        for row in reversed(self._rows):
            same = all(row.get(key) == identity[key] for key in IDENTITY)
            if same and all(row.get(name) is not None for name in self._needed):
                return row
        return None


def _assemble(identity: Row, scores: Mapping[str, float], share: float | None) -> Row:
    """A row in the paper's columns, retention, and what tells runs apart."""
    names = {key: identity[key] for key in ("dataset", "document_encoder", "query_encoder")}
    counts = {name: int(scores[name]) for name in COUNTS}
    metrics = {name: value for name, value in scores.items() if name not in COUNTS}
    now = datetime.now().isoformat(" ", "seconds")
    return {"datetime": now, **names, **metrics, "retention": share, **counts, **identity}


def average_parts(
    parts: Sequence[tuple[Row, Mapping[str, float]]],
) -> tuple[Row, dict[str, float]]:
    """Identity and scores of a data set in parts: the mean over its parts, as the paper did.

    Args:
        parts: identity and scores of each part, named `DATASET/PART`; or of the only one.
    """
    if len(parts) == 1:
        return parts[0]
    identities = [identity for identity, _ in parts]
    contents = "+".join(identity["collection"] for identity in identities)
    whole = {
        **identities[0],
        "dataset": identities[0]["dataset"].rpartition("/")[0],
        "collection": hashlib.sha256(contents.encode()).hexdigest()[:16],
    }
    names = [
        name for name in parts[0][1]
        if all(name in scores for _, scores in parts) and not name.endswith((" low", " high"))
    ]  # fmt: skip
    totals = {name: sum(scores[name] for _, scores in parts) for name in names}
    means = {
        name: total if name in COUNTS else round(total / len(parts), 5)
        for name, total in totals.items()
    }
    return whole, means


def encoder_of(row: Mapping[str, Any]) -> str:
    """The query encoder of a row, as the grammar of encoders names it."""
    return named(row["query_encoder"], row["query_backend"])


def newest_scores(
    rows: Iterable[Row],
    key: Callable[[Row], Any] = encoder_of,
    document_weights: str | None = None,
) -> dict[Any, dict[str, Row]]:
    """The newest row of each query encoder on each data set, of one document encoder.

    A data set in parts counts once, by its average.

    Args:
        key: what encoders are told apart by.
        document_weights: of the document encoder; by default, that of the last row.

    Returns:
        By encoder, then by data set.
    """
    rows = list(rows)
    weights = document_weights or (rows[-1]["document_weights"] if rows else None)
    newest: dict[Any, dict[str, Row]] = {}
    for row in rows:
        if row["document_weights"] == weights and "/" not in row["dataset"]:
            newest.setdefault(key(row), {})[row["dataset"]] = row
    return newest


def mean_retention(rows: Iterable[Row]) -> float | None:
    """Mean over data sets of the retention that is known, in percent."""
    known = [row["retention"] for row in rows if row["retention"] is not None]
    return mean(known) if known else None


def summary(rows: Sequence[Row], metric: str) -> list[Row]:
    """A line for each data set, a column for each encoder, and the average line.

    With more than two encoders, a line for each of them.
    """
    if len({encoder_of(row) for row in rows}) > 2:
        return _by_encoder(rows, metric)
    lines: dict[str, Row] = {}
    for row in rows:
        counts = {name: row[name] for name in COUNTS}
        line = lines.setdefault(row["dataset"], {"dataset": row["dataset"], **counts})
        line[f"{metric} {encoder_of(row)}"] = row.get(metric)
        overlap = f"overlap@{metric.partition('@')[2]}"
        if row.get(overlap) is not None:
            line[overlap] = row[overlap]
        if row["query_weights"] != row["document_weights"] and row["retention"] is not None:
            line["retention %"] = row["retention"]
    table = list(lines.values())
    if len(table) > 1:
        average: Row = {"dataset": "average"}
        for column in list(table[0])[1 + len(COUNTS) :]:
            known = [line[column] for line in table if line.get(column) is not None]
            average[column] = round(mean(known), 5) if known else None
        table.append(average)
    return table


def _by_encoder(rows: Sequence[Row], metric: str) -> list[Row]:
    table = []
    for name in dict.fromkeys(map(encoder_of, rows)):
        own = [row for row in rows if encoder_of(row) == name]
        line = {
            "query encoder": name,
            **{f"{metric} {row['dataset']}": row.get(metric) for row in own},
        }
        if (share := mean_retention(own)) is not None:
            line["retention %"] = round(share, 2)
        overlap = f"overlap@{metric.partition('@')[2]}"
        if metric != overlap and (known := [r[overlap] for r in own if r.get(overlap) is not None]):
            line[overlap] = round(mean(known), 4)
        table.append(line)
    return table
