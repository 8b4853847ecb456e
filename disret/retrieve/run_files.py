"""TREC run files, one for each encoder and data set."""

from dataclasses import dataclass
from pathlib import Path

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
        """Named by all that decides its content but the teacher's weights and the texts."""
        encoder = f"{Path(identity['query_encoder']).name}-{identity['query_weights'][:8]}"
        data = f"{identity['dataset'].replace('/', '-')}.{identity['split']}"
        precision = f"{identity['dtype']}-{identity['index_dtype']}"
        kind = f"{identity['score_function']}.{precision}.top{self.depth}"
        return self.folder / f"{data}.{encoder}.{kind}.trec"

    def is_there(self, identity: Row) -> bool:
        """Whether the file is there, or not wanted."""
        return self.folder is None or self.path(identity).exists()

    def write(self, identity: Row, run: Run) -> None:
        """Write a run, if it is wanted."""
        if self.folder is not None:
            write_trec_run(self.path(identity), run, Path(identity["query_encoder"]).name)
