"""TREC run files, one for each encoder, backend and data set."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from disret.command_line import UserError
from disret.data.collection import Qrels
from disret.files import readable
from disret.retrieve.metrics import Run, write_trec_run
from disret.tables import Row


@dataclass(frozen=True)
class RunFiles:
    """The run files of `benchmark.py`, if any are wanted.

    Attributes:
        folder: where they go; None if they are not wanted.
        depth: hits of each query.
    """

    folder: Path | None
    depth: int

    def path(self, identity: Row) -> Path:
        """Named by all that decides its content but weights and texts."""
        name = run_name(identity)
        precision = f"{identity['dtype']}-{identity['index_dtype']}"
        kind = f"{identity['score_function']}.{precision}.top{self.depth}"
        return self.folder / f"{name}.{kind}.trec"

    def is_there(self, identity: Row) -> bool:
        """Whether the file is there and of the same weights and texts, or not wanted."""
        if self.folder is None:
            return True
        path = self.path(identity)
        if not path.exists():
            return False
        with readable(path).open(encoding="utf-8", errors="replace") as file:
            return file.readline().split()[-1:] == [_tag(identity)]

    def write(self, identity: Row, run: Run) -> None:
        """Write a run, if it is wanted."""
        if self.folder is not None:
            write_trec_run(self.path(identity), run, _tag(identity))

    def check_ids(self, ids: Iterable[str], what: str) -> None:
        """Raise `UserError` for an id that a run file, if wanted, cannot hold: one with a space."""
        if self.folder is None:
            return
        for identifier in ids:
            if len(identifier.split()) != 1:
                raise UserError(
                    f"the id {identifier!r} of a {what} has a space, so it cannot stand in a TREC "
                    "run file."
                )


def read_run(path: Path, qrels: Qrels) -> Run:
    """The hits of a TREC run file.

    Raises:
        UserError: it is none, or has no query that the judgments are about.
    """
    import pytrec_eval

    try:
        with readable(path).open(encoding="utf-8") as file:
            run = pytrec_eval.parse_run(file)
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"{path} cannot be read as a TREC run: {error}") from None
    if not run.keys() & qrels.keys():
        raise UserError(f"{path} has none of the queries that the judgments are about.")
    return run


def run_name(identity: Row) -> str:
    """Of a data set, split, encoder and backend, for the name of a file."""
    encoder = re.sub(r"[^\w.+-]+", "--", identity["query_encoder"].strip("/."))
    data = f"{identity['dataset'].replace('/', '-')}.{identity['split']}"
    return f"{data}.{encoder}.{identity['query_backend']}"


def _tag(identity: Row) -> str:
    """The last column of a run: what made it, by content."""
    keys = ("document_weights", "query_weights", "collection")
    return "-".join(identity[key][:8] for key in keys)
