"""The rows of a scores file: what was measured on what, and which of it is done already."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Row = dict[str, Any]

# Two rows that agree in these measure the same; names and dates do not matter.
IDENTITY = (
    "dataset", "split", "score_function", "document_weights", "query_weights", "collection",
    "document_max_length", "query_max_length", "dtype", "index_dtype", "query_backend",
)  # fmt: skip
# Rows of versions that knew nothing else do not name these.
_EARLIER = {"dtype": "float32", "index_dtype": "float32", "query_backend": "torch"}
COUNTS = ("documents", "queries")


def metric_names(k_values: Sequence[int]) -> list[str]:
    """The metrics of a row, in BEIR's names."""
    return [f"{kind}@{k}" for kind in ("NDCG", "MAP", "Recall", "P") for k in k_values] + ["MRR@10"]


def main_metric(k_values: Sequence[int]) -> str:
    """The metric that retention is measured on: nDCG@10, or at the least cut-off given."""
    return f"NDCG@{10 if 10 in k_values else min(k_values)}"


def identify(
    dataset: str,
    content: str,
    split: str,
    score_function: str,
    document_encoder: tuple[str, str, int],
    query_encoder: tuple[str, str, int],
    dtype: str,
    index_dtype: str,
    query_backend: str = "torch",
) -> Row:
    """What a row is about, by names and by content.

    Args:
        content: fingerprint of the collection and its split.
        document_encoder, query_encoder: name, fingerprint, and maximum length in tokens.
        dtype, index_dtype: the precision of the encoders, and of the vectors on disk.
        query_backend: what computed the queries' embeddings.
    """
    return {
        "dataset": dataset,
        "document_encoder": document_encoder[0],
        "query_encoder": query_encoder[0],
        "split": split,
        "score_function": score_function,
        "document_weights": document_encoder[1][:16],
        "query_weights": query_encoder[1][:16],
        "collection": content[:16],
        "document_max_length": str(document_encoder[2]),
        "query_max_length": str(query_encoder[2]),
        "dtype": dtype,
        "index_dtype": index_dtype,
        "query_backend": query_backend,
    }


def baseline_of(identity: Row) -> Row:
    """The identity of the document encoder's own queries on the same index."""
    return {
        **identity,
        "query_encoder": identity["document_encoder"],
        "query_weights": identity["document_weights"],
        "query_max_length": identity["document_max_length"],
        "query_backend": "torch",
    }


def find_row(
    rows: Sequence[Mapping[str, Any]], identity: Row, k_values: Sequence[int]
) -> Mapping[str, Any] | None:
    """The newest row of a scores file about the same, if it has all the cut-offs."""
    wanted = [*metric_names(k_values), *COUNTS]
    for row in reversed(rows):
        same = all((row.get(key) or _EARLIER.get(key)) == identity[key] for key in IDENTITY)
        if same and all(row.get(name) is not None for name in wanted):
            return row
    return None


def scores_of(row: Mapping[str, Any], k_values: Sequence[int]) -> dict[str, float]:
    """Metrics and counts of a row of a scores file."""
    return {name: float(row[name]) for name in (*metric_names(k_values), *COUNTS)}


def assemble(identity: Row, scores: Mapping[str, float], retention: float | None) -> Row:
    """A row in the paper's columns, retention, and what tells runs apart."""
    names = {key: identity[key] for key in ("dataset", "document_encoder", "query_encoder")}
    counts = {name: int(scores[name]) for name in COUNTS}
    metrics = {name: value for name, value in scores.items() if name not in COUNTS}
    now = datetime.now().isoformat(" ", "seconds")
    row = {"datetime": now, **names, **metrics, "retention": retention, **counts}
    return {**row, **{key: value for key, value in identity.items() if key not in row}}


def average_parts(
    parts: Sequence[tuple[Row, Mapping[str, float]]],
) -> tuple[Row, dict[str, float]]:
    """Identity and scores of a data set in parts: the mean over its parts, as the paper did.

    Args:
        parts: identity and scores of each part, named `DATASET/PART`.
    """
    identities = [identity for identity, _ in parts]
    contents = "+".join(identity["collection"] for identity in identities)
    whole = {
        **identities[0],
        "dataset": identities[0]["dataset"].rpartition("/")[0],
        "collection": hashlib.sha256(contents.encode()).hexdigest()[:16],
    }
    totals = {name: sum(scores[name] for _, scores in parts) for name in parts[0][1]}
    means = {
        name: total if name in COUNTS else round(total / len(parts), 5)
        for name, total in totals.items()
    }
    return whole, means


def encoder_of(row: Mapping[str, Any]) -> str:
    """The query encoder of a row, with its backend if that is not torch."""
    backend = row.get("query_backend") or "torch"
    return row["query_encoder"] + ("" if backend == "torch" else f" ({backend})")


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
        line[f"{metric} {encoder_of(row)}"] = row[metric]
        if row["query_weights"] != row["document_weights"] and row["retention"] is not None:
            line["retention %"] = row["retention"]
    table = list(lines.values())
    if len(table) > 1:
        average: Row = {"dataset": "average"}
        for column in list(table[0])[1 + len(COUNTS) :]:
            known = [line[column] for line in table if line.get(column) is not None]
            average[column] = round(sum(known) / len(known), 5)
        table.append(average)
    return table


def _by_encoder(rows: Sequence[Row], metric: str) -> list[Row]:
    lines: dict[str, Row] = {}
    kept: dict[str, list[float]] = {}
    for row in rows:
        name = encoder_of(row)
        line = lines.setdefault(name, {"query encoder": name})
        line[f"{metric} {row['dataset']}"] = row[metric]
        if row["retention"] is not None:
            kept.setdefault(name, []).append(row["retention"])
    for name, values in kept.items():
        lines[name]["retention %"] = round(sum(values) / len(values), 2)
    return list(lines.values())
