"""Queries to train on or to time with, from files in the usual formats and from the hub.

python -m disret.data.queries        # MS MARCO's, into downloads/
"""

import gzip
import itertools
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from disret import paths
from disret.command_line import UserError, add_mirror, argument_parser, progress_bar, run, say
from disret.data.catalog import MSMARCO_QUERIES
from disret.data.download import fetch_folder, mirror_from
from disret.data.hub import HUB, Stream, look_up, parse_name
from disret.files import kept, readable, text_sha256

if TYPE_CHECKING:
    import pyarrow as pa


class Source(NamedTuple):
    """Where queries come from.

    Attributes:
        name: as given, or that of the default.
        count: the queries that were read from it.
        revision: of a data set of the hub, its commit.
        licence: of a data set of the hub, what its card states, if anything.
        weight: how often a pass shows each of them.
    """

    name: str
    count: int = 0
    revision: str | None = None
    licence: str | None = None
    weight: float = 1.0


def query_source(text: str) -> Path | str:
    """The type of an argument that names a file, or with `hub:` a data set, of queries.

    Raises:
        UserError: what begins with `hub:` is no name of a data set.
    """
    if not text.startswith(HUB):
        return Path(text)
    parse_name(text)
    return text


def weighted_source(text: str) -> tuple[Path | str, float]:
    """The type of an argument that names queries, and perhaps with `@2` how often to show each.

    Raises:
        UserError: the weight is 0, or as `query_source`.
    """
    name, _, weight = text.rpartition("@")
    if not re.fullmatch(r"\d+(\.\d+)?", weight) or Path(text).exists():
        return query_source(text), 1.0
    if not float(weight):
        raise UserError(f"{text}: queries that are never shown; leave them out.")
    return query_source(name), float(weight)


def read_queries(names: Sequence[Path | str], limit: int | None = None) -> list[str]:
    """Read queries from files and data sets of the hub, in order.

    The name of a file says the format: `.tsv` has `id<TAB>text` lines, `.jsonl` has objects with
    `text`, anything else one query a line; `.gz` may follow. Blank lines are skipped and counted.
    Of a data set, `hub:NAME[/CONFIG][:SPLIT]#COLUMN`, each text is taken once, on one line, and a
    copy of its revision is kept under `downloads/queries`.

    Args:
        limit: stop after so many queries.

    Returns:
        The texts, stripped, at most `limit`.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or has a malformed line (the message
            gives file and line number); or the hub does not answer, or has no such data set,
            or that has no such column of texts.
    """
    return _read([_look_at(name) for name in names], limit)[0]


def training_queries(
    names: Sequence[tuple[Path | str, float]],
    valid_names: Sequence[Path | str],
    limit: int | None = None,
    mirror: str | None = None,
) -> tuple[list[str], list[str], dict[str, list[Source]]]:
    """Queries to train on, and queries to validate on that are not among them.

    Args:
        names: with each, how often a pass shows its queries; of a number below 1, so many of them
            are taken, always the same. MS MARCO's training queries, if none is given.
        valid_names: MS MARCO's development queries, if none is given.
        limit: train on so many only.

    Returns:
        Both, and the sources of `training` and of `validation`.

    Raises:
        UserError: as `read_queries`, or no validation query is left.
    """
    is_default = {"training": not names, "validation": not valid_names}
    if not (names and valid_names):
        train, dev = msmarco_queries(mirror)
        names, valid_names = names or [(train, 1.0)], valid_names or [dev]
    to_train = [_look_at(name, weight) for name, weight in names]
    to_validate = [_look_at(name) for name in valid_names]
    queries, training = _read(to_train, limit)
    valid_queries, validation = _read(to_validate)
    seen = set(queries)
    unseen = [query for query in valid_queries if query not in seen]
    if not unseen:
        raise UserError("every validation query is among the training queries; name others.")
    if left_out := len(valid_queries) - len(unseen):
        say(f"left out {left_out} validation queries that are among the training queries.")
    sources = {"training": training, "validation": validation}
    for use in filter(is_default.get, sources):
        sources[use] = [source._replace(name="MS MARCO") for source in sources[use]]
    return queries, unseen, sources


def msmarco_queries(mirror: str | None = None) -> tuple[Path, Path]:
    """MS MARCO's training and development query files, downloaded on first use."""
    names = ("queries.train.tsv", "queries.dev.tsv")
    folder = fetch_folder(MSMARCO_QUERIES, paths.DOWNLOADS / "msmarco" / "queries", names, mirror)
    return folder / names[0], folder / names[1]


