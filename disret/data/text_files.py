"""Files of texts and tables as people have them, read by one set of rules.

.tsv .tab .csv         a table, whose first line may name its columns
.jsonl .ndjson .json   objects, one a line or in a list
.parquet               a table, or a folder of its parts
anything else          a text a line

Text is UTF-8, perhaps behind a byte order mark, perhaps gzipped, whatever the name says; lines end
in LF, CRLF or CR. A suffix may have letters of either case.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from disret.command_line import UserError, shortened
from disret.files import readable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

# What columns are called, as `named` has it, in the order in which they are looked for.
QUERIES = (
    "query", "queries", "query text", "search term", "search terms", "search query", "search",
    "question", "questions", "text", "sentence", "keyword", "keywords", "utterance",
    "top queries", "term", "prompt",
)  # fmt: skip
TEXTS = ("text", *QUERIES)
IDS = (  # of documents
    "docid", "doc id", "pid", "corpus id", "docno", "doc no", "id", "document id", "did",
)  # fmt: skip
QUERY_IDS = ("query id", "qid", "queryid", "topic", "topic id")
GRADES = ("score", "relevance", "grade", "rel", "label")
PARQUET, OBJECTS, TABLES = (".parquet",), (".jsonl", ".ndjson", ".json"), (".tsv", ".tab", ".csv")
KINDS = (*PARQUET, *OBJECTS, *TABLES)
LIKE = {r".*\t": ".tsv", r'\{"': ".jsonl", r'\[[{"]': ".json"}  # what a line of text looks like
OTHERS = {  # what a file is that begins so
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch that by git lfs pull",
    b"PK\3\4": "an archive, such as .xlsx or .npz; save its table as CSV, its vectors as .npy",
    b"\x80": "a pickle of Python objects; write Parquet",
    b"PAR1": "Parquet; call it .parquet",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
NUMBER = re.compile(r"[-+]?[\d.,]*\d ?%?")
SAMPLE, SHOWN = 100, 20  # rows by which a column is known to have numbers, and columns listed
ROWS = 1 << 13  # of Parquet that are read together
csv.field_size_limit(1 << 30)

Rows = Iterator[tuple[int, list[Any]]]  # numbers of lines or rows, from 1, with some values


def file_of(name: Path | str) -> tuple[Path, str | None]:
    """The file and the column of FILE[#COLUMN]; a file of the whole name goes first."""
    file, _, column = str(name).rpartition("#")
    return (Path(file), column) if file and not Path(name).exists() else (Path(name), None)


def suffix_of(path: Path) -> str:
    """What says the format: in small letters, and without .gz."""
    is_folder = any(path.glob("*.parquet"))
    return ".parquet" if is_folder else Path(path.name.lower().removesuffix(".gz")).suffix


def parts(path: Path) -> list[Path]:
    """The files of a table: those of Parquet in a folder, the 2nd before the 10th, or the one."""
    padded = partial(re.sub, r"\d+", lambda number: number[0].zfill(20))
    return sorted(path.glob("*.parquet"), key=lambda part: padded(part.name)) or [readable(path)]


def named(column: str) -> str:
    """The name of a column in small letters, with spaces between its words, as of `searchTerm`."""
    return " ".join(re.sub("[_-]|(?<=[a-z])(?=[A-Z])", " ", column).casefold().split())


def listed(names: Iterable[str]) -> str:
    """Some of the columns, for a sentence."""
    shown = [*islice(names, SHOWN + 1)]
    return ", ".join([*shown[:SHOWN], *("…" for _ in shown[SHOWN:])]) or "none"


def is_text(value: Any) -> bool:
    """Whether a value of JSON is a text without half a surrogate pair, as cut texts may have."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def refuse_others(path: Path, start: bytes, others: Mapping[bytes, str] = OTHERS) -> None:
    """Raise `UserError` if a file that begins so is empty or known to be something else."""
    if not start:
        raise UserError(f"{path} is empty.")
    for sign, what in others.items():
        if start.startswith(sign):
            raise UserError(f"{path} is {what}.")


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file of text, unpacked if they are gzip's."""
    with readable(path).open("rb") as file:
        is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
        try:
            if path.suffix.lower() == ".gz" and not is_gzip and file.peek(1):
                raise EOFError
            stream = gzip.GzipFile(fileobj=file) if is_gzip else file
            start = stream.peek(1000)[:1000]
            refuse_others(path, start)
            if start.count(0) > len(start) // 4:
                raise UserError(f"{path} is UTF-16 text or none at all; save it as UTF-8.")
            yield stream
        except (gzip.BadGzipFile, zlib.error, EOFError):
            raise UserError(f"{path} is not a whole gzip file.") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file by their numbers from 1, without what ends them.

    Raises:
        UserError: it is not there, no UTF-8 (the message gives the line), or damaged.
    """
    number = 0
    with unpacked(path) as stream:
        for raw in stream:
            try:
                text = raw.decode("utf-8" if number else "utf-8-sig")
            except UnicodeDecodeError:
                said = f"{path}, line {number + 1}: not UTF-8 text; save it as UTF-8."
                raise UserError(said) from None
            for line in text.rstrip("\r\n").split("\r"):
                number += 1
                yield number, line


def objects(path: Path) -> Iterator[tuple[int, Any]]:
    """What the lines of a file of JSON hold, or the entries of its list, by their numbers.

    Raises:
        UserError: a line holds no JSON.
    """
    number, is_first = 0, True
    try:
        for number, line in lines(path):
            if is_first and line.lstrip().startswith("["):
                yield from enumerate(json.loads("\n".join(text for _, text in lines(path))), 1)
                return
            if line.strip():
                is_first = False
                yield number, json.loads(line)
    except ValueError as error:
        if is_first:  # a list, read as one
            raise UserError(f"{path}, line {getattr(error, 'lineno', 1)}: no JSON.") from None
        raise UserError(f"{path}, line {number}: no JSON: {shortened(line)!r}.") from None


class Table(NamedTuple):
    """A file as a table.

    Attributes:
        columns: their names, or where nothing names them their numbers from 1.
        first: of unnamed columns, what the first row has; None of named ones.
        rows: takes the numbers of some columns, from 0, and streams their values; of a blank line
            they are None.
    """

    path: Path
    columns: Sequence[str]
    first: Sequence[str] | None
    rows: Callable[..., Rows]

    def column(self, names: Sequence[str], wanted: str | None = None) -> int | None:
        """The number of the column that is wanted, or else the first that is called so.

        Raises:
            UserError: there is none that is wanted.
        """
        there = [*map(named, self.columns)]
        if wanted is None:
            return next((there.index(name) for name in names if name in there), None)
        for name, columns in ((wanted, list(self.columns)), (named(wanted), there)):
            if name in columns:
                return columns.index(name)
        if wanted.isdecimal() and 0 < int(wanted) <= len(there):
            return int(wanted) - 1
        raise UserError(f"{self.path} has no column {wanted!r}; there are: {self.listed()}.")

    def text_column(self, wanted: str | None = None) -> int:
        """The number of the column of texts: as `column`, or the only one of no ids or numbers.

        Raises:
            UserError: several could be meant.
        """
        if (found := self.column(QUERIES, wanted)) is not None:
            return found
        left = [n for n, name in enumerate(self.columns) if named(name) not in IDS + QUERY_IDS]
        if (suffix := suffix_of(self.path)) in TABLES and left and len(self.columns) > 1:
            rows = [row for _, row in islice(self.rows(*left), SAMPLE)]
            cells = {column: {row[n] for row in rows} - {"", None} for n, column in enumerate(left)}
            left = [n for n in left if not (cells[n] and all(map(NUMBER.fullmatch, cells[n])))]
        if self.first and len(self.columns) == len(left) == 2 and suffix != ".csv":
            left = left[1:]  # as of MS MARCO, whose first are ids
        if len(left) != 1:
            raise self.unclear("texts")
        return left[0]

    def unclear(self, what: str) -> UserError:
        """That a column has to be named."""
        return UserError(
            f"{self.path}: say which column has the {what}, by {self.path.name}#COLUMN; there are: "
            f"{self.listed()}."
        )

    def listed(self) -> str:
        """The columns, for a sentence."""
        if self.first is None:
            return listed(self.columns)
        pairs = zip(self.columns, map(shortened, self.first), strict=True)
        return listed(f"{number} ({value!r})" for number, value in pairs)


def open_table(path: Path, wanted: str | None = None) -> Table:
    """Open a file as a table.

    Args:
        wanted: a column that is looked for, by which a line of names is known as well.

    Raises:
        UserError: it cannot be read, or holds something else than its name says.
    """
    suffix = suffix_of(path)
    if suffix in PARQUET:
        return _parquet_table(path)
    if suffix in OBJECTS:
        return _object_table(path)
    _, first = next(_cells(path, suffix), (1, [""]))
    for shape, kind in LIKE.items() if suffix not in TABLES else ():
        if re.match(shape, first[0]):
            raise UserError(f"{path} begins as {kind} does; call it so.")
    names = list(map(named, first))
    known = {*TEXTS, *IDS, *QUERY_IDS, *GRADES, named(wanted or "")} - {""}
    is_header = not known.isdisjoint(names) and not any(re.match(r"[-+.\d]+$", n) for n in names)
    width = len(first)

    def rows(*numbers: int) -> Rows:
        for line, cells in islice(_cells(path, suffix), int(is_header), None):
            if not any(map(str.strip, cells)):
                yield line, [None] * len(numbers)
            elif len(cells) <= max(numbers) or any(cells[width:]):
                raise UserError(f"{path}, line {line}: {len(cells)} columns, not {width}.")
            else:
                yield line, [cells[number].strip() for number in numbers]

    columns = first if is_header else list(map(str, range(1, width + 1)))
    return Table(path, columns, None if is_header else first, rows)


def _cells(path: Path, suffix: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table by their numbers, from the first that is not blank."""
    source = dropwhile(lambda each: not each[1].strip(), lines(path))
    if suffix != ".csv":
        for number, line in source:
            yield number, [*map(_unquoted, line.split("\t"))] if suffix in TABLES else [line]
        return
    start, first = next(source, (1, ""))
    read = partial(csv.reader, skipinitialspace=True)
    widths = {sign: len(next(read([first], delimiter=sign), [])) for sign in ",;\t|"}
    delimiter = max(widths, key=widths.get)
    if told := re.fullmatch(r"sep=(.)", first):  # by Excel
        delimiter = told[1]
        start, first = next(source, (start + 1, ""))
    texts = (f"{line}\n" for line in chain([first], (line for _, line in source)))
    reader = read(texts, delimiter=delimiter, strict=True)
    try:
        yield from ((start - 1 + reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        line = start - 1 + reader.line_num
        raise UserError(f"{path}, line {line}: no row of CSV: {error}.") from None


def _unquoted(cell: str) -> str:
    """A cell of tabs without the quotes that pandas has around it where it doubles inner ones."""
    is_quoted = '""' in cell[1:-1] and re.fullmatch('"([^"]|"")*"', cell)
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def _object_table(path: Path) -> Table:
    _, first = next(objects(path), (1, None))
    if first is None:
        raise UserError(f"{path} is empty.")
    has_names = isinstance(first, dict)
    columns = list(first) if has_names else ["1"]

    def rows(*numbers: int) -> Rows:
        for number, record in objects(path):
            if isinstance(record, dict) != has_names:
                raise UserError(f"{path}, line {number}: expected a JSON object, as in line 1.")
            try:
                yield number, [record[columns[n]] if has_names else record for n in numbers]
            except KeyError as error:
                raise UserError(f"{path}, line {number}: there is no {error}.") from None

    return Table(path, columns, None if has_names else [str(first)], rows)


def _parquet_table(path: Path) -> Table:
    with parquet(path) as table:
        columns = table.schema.names
        if not table.count_rows():
            raise UserError(f"{path} is empty.")

    def rows(*numbers: int) -> Rows:
        found = (parquet_column(path, columns[number]) for number in numbers)
        values = (chain.from_iterable(part.to_pylist() for part in column) for column in found)
        yield from enumerate(map(list, zip(*values, strict=True)), start=1)

    return Table(path, columns, None, rows)


def parquet_column(path: Path, name: str) -> "Iterator[pa.Array]":
    """A column in parts of `ROWS` rows or fewer, in order; never a whole row group."""
    from pyarrow.parquet import ParquetFile

    with parquet(path) as table:
        kind = table.schema.field(name).type
        for part in parts(path):
            with ParquetFile(part, buffer_size=1 << 18, pre_buffer=False) as file:
                if name not in file.schema_arrow.names:
                    raise UserError(f"{part} has no column {name!r}.")
                for batch in file.iter_batches(ROWS, columns=[name], use_threads=False):
                    yield batch.column(name).cast(kind)  # as parts may differ


@contextmanager
def parquet(path: Path) -> Iterator["pads.Dataset"]:
    """A Parquet file, or those of a folder in their order, as one table."""
    import pyarrow as pa
    from pyarrow import dataset

    try:
        files = parts(path)
        with files[0].open("rb") as file:
            if (start := file.read(30))[:4] != b"PAR1":
                refuse_others(files[0], start)
        yield dataset.dataset(list(map(str, files)), format="parquet")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{path} is no Parquet, or cut off or damaged: {reason}.") from None
