"""Queries to train on or to time with, from files in the usual formats and from the hub.

python -m disret.data.queries        # MS MARCO's, into downloads/
"""

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from disret import paths
from disret.command_line import (
    UserError,
    add_mirror,
    argument_parser,
    progress_bar,
    run,
    say,
    shortened,
)
from disret.data.catalog import MSMARCO_QUERIES
from disret.data.download import fetch_folder, mirror_from
from disret.data.hub import HUB, Stream, look_up, parse_name
from disret.data.text_files import file_of, is_text, lines, listed, open_table
from disret.files import kept, read_record, text_sha256

if TYPE_CHECKING:
    import pyarrow as pa


OFTEN = 1000  # times a pass shows a text, at most
OF_LOG = {"log_sha256": str, "arguments": dict, "sources": dict}  # of a student's report


class Source(NamedTuple):
    """Where queries come from.

    Attributes:
        name: as given, or that of the default.
        count: the queries that were read from it.
        revision: of a data set of the hub, its commit.
        licence: of a data set of the hub, what its card states, if anything.
        weight: how often a pass shows each of them.
        last: of queries that were held out of others, the greatest of their `numbers`.
    """

    name: str
    count: int = 0
    revision: str | None = None
    licence: str | None = None
    weight: float = 1.0
    last: int | None = None


def query_source(text: str) -> str:
    """The type of an argument that names queries: FILE[#COLUMN], or `hub:` and a data set.

    Raises:
        UserError: what begins with `hub:` is no name of a data set.
    """
    if text.startswith(HUB):
        parse_name(text)
    return text


def weighted_source(text: str) -> tuple[str, float]:
    """The type of an argument that names queries, and perhaps with `@2` how often to show each.

    Raises:
        UserError: the weight is 0 or above `OFTEN`, or as `query_source`.
    """
    name, _, weight = text.rpartition("@")
    if not re.fullmatch(r"\d+(\.\d+)?", weight) or Path(text).exists():
        return query_source(text), 1.0
    if not 0 < float(weight) <= OFTEN:
        raise UserError(f"{text}: queries are shown up to {OFTEN} times a pass, and not 0 times.")
    return query_source(name), float(weight)


def read_queries(names: Sequence[Path | str], limit: int | None = None) -> list[str]:
    """Read queries from files and data sets of the hub, in order, and say how many there are.

    Files are read as `open_table` does; `log.csv#search term` names a column, else it is the one
    that is called `text`, `query` or the like, or that is not of ids. Blank lines are skipped and
    counted. Of a data set, `hub:NAME[/CONFIG][:SPLIT]#COLUMN`, each text is taken once, on one
    line, and a copy of its revision is kept under `downloads/queries`.

    Args:
        limit: stop after so many queries.

    Returns:
        The texts, stripped, at most `limit`.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or has a malformed line (the message
            gives file and line number), or no column of texts; or the hub does not answer, or has
            no such data set, or that has no such column.
    """
    return _together(_read([_look_at(name) for name in names], limit))


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
        valid_names: if none is given, those of `names` that are `held_out`, or with none of these
            MS MARCO's development queries.
        limit: train on so many only, of those that are not held out.

    Returns:
        Both, and the sources of `training` and of `validation`.

    Raises:
        UserError: as `read_queries`, or no validation query is left.
    """
    of_msmarco = {"training": not names, "validation": not (names or valid_names)}
    if not names:
        train, dev = msmarco_queries(mirror)
        names, valid_names = [(train, 1.0)], valid_names or [dev]
    to_train = [_look_at(name, weight) for name, weight in names]
    to_validate = [_look_at(name) for name in valid_names]  # before the long work
    training = _read(to_train, limit if to_validate else None)
    queries = _together(training)
    if to_validate:
        validation = _read(to_validate)
        valid = apart_from(queries, _together(validation))
        if left_out := len(_together(validation)) - len(valid):
            say(f"left out {left_out} validation queries that are among the training queries.")
        if not valid:
            raise UserError("every validation query is among the training queries; name others.")
    else:
        valid = list(dict.fromkeys(itertools.compress(queries, held_out(queries))))
        training = [(one, apart_from(valid, own)) for one, own in training]
        left = iter(_together(training)[:limit])
        training = [(one, list(itertools.islice(left, len(own)))) for one, own in training]
        validation = [(Source("held out of these", last=int(numbers(valid).max())), valid)]
        say(f"{len(valid):,} of them are held out, to validate on.")
    sources = {
        use: [source._replace(count=len(own), **({"name": "MS MARCO"} if of_msmarco[use] else {}))
              for source, own in found]
        for use, found in (("training", training), ("validation", validation))
    }  # fmt: skip
    return _together(training), valid, sources


def apart_from(others: Iterable[str], texts: Iterable[str]) -> list[str]:
    """Those of some texts that none of the others equals, but for case and spaces."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().split())

    seen = set(map(plain, others))
    return [text for text in texts if plain(text) not in seen]


