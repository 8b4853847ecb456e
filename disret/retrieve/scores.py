"""The table of scores: what was measured on what, which of it is known, and what is kept."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

from disret import distributed
from disret.command_line import is_main_process
from disret.encode.encoders import named
from disret.retrieve.metrics import retention
from disret.retrieve.runs import is_run_of, run_path
from disret.tables import Row, append_rows, read_rows

# Two rows that agree in these measure the same; names and dates do not matter.
IDENTITY = (
    "dataset", "split", "score_function", "document_weights", "query_weights", "collection",
    "document_max_length", "query_max_length", "dtype", "index_dtype", "query_backend",
)  # fmt: skip
COUNTS = ("documents", "queries")
# Beginnings of the columns of agreement with the document encoder's own queries.
AGREEMENT = ("overlap@", "rbo", "first", "cosine", "centred cosine", "squared_distance")


def read_scores(path: Path) -> list[Row]:
    """The rows of a table of scores, none when there is no file.

    Raises:
        UserError: the file is another table.
    """
    return read_rows(path, (*IDENTITY, "query_encoder", "retention", *COUNTS))


class Scores:
    """The CSV table of `benchmark.py`, which grows row by row.

    Every rank of `torchrun` holds the same rows; rank 0 reads and writes the file.

    Args:
        k_values: cut-offs that a row must have to be of use.
        run_folder: where TREC run files go, if they are wanted.

    Attributes:
        depth: hits that the metrics look at; MRR@10 needs ten.
        cut: the cut-off of the main metric, nDCG.

    Raises:
        UserError: the file is something else.
    """

    def __init__(self, path: Path, k_values: Sequence[int], run_folder: Path | None = None) -> None:
        self.path, self.run_folder = path, run_folder
        self.depth = max(10, *k_values)
        self.cut = 10 if 10 in k_values else min(k_values)
        self.main_metric = f"NDCG@{self.cut}"
        kinds = ("NDCG", "MAP", "Recall", "P")
        self._needed = [*(f"{kind}@{k}" for kind in kinds for k in k_values), "MRR@10", *COUNTS]
        self._known: dict[tuple, Row] = {}
        for row in distributed.decided_by_first(lambda: read_scores(path)):
            self._hold(row)

    def known(self, identity: Row) -> dict[str, float] | None:
        """Metrics and counts that are known already, unless a run file is missing."""
        row = self._known.get(_key(identity))
        if row and self.run_folder:
            path = run_path(self.run_folder, identity, self.depth)
            row = row if distributed.decided_by_first(lambda: is_run_of(path, identity)) else None
        if not row:
            return None
        more = [name for name in row if name.startswith(AGREEMENT) and row[name] is not None]
        return {name: row[name] for name in dict.fromkeys([*self._needed, *more])}

    def add(self, measured: Sequence[tuple[Row, Mapping[str, float]]]) -> list[Row]:
        """Complete rows with retention, and save those that the file does not have.

        Retention is the share of the document encoder's own score on the same index that is
        kept, in percent of the main metric.

        Args:
            measured: identity and scores of each encoder, that of the documents first.
        """
        now = datetime.now().isoformat(" ", "seconds")
        rows, new = [], []
        for identity, scores in measured:
            share = retention(scores[self.main_metric], measured[0][1][self.main_metric])
            names = {key: identity[key] for key in ("dataset", "document_encoder", "query_encoder")}
            metrics = {name: value for name, value in scores.items() if name not in COUNTS}
            counts = {name: int(scores[name]) for name in COUNTS}
            row = {"datetime": now, **names, **metrics, "retention": share, **counts, **identity}
            earlier = self._known.get(_key(identity))
            if earlier is None or (earlier["retention"] is None and share is not None):
                new.append(row)
            self._hold(row)
            rows.append(row)
        if new and is_main_process():
            append_rows(self.path, new)
        return rows

    def _hold(self, row: Row) -> None:
        if all(row.get(name) is not None for name in self._needed):
            self._known[_key(row)] = row


def _key(row: Row) -> tuple:
    return tuple(row.get(name) for name in IDENTITY)


def average_parts(
    parts: Sequence[tuple[Row, Mapping[str, float]]],
) -> tuple[Row, Mapping[str, float]]:
    """Identity and scores of a data set in parts: the mean over its parts, as the paper did.

    Args:
        parts: identity and scores of each part, named `DATASET/PART`; or of the only one.
    """
    if len(parts) == 1:
        return parts[0]
    identities, scores = zip(*parts, strict=True)
    contents = "+".join(identity["collection"] for identity in identities)
    whole = {
        **identities[0],
        "dataset": identities[0]["dataset"].rpartition("/")[0],
        "collection": hashlib.sha256(contents.encode()).hexdigest()[:16],
    }
    means = {}
    for name in scores[0]:
        if all(name in each for each in scores) and not name.endswith((" low", " high")):
            total = sum(each[name] for each in scores)
            means[name] = total if name in COUNTS else round(total / len(parts), 5)
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
    newest: dict[Any, dict[str, Row]] = {}
    for row in rows:
        is_of_it = row["document_weights"] == (document_weights or rows[-1]["document_weights"])
        if is_of_it and "/" not in row["dataset"]:
            newest.setdefault(key(row), {})[row["dataset"]] = row
    return newest


def mean_retention(rows: Iterable[Row]) -> float | None:
    """Mean over data sets of the retention that is known, in percent."""
    known = [row["retention"] for row in rows if row["retention"] is not None]
    return mean(known) if known else None


def _mean(rows: Iterable[Row], column: str, digits: int) -> float | None:
    known = [row[column] for row in rows if row.get(column) is not None]
    return round(mean(known), digits) if known else None


def summary(rows: Sequence[Row], metric: str) -> list[Row]:
    """A line for each data set, a column for each encoder, and the average line.

    With more than two encoders, a line for each of them and their means over the data sets.
    """
    overlap = f"overlap@{metric.partition('@')[2]}"
    encoders: dict[str, list[Row]] = {}
    for row in rows:
        encoders.setdefault(encoder_of(row), []).append(row)
    if len(encoders) > 2:
        return [
            {
                "query encoder": name,
                **{f"{metric} {row['dataset']}": row[metric] for row in own},
                "retention %": _mean(own, "retention", 2),
                overlap: _mean(own, overlap, 4),
            }
            for name, own in encoders.items()
        ]
    lines: dict[str, Row] = {}
    for row in rows:
        start = {name: row[name] for name in ("dataset", *COUNTS)}
        line = lines.setdefault(row["dataset"], start)
        line[f"{metric} {encoder_of(row)}"] = row[metric]
        if row["query_weights"] != row["document_weights"]:
            line |= {overlap: row.get(overlap), "retention %": row["retention"]}
    table = list(lines.values())
    if len(table) > 1:
        columns = list(table[0])[1 + len(COUNTS) :]
        table.append({"dataset": "average", **{name: _mean(table, name, 5) for name in columns}})
    return table
