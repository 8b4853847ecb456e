"""Queries to train on or to time with, from files in the usual formats and from the hub.

python -m disret.data.query_files        # MS MARCO's, into downloads/
"""

import gzip
import itertools
import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from disret import paths
from disret.command_line import UserError, add_mirror, argument_parser, run, say
from disret.data.catalog import MSMARCO_QUERIES
from disret.data.download import fetch_folder, mirror_from
from disret.data.hub_data import HUB, parse_name
from disret.data.hub_queries import HubQueries
from disret.files import readable


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
    count: int
    revision: str | None
    licence: str | None
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
    Of a data set, `hub:NAME[/CONFIG][:SPLIT]#COLUMN`, each text is taken once.

    Args:
        limit: stop after so many queries.

    Returns:
        The texts, stripped, at most `limit`.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or has a malformed line (the message
            gives file and line number); or as `HubQueries`.
    """
    return _read([_open(name) for name in names], limit)[0]


def training_queries(
    names: Sequence[Path | str] | None,
    valid_names: Sequence[Path | str] | None,
    limit: int | None = None,
    mirror: str | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[list[str], list[str], dict[str, list[Source]]]:
    """Queries to train on, and queries to validate on that are not among them.

    Args:
        names, valid_names: MS MARCO's training and development queries where not given.
        limit: train on so many only.
        weights: of `names`, how often a pass shows the queries of each; of one below 1, so many
            of its queries are taken, always the same.

    Returns:
        Both, and the sources of `training` and of `validation`.

    Raises:
        UserError: as `read_queries`, or no validation query is left.
    """
    opened, valid_opened = ([_open(name) for name in of or ()] for of in (names, valid_names))
    if not (opened and valid_opened):
        train, dev = msmarco_queries(mirror)
        opened = opened or [_QueryFile(train, "MS MARCO")]
        valid_opened = valid_opened or [_QueryFile(dev, "MS MARCO")]
    queries, sources = _read(opened, limit)
    if weights:
        queries, sources = _weighted(queries, sources, weights)
    valid_queries, valid_sources = _read(valid_opened)
    seen = set(queries)
    unseen = [query for query in valid_queries if query not in seen]
    if not unseen:
        raise UserError("every validation query is among the training queries; name others.")
    if len(unseen) < len(valid_queries):
        left_out = len(valid_queries) - len(unseen)
        say(f"left out {left_out} validation queries that are among the training queries.")
    return queries, unseen, {"training": sources, "validation": valid_sources}


def _weighted(
    queries: list[str], sources: Sequence[Source], weights: Sequence[float]
) -> tuple[list[str], list[Source]]:
    """The queries without those that no pass would show, and the sources with their weights."""
    remaining = iter(queries)
    taken: list[str] = []
    weighted = []
    for source, weight in zip(sources, weights, strict=True):
        chance = random.Random(0)
        own = list(itertools.islice(remaining, source.count))
        if weight < 1:
            own = [query for query in own if chance.random() < weight]
            if not own:
                raise UserError(f"{source.name}@{weight:g} leaves none of its queries.")
        taken += own
        weighted.append(source._replace(count=len(own), weight=max(1.0, weight)))
    return taken, weighted


def msmarco_queries(mirror: str | None = None) -> tuple[Path, Path]:
    """MS MARCO's training and development query files, downloaded on first use."""
    names = ("queries.train.tsv", "queries.dev.tsv")
    folder = fetch_folder(MSMARCO_QUERIES, paths.DOWNLOADS / "msmarco" / "queries", names, mirror)
    train, dev = (folder / name for name in names)
    return train, dev


class _QueryFile:
    """Queries of a file, with the attributes of `HubQueries`."""

    revision = licence = None

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.name = name or str(path)
        self._path = readable(path)

    def texts(self, _limit: int | None) -> Iterator[str]:
        """The query of each line, empty for a blank line."""
        return _lines(self._path)


def _open(name: Path | str) -> _QueryFile | HubQueries:
    is_of_hub = isinstance(name, str) and name.startswith(HUB)
    return HubQueries(name) if is_of_hub else _QueryFile(Path(name))


def _read(
    opened: Sequence[_QueryFile | HubQueries], limit: int | None = None
) -> tuple[list[str], list[Source]]:
    queries: list[str] = []
    sources = []
    blank = 0
    for source in opened:
        before = len(queries)
        room = None if limit is None else limit - before
        for text in source.texts(room) if room != 0 else ():
            if len(queries) == limit:
                break
            if text:
                queries.append(text)
            else:
                blank += 1
        if len(queries) == before and room != 0:
            raise UserError(f"{source.name} holds no queries.")
        count = len(queries) - before
        sources.append(Source(source.name, count, source.revision, source.licence))
    if blank:
        say(f"skipped {blank} blank lines in {', '.join(source.name for source in opened)}.")
    return queries, sources


def _lines(file: Path) -> Iterator[str]:
    """The query of each line, empty for a blank line."""
    gzipped = file.suffix == ".gz"
    suffix = (file.with_suffix("") if gzipped else file).suffix
    parse = {".tsv": _from_tsv, ".jsonl": _from_jsonl}.get(suffix, _from_text)
    number = 0
    try:
        with gzip.open(file, "rb") if gzipped else file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                yield parse(line) if line.strip() else ""
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
    try:
        text = json.loads(line)["text"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise ValueError(f'expected a JSON object with "text": {line[:60]!r}') from None
    if not is_unicode(text) or not text.strip():
        raise ValueError(f'"text" is not a text: {line[:60]!r}')
    return text.strip()


def is_unicode(value: Any) -> bool:
    """Whether a value of JSON is a text that has bytes: no half of a surrogate pair."""
    try:
        return isinstance(value, str) and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:
        return False


def _from_text(line: str) -> str:
    return line.strip()


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.data.query_files")
    add_mirror(parser)
    for path in msmarco_queries(mirror_from(parser.parse_args().mirror)):
        print(path)


if __name__ == "__main__":
    run(main)