def _read(looked: Sequence[Source], limit: int | None = None) -> tuple[list[str], list[Source]]:
    """The queries of some sources, and these with what has been read of each."""
    queries: list[str] = []
    sources = []
    blank, room = 0, limit
    for source in looked:
        own: list[str] = []
        for text in _texts(source) if room != 0 else ():
            if text:
                own.append(text)
            else:
                blank += 1
            if len(own) == room:
                break
        if not own and room != 0:
            raise UserError(f"{source.name} holds no queries.")
        room = None if room is None else room - len(own)
        if source.weight < 1:
            chance = random.Random(0)
            own = [query for query in own if chance.random() < source.weight]
            if not own:
                raise UserError(f"{source.name}@{source.weight:g} leaves none of its queries.")
        queries += own
        sources.append(source._replace(count=len(own), weight=max(1.0, source.weight)))
    if blank:
        say(f"skipped {blank} blank lines in {', '.join(source.name for source in looked)}.")
    return queries, sources


def _look_at(name: Path | str, weight: float = 1.0) -> Source:
    """A source that is there, of which nothing is read yet."""
    if isinstance(name, str) and name.startswith(HUB):
        return Source(name, 0, *look_up(name), weight)
    return Source(str(readable(Path(name))), weight=weight)


def _texts(source: Source) -> Iterator[str | None]:
    """The query of each line of a file, or of a copy of a data set; none for a blank line."""
    file = Path(source.name)
    if source.revision is not None:
        key = text_sha256(map(str, (*parse_name(source.name), source.revision)), "queries ")[:32]
        file = paths.DOWNLOADS / "queries" / f"{key}.txt"
        kept(file, lambda partial: _copy(source, partial))
    suffix = Path(file.name.removesuffix(".gz")).suffix
    parse = {".tsv": _from_tsv, ".jsonl": _from_jsonl}.get(suffix, str.strip)
    return (text for _, text in read_lines(file, parse))


def read_lines(file: Path, parse: Callable[[str], Any]) -> Iterator[tuple[int, Any]]:
    """The number of each line of a text file, perhaps gzipped, and what it holds, if anything.

    Args:
        parse: gives what a line holds, or raises `ValueError`.

    Raises:
        UserError: a line is not UTF-8 or not of that form (the message gives its number), or the
            file is damaged.
    """
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                yield number, parse(line) if line.strip() else None
    except UnicodeDecodeError:
        raise UserError(f"{file}, line {number}: not UTF-8 text.") from None
    except ValueError as error:
        raise UserError(f"{file}, line {number}: {error}.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{file} is not a whole gzip file.") from None


def _from_tsv(line: str) -> str:
    columns = line.split("\t")
    if len(columns) != 2 or not columns[1].strip():
        raise ValueError(f"expected id<TAB>text, found {len(columns)} columns: {line[:60]!r}")
    return columns[1].strip()


def _from_jsonl(line: str) -> str:
    text = json_object(line).get("text")
    if not is_text(text) or not text.strip():
        raise ValueError(f'"text" is missing or no text: {line[:60]!r}')
    return text.strip()


def json_object(line: str) -> dict[str, Any]:
    """The object that a line of JSON holds, or `ValueError`."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object: {line[:60]!r}")
    return record


def is_text(value: Any) -> bool:
    """Whether a value of JSON is a text without half a surrogate pair, as cut texts may have."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _copy(source: Source, path: Path) -> None:
    """Write each text once, on one line: runs of white space are a space."""
    stream, column = Stream(source.name, source.revision), parse_name(source.name)[-1]
    schema = stream.schema()
    if not any(field.name == column and is_of_texts(field) for field in schema):
        there = columns_of(schema)
        raise UserError(f"{source.name}: write a column of texts after a #; there are: {there}.")
    batches = stream.batches([column])
    values = itertools.chain.from_iterable(batch.column(column).to_pylist() for batch in batches)
    shown = progress_bar(values, desc=source.name, unit="row")
    texts = dict.fromkeys(" ".join((value or "").split()) for value in shown)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{text}\n" for text in texts if text)


def is_of_texts(field: "pa.Field") -> bool:
    """Whether an Arrow column holds texts, perhaps each of few values."""
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def columns_of(schema: "pa.Schema") -> str:
    """The columns of a table with their types, for a sentence."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.data.queries")
    add_mirror(parser)
    for path in msmarco_queries(mirror_from(parser.parse_args().mirror)):
        print(path)


if __name__ == "__main__":
    run(main)