def held_out(texts: Sequence[str], share: float = 0.02, most: int = 5000) -> np.ndarray:
    """Which texts to validate on, bool [n_texts]: one at least, and not all.

    A text goes there by its SHA-256, so that neither order nor repetition matters.

    Args:
        share: of the texts, to validate on; about, as chance has it.
        most: different texts to validate on.

    Raises:
        UserError: there are fewer than two different texts.
    """
    drawn = numbers(texts)
    order = np.unique(drawn)
    if len(order) < 2:
        raise UserError("one text is too few to train and to validate on; give two at least.")
    chosen = max(1, min(int((order / 2.0**64 < share).sum()), most, len(order) - 1))
    return drawn <= order[chosen - 1]


def numbers(texts: Iterable[str]) -> np.ndarray:
    """What decides which texts are held out, the lowest: of their SHA-256, uint64 [n_texts]."""
    return np.frombuffer(b"".join(sha256(text.encode()).digest()[:8] for text in texts), "<u8")


def untrained(names: Sequence[str], texts: list[str], students: Iterable[str]) -> list[str]:
    """The queries of a log that distill.py held out, if a student was trained on the others.

    It is that log by its content, or by its name, as it may have grown or been taken in part.

    Args:
        names: the log's files.
        students: folders; what is no student of distill.py's counts as trained elsewhere.

    Raises:
        UserError: a student was trained on all of them.
    """
    asked, read = {file_of(name)[0].name for name in names}, len(texts)
    for student in students:
        report = read_record(Path(student) / "distillation.json", OF_LOG)
        sources = report["sources"] if report else {}
        known = {file_of(one["name"])[0].name for one in sources.get("training", ())}
        last = sources["validation"][0].get("last") if sources else None
        out = numbers(texts) <= (-1 if last is None else last)
        most = report["arguments"].get("max_queries") if report else None
        others = apart_from(itertools.compress(texts, out), itertools.compress(texts, ~out))[:most]
        if asked & known or (report and text_sha256(others) == report["log_sha256"]):
            if last is None:
                say(f"note: {student} was trained on this log, and may agree less on others.")
                continue
            texts = list(itertools.compress(texts, out))
    if not texts:
        raise UserError("a student was trained on all queries of this log; name another.")
    if len(texts) < read:
        say(f"{len(texts):,} of them are compared, as a student was trained on the others.")
    return texts


def msmarco_queries(mirror: str | None = None) -> tuple[Path, Path]:
    """MS MARCO's training and development query files, downloaded on first use."""
    names = ("queries.train.tsv", "queries.dev.tsv")
    folder = fetch_folder(MSMARCO_QUERIES, paths.DOWNLOADS / "msmarco" / "queries", names, mirror)
    return folder / names[0], folder / names[1]


