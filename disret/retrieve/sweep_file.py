"""The table of sweeps: an approximate index at several settings, and what a student needs of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from disret.command_line import UserError
from disret.encode.timings import Timings
from disret.files import check_writable
from disret.retrieve.approximate import check_count, empty_index, open_approximate
from disret.retrieve.effort import DEPTH, NDCG, OVERLAP, RECALL, TIMES, Encoder, measure
from disret.retrieve.existing import VECTOR_FILES
from disret.retrieve.faiss_file import FaissFile
from disret.retrieve.hits import Hits
from disret.retrieve.scores import encoder_of
from disret.retrieve.settings import Setting, set_parameters
from disret.retrieve.tasks import Target
from disret.tables import Row, append_rows, format_table, read_rows

GOOD = 0.95  # recall of a teacher's search that is worth having
NEEDED = ("dataset", "index", "query_encoder", "query_backend", "setting", RECALL, *TIMES)


def read_sweeps(path: Path) -> list[Row]:
    """The rows of a table of sweeps, none when there is no file.

    Raises:
        UserError: the file is another table.
    """
    return read_rows(path, NEEDED)


def newest_sweeps(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of the last run on each data set and index, by these two as a title has them."""
    newest: dict[str, list[Row]] = {}
    for row in rows:
        group = newest.setdefault(f"{row['dataset']}, {row['index']}", [])
        if group and group[-1]["datetime"] != row["datetime"]:
            group.clear()
        group.append(row)
    return newest


@dataclass
class SweepFile:
    """The CSV table of an approximate index, to which each run adds what it has measured.

    Speeds of different runs do not compare, so that nothing is taken from earlier rows.

    Attributes:
        settings: to search the index with.
        threads: of the CPU, while single queries are timed.
        score_function: `dot` or `cos_sim`.
        kind: of the index, for FAISS's index factory; it is made of the target's own vectors.
        file: instead of a kind, the FAISS index that is there.
        rows: what this run has measured.
        depth: exact hits that are looked at.

    Raises:
        UserError: the table is another, or cannot be written.
    """

    path: Path
    settings: Sequence[Setting]
    threads: int
    score_function: str
    kind: str
    file: Path | None = None
    rows: list[Row] = field(default_factory=list)
    depth: int = DEPTH

    def __post_init__(self) -> None:
        check_writable(self.path)
        read_sweeps(self.path)

    def check(self, dimension: int) -> None:
        """Raise `UserError` unless such an index can be made, and has the parameters."""
        if self.file and (self.file.is_dir() or self.file.suffix.lower() in VECTOR_FILES):
            raise UserError(f"{self.file} holds vectors, which are searched exactly and at once.")
        parameters = self.settings[0].parameters  # of which the others differ in value alone
        if self.file:
            FaissFile(self.file).set_parameters(parameters)
        else:
            index = empty_index(self.kind, dimension, self.score_function)
            set_parameters(index, parameters, self.kind)

    def check_count(self, documents: int, dimension: int) -> None:
        """Raise `UserError` if so few vectors cannot train an index of the kind."""
        if not self.file:
            index = empty_index(self.kind, dimension, self.score_function)
            check_count(self.kind, index, documents)

    def measure(
        self,
        target: Target,
        hits: Mapping[Encoder, Hits],
        identities: Mapping[Encoder, Row],
        timings: Timings,
    ) -> None:
        """Make or open the index, search it with every encoder and setting, and save the rows.

        Args:
            hits: of each encoder in the target's own index, the teacher's first.
            identities: what each encoder's rows are about.
        """
        if self.file:
            index = FaissFile(self.file)
        else:
            index = open_approximate(target.index, self.kind, self.score_function, timings)
        with timings.measure("sweep", len(target.queries)):
            found = measure(index, target, hits, self.settings, self.threads)
        now = datetime.now().isoformat(" ", "seconds")
        counts = {"documents": target.index.documents, "queries": len(target.queries)}
        name = self.file.name if self.file else self.kind
        rows = [
            {"datetime": now, "index": name, **identities[encoder], **row, **counts}
            for encoder, several in found.items()
            for row in several
        ]
        append_rows(self.path, rows)
        self.rows += rows

    def report(self) -> str:
        """What this run has measured, as a table, the answers, and where it all is."""
        shown = (RECALL, NDCG, OVERLAP, *TIMES)
        several = len({row["dataset"] for row in self.rows}) > 1
        table = [
            {**({"dataset": row["dataset"]} if several else {}), "query encoder": encoder_of(row),
             "setting": row["setting"],
             **{name: row[name] for name in shown if any(r[name] is not None for r in self.rows)}}
            for row in self.rows
        ]  # fmt: skip
        where = f"Every setting is in {self.path}."
        return "\n".join([format_table(table), "", *answers(self.rows), where])


def answers(rows: Sequence[Row]) -> list[str]:
    """What each student needs to find as much as the teacher does, and its speed-up then.

    Args:
        rows: of `measure`, with what identifies them, in the order of the settings.

    Returns:
        A line or two for each student, data set and index.
    """
    lines = []
    for title, here in newest_sweeps(rows).items():
        if any(row[RECALL] is None for row in here):
            lines.append(
                f"{title}: {RECALL} cannot be measured, as the index does not hold the vectors "
                "themselves."
            )
            continue
        teacher = [row for row in here if row["query_weights"] == row["document_weights"]]
        others = [row for row in here if row["query_weights"] != row["document_weights"]]
        for name in dict.fromkeys(map(encoder_of, others)):
            student = [row for row in others if encoder_of(row) == name]
            lines += [f"{title}, {line}" for line in _answer(name, teacher, student)]
    return lines


def _answer(name: str, teacher: Sequence[Row], student: Sequence[Row]) -> Iterator[str]:
    of_teacher = good_setting(teacher)
    reached = reaching(student, of_teacher)
    said = f"the teacher's {RECALL} at {of_teacher['setting']} ({of_teacher[RECALL]:.3f})"
    if reached:
        yield f"{name}: reaches {said} with {reached['setting']}{_speed(of_teacher, reached)}."
    else:
        best = max(student, key=lambda row: row[RECALL])
        yield (
            f"{name}: does not reach {said} with what was tried: {best[RECALL]:.3f} "
            f"with {best['setting']}{_speed(of_teacher, best)}."
        )
    others = []
    for row in teacher:
        if row is not of_teacher:
            found = reaching(student, row)
            what = found["setting"] if found else "more than was tried"
            others.append(f"at {row['setting']} it takes {what}")
    if others:
        yield f"{name}: for the teacher's {RECALL} {', '.join(others)}."


def good_setting(rows: Sequence[Row]) -> Row:
    """An encoder's first setting of a recall of GOOD or more, or its best."""
    good = [row for row in rows if row[RECALL] >= GOOD]
    return good[0] if good else max(rows, key=lambda row: row[RECALL])


def reaching(student: Sequence[Row], of_teacher: Row) -> Row | None:
    """The first setting with the teacher's recall, to the three decimals that are shown."""
    wanted = round(of_teacher[RECALL], 3)
    return next((row for row in student if round(row[RECALL], 3) >= wanted), None)


def _speed(of_teacher: Row, of_student: Row) -> str:
    if any(row["total_ms"] is None for row in (of_teacher, of_student)):
        return ""
    encoding, both = (
        f"{of_teacher[name] / of_student[name]:.3g}x" for name in ("encode_ms", "total_ms")
    )
    return f"; encoding is {encoding} as fast, encoding and search together {both}"
