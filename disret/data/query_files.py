"""Queries to train on or to time with, from files in the usual formats.

python -m disret.data.query_files        # MS MARCO's, into downloads/
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from disret import paths
from disret.command_line import UserError, add_mirror, argument_parser, run, say
from disret.data.catalog import MSMARCO_QUERIES
from disret.data.download import fetch_folder, mirror_from
from disret.files import readable


def read_queries(files: Sequence[Path], limit: int | None = None) -> list[str]:
    """Read queries from files, in order.

    The name says the format: `.tsv` has `id<TAB>text` lines, `.jsonl` has objects with `text`,
    anything else one query a line; `.gz` may follow. Blank lines are skipped and counted.

    Args:
        limit: stop after so many queries.

    Returns:
        The texts, stripped, at most `limit`.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or has a malformed line (the message
            gives file and line number).
    """
    queries: list[str] = []
    blank = 0
    for file in files:
        before = len(queries)
        for text in _lines(file):
            if limit is not None and len(queries) == limit:
                break
            if text:
                queries.append(text)
            else:
                blank += 1
        if len(queries) == before and (limit is None or before < limit):
            raise UserError(f"{file} holds no queries.")
    if blank:
        say(f"skipped {blank} blank lines in {', '.join(map(str, files))}.")
    return queries


def training_queries(
    files: Sequence[Path] | None,
    valid_files: Sequence[Path] | None,
    limit: int | None = None,
    mirror: str | None = None,
) -> tuple[list[str], list[str]]:
    """Queries to train on, and queries to validate on that are not among them.

    Args:
        files, valid_files: MS MARCO's training and development queries where not given.
        limit: train on so many only.

    Raises:
        UserError: as `read_queries`, or no validation query is left.
    """
    if not (files and valid_files):
        train, dev = msmarco_queries(mirror)
        files, valid_files = files or [train], valid_files or [dev]
    queries = read_queries(files, limit)
    valid_queries = read_queries(valid_files)
    seen = set(queries)
    unseen = [query for query in valid_queries if query not in seen]
    if not unseen:
        raise UserError("every validation query is among the training queries; name others.")
    if len(unseen) < len(valid_queries):
        left_out = len(valid_queries) - len(unseen)
        say(f"left out {left_out} validation queries that are among the training queries.")
    return queries, unseen


def msmarco_queries(mirror: str | None = None) -> tuple[Path, Path]:
    """MS MARCO's training and development query files, downloaded on first use."""
    names = ("queries.train.tsv", "queries.dev.tsv")
    folder = fetch_folder(MSMARCO_QUERIES, paths.DOWNLOADS / "msmarco" / "queries", names, mirror)
    train, dev = (folder / name for name in names)
    return train, dev


def _lines(file: Path) -> Iterator[str]:
    """The query of each line, empty for a blank line."""
    gzipped = file.suffix == ".gz"
    suffix = (file.with_suffix("") if gzipped else file).suffix
    parse = {".tsv": _from_tsv, ".jsonl": _from_jsonl}.get(suffix, _from_text)
    number = 0
    try:
        readable(file)
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
