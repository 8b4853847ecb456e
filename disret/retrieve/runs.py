"""Runs: the hits of queries as pytrec_eval takes them, and their files in TREC's format."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from disret.command_line import UserError, shortened
from disret.data.collection import Qrels
from disret.data.text_files import lines
from disret.encode.encoders import Encoder
from disret.files import file_name, readable, whole_file
from disret.tables import Row

Run = dict[str, dict[str, float]]  # query id -> document id -> score


def to_run(query_ids: Sequence[str], hits: np.ndarray, scores: np.ndarray, k: int) -> Run:
    """The best `k` documents of each query, without the document that has the query's own id.

    ArguAna's and Quora's queries stand in their corpora; BEIR ignores them as hits.

    Args:
        hits: document ids [n_queries, up to k + 1], best first; "" where there is none.
        scores: float32, of the same shape.
    """
    run: Run = {}
    for query_id, documents, values in zip(query_ids, hits, scores, strict=True):
        found = dict(zip(documents.tolist(), values.tolist(), strict=True))
        found.pop("", None)
        found.pop(query_id, None)
        if len(found) > k:
            found.popitem()  # the last
        run[query_id] = found
    return run


def read_run(path: Path, qrels: Qrels) -> Run:
    """The hits of a TREC run file, without those that have their query's own id, as BEIR does.

    Raises:
        UserError: it is none (the message gives the line), or has no query that the judgments are
            about.
    """
    run: Run = {}
    for number, line in lines(path):
        cells = line.split()
        if not cells:
            continue
        try:
            query, _, document, _, score, _ = cells
            value = float(score)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected query, Q0, document, rank, score and tag, found "
                f"{len(cells)} columns: {shortened(line)!r}."
            ) from None
        if value != value:
            raise UserError(f"{path}, line {number}: the score {score} is no number.")
        if document in run.setdefault(query, {}):
            raise UserError(f"{path}, line {number}: {document} is a hit of {query} once more.")
        run[query][document] = value
    if not run.keys() & qrels.keys():
        raise UserError(f"{path} has none of the queries that the judgments are about.")
    for query, hits in run.items():
        hits.pop(query, None)
    return run


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run in TREC's format, whole or not at all, as BEIR does: best first, all ranks 0."""
    from beir.util import save_runfile

    with whole_file(path) as partial:
        save_runfile(str(partial), run, tag, max(map(len, run.values()), default=0))


def identify(
    dataset: str, split: str, content: str, teacher: Encoder, student: Encoder, **settings: str
) -> Row:
    """What a run is of, by names and by content, as the tables of results have it.

    Args:
        content: fingerprint of the queries, their judgments and the documents.
        teacher, student: what embedded the documents, and the queries.
        settings: `score_function`, and `dtype` and `index_dtype`, the precision of the encoders
            and of the vectors on disk.
    """
    return {
        "dataset": dataset,
        "document_encoder": teacher.name,
        "query_encoder": student.name,
        "split": split,
        "score_function": settings["score_function"],
        "document_weights": teacher.fingerprint[:16],
        "query_weights": student.fingerprint[:16],
        "collection": content[:16],
        "document_max_length": str(teacher.max_length),
        "query_max_length": str(student.max_length),
        "dtype": settings["dtype"],
        "index_dtype": settings["index_dtype"],
        "query_backend": student.backend,
    }


def run_name(identity: Row) -> str:
    """Of a data set, split, encoder and backend, for the name of a file."""
    encoder = file_name(identity["query_encoder"])
    data = f"{identity['dataset'].replace('/', '-')}.{identity['split']}"
    return f"{data}.{encoder}.{identity['query_backend']}"


def run_path(folder: Path, identity: Row, depth: int) -> Path:
    """The file of a run, `depth` hits a query, named by what decides it but weights and texts."""
    kind = "{score_function}.{dtype}-{index_dtype}".format_map(identity).strip(".")
    kind = re.sub(r"[^\w.+-]+", "-", kind)
    return folder / f"{run_name(identity)}.{kind}.top{depth}.trec"


def run_tag(identity: Row) -> str:
    """The last column of a run's file: what made it, by content."""
    keys = ("document_weights", "query_weights", "collection")
    return "-".join(identity[key][:8] for key in keys)


def is_run_of(path: Path, identity: Row) -> bool:
    """Whether a run's file is there, and of the same weights and texts."""
    if not path.exists():
        return False
    with readable(path).open(encoding="utf-8", errors="replace") as file:
        return file.readline().split()[-1:] == [run_tag(identity)]


def check_ids(ids: Iterable[str], what: str) -> None:
    """Raise `UserError` for an id that a run's file cannot hold: one with a space."""
    if bad := [identifier for identifier in ids if len(identifier.split()) != 1]:
        raise UserError(f"the id {bad[0]!r} of a {what} has a space, so it cannot stand in a TREC "
                        "run file.")  # fmt: skip