def _read(looked: Sequence[Source], limit: int | None = None) -> list[tuple[Source, list[str]]]:
    """Each source with its queries."""
    found: list[tuple[Source, list[str]]] = []
    for source in looked:
        room = None if limit is None else limit - len(_together(found))
        name, texts = _texts(source)
        own, blank = [], 0
        for text in texts if room != 0 else ():
            blank += not text
            own += [text] if text else []
            if len(own) == room:
                break
        if not own and room != 0:
            raise UserError(f"{source.name} holds no queries.")
        if own:
            such = "; ".join(repr(shortened(text, 30)) for text in own[:3])
            also = f" ({blank:,} blank lines are skipped)" if blank else ""
            say(f"{name}: {len(own):,} queries{also}, such as: {such}.")
        if source.weight < 1:
            chance = random.Random(0)
            own = [query for query in own if chance.random() < source.weight]
            if not own:
                raise UserError(f"{source.name}@{source.weight:g} leaves none of its queries.")
        found.append((source._replace(weight=max(1.0, source.weight)), own))
    return found


def _together(found: Sequence[tuple[Source, list[str]]]) -> list[str]:
    return [text for _, own in found for text in own]


def _look_at(name: Path | str, weight: float = 1.0) -> Source:
    """A source that is there, of which nothing is read yet."""
    name = str(name)
    if name.startswith(HUB):
        return Source(name, 0, *look_up(name), weight)
    file, column = file_of(name)
    open_table(file, column).text_column(column)
    return Source(name, weight=weight)


def _texts(source: Source) -> tuple[str, Iterator[str | None]]:
    """What is read, for people, and its queries; none for a blank line."""
    if source.revision is not None:
        key = text_sha256(map(str, (*parse_name(source.name), source.revision)), "queries ")[:32]
        file = paths.DOWNLOADS / "queries" / f"{key}.txt"
        kept(file, lambda partial: _copy(source, partial))
        return source.name, (text for _, text in lines(file))
    file, column = file_of(source.name)
    table = open_table(file, column)
    number = table.text_column(column)

    def texts() -> Iterator[str | None]:
        for line, (text,) in table.rows(number):
            if text is not None and not is_text(text):
                raise UserError(f"{file}, line {line}: {shortened(repr(text))} is no text.")
            yield text and text.strip()

    is_plain = table.first and len(table.columns) == 1
    return f"{file}" if is_plain else f"{file}, column {table.columns[number]}", texts()


def _copy(source: Source, path: Path) -> None:
    """Write each text once, on one line: runs of white space are a space."""
    shown = progress_bar(hub_texts(source.name, source.revision), desc=source.name, unit="row")
    texts = dict.fromkeys(shown)
    if not any(texts):
        raise UserError(f"{source.name} holds no queries.")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{text}\n" for text in texts if text)


def hub_texts(name: str, revision: str) -> Iterator[str]:
    """The texts of a column of a data set of the hub as they come, each on one line, blank or not.

    Raises:
        UserError: there is no such data set, or no such column of texts in it.
    """
    stream, column = Stream(name, revision), parse_name(name)[-1]
    schema = stream.schema()
    if not any(field.name == column and is_of_texts(field) for field in schema):
        there = columns_of(schema)
        raise UserError(f"{name}: write a column of texts after a #; there are: {there}.")
    for batch in stream.batches([column]):
        yield from (" ".join((value or "").split()) for value in batch.column(column).to_pylist())


def is_of_texts(field: "pa.Field") -> bool:
    """Whether an Arrow column holds texts, perhaps each of few values."""
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def columns_of(schema: "pa.Schema") -> str:
    """The columns of a table with their types, for a sentence."""
    return listed(f"{field.name} ({field.type})" for field in schema)


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.data.queries")
    add_mirror(parser)
    for path in msmarco_queries(mirror_from(parser.parse_args().mirror)):
        print(path)


if __name__ == "__main__":
    run(main)
