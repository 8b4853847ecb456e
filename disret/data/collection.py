"""Collections in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`.

The corpus is read as a stream and never held; queries and judgments are.
"""

import difflib
import functools
import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from disret import paths
from disret.command_line import UserError, say
from disret.data.catalog import datasets
from disret.data.download import fetch_folder
from disret.data.text_files import (
    GRADES,
    IDS,
    KINDS,
    QUERY_IDS,
    TEXTS,
    file_of,
    is_text,
    lines,
    named,
    open_table,
    suffix_of,
    unpacked,
)
from disret.files import checksum, version_of

GRADE = re.compile(r"[-+]?\d{1,6}(\.0*)?")
Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade


class Document(NamedTuple):
    """A document: where its line begins in the corpus file, in bytes; its id; title and text."""

    offset: int
    id: str
    text: str


class Collection(NamedTuple):
    """A folder in BEIR's layout and the name to report it under."""

    name: str
    folder: Path

    def check_split(self, split: str) -> None:
        """Raise `UserError` if there are no judgments for `split`."""
        there = sorted(path.stem for path in (self.folder / "qrels").glob("*.tsv"))
        if not there:
            raise UserError(
                f"{self.name} has no judgments (qrels/*.tsv) to score by; to distil on or to time "
                "with, a file of queries will do."
            )
        if split not in there:
            raise UserError(f"{self.name} has no split {split!r}; it has: {', '.join(there)}.")

    def fingerprint(self, split: str | None = None) -> str:
        """SHA-256 of the corpus file, or with `split` of the queries and judgments as well."""
        files = [_file(self.folder, "corpus.jsonl")]
        if split is not None:
            files += [_file(self.folder, "queries.jsonl"), self.folder / "qrels" / f"{split}.tsv"]
        digest = hashlib.sha256()
        for path in files:
            digest.update(bytes.fromhex(_checksum(path, version_of(path))))
        return digest.hexdigest()

    def version(self) -> tuple[int, ...]:
        """What is different once the corpus file was written to or replaced."""
        return version_of(_file(self.folder, "corpus.jsonl"))

    def documents(self, offset: int = 0) -> Iterator[Document]:
        """Stream the documents.

        Args:
            offset: begin at this byte of the corpus file, where a document starts.

        Raises:
            UserError: the corpus is missing, or has a broken line, one without `_id` or `text` or,
                found at its end, a duplicate (the message gives the line number).
        """
        for start, record in _records(_file(self.folder, "corpus.jsonl"), offset):
            # As BEIR's encoders read them.
            yield Document(start, record["_id"], f"{record['title']} {record['text']}".strip())

    def queries(self) -> dict[str, str]:
        """All queries, id to text, of every split."""
        records = _records(_file(self.folder, "queries.jsonl"))
        return {query["_id"]: query["text"] for _, query in records}

    def split_queries(self, split: str) -> list[str]:
        """The texts of the queries that a split judges."""
        judged = {query for query, _, _ in self._judgments(split)}
        texts = [text for query, text in self.queries().items() if query in judged]
        if not texts:
            raise UserError(f"{self.folder} has no queries in its split {split}.")
        return texts

    def qrels(self, split: str, queries: Mapping[str, str]) -> Qrels:
        """Read the judgments of a split, but those of queries that `queries` does not have.

        Raises:
            UserError: a malformed line, or no judgment is left.
        """
        qrels: Qrels = {}
        twice = 0
        for query, document, grade in self._judgments(split):
            twice += document in qrels.setdefault(query, {})
            qrels[query][document] = grade
        if twice:
            say(f"{self.name}: {twice} documents are judged twice; the last grade counts.")
        if own := sum(grades.get(query, 0) > 0 for query, grades in qrels.items()):
            say(f"{self.name}: BEIR never counts a document that has its query's id as a hit, but "
                f"{own} of these are judged relevant.")  # fmt: skip
        known = {query: grades for query, grades in qrels.items() if query in queries}
        self._check_known("query", "queries", split, list(qrels), queries)
        if not any(grade > 0 for grades in known.values() for grade in grades.values()):
            raise UserError(f"{self.name} has no judgment above 0 in its split {split}.")
        return known

    def judged(self, split: str) -> tuple[dict[str, str], Qrels]:
        """The queries that a split judges, id to text, and their judgments."""
        queries = self.queries()
        qrels = self.qrels(split, queries)
        return {query: queries[query] for query in qrels}, qrels

    def check_judged(self, split: str, qrels: Qrels, ids: Iterable[str]) -> None:
        """Warn of judged documents that are not there; as in BEIR, they are never hits.

        Args:
            ids: of the documents that are.

        Raises:
            UserError: none of those judged is there.
        """
        judged = list(dict.fromkeys(chain.from_iterable(qrels.values())))
        self._check_known("document", "documents", split, judged, ids)

    def _check_known(
        self, one: str, several: str, split: str, judged: Sequence[str], ids: Iterable[str]
    ) -> None:
        known = len(set(judged).intersection(ids))
        if not known:
            path = self.folder / "qrels" / f"{split}.tsv"
            theirs, ours = (next(iter(each), "") for each in (judged, ids))
            raise UserError(
                f"{path} has no judgment of a known {one}: it names {theirs!r} and so on, but the "
                f"{several} are {ours!r} and so on."
            )
        if known < len(judged):
            say(
                f"{self.name}: the judgments name {len(judged) - known} {several} that the "
                "collection does not have."
            )

    def _judgments(self, split: str) -> Iterator[tuple[str, str, int]]:
        """Query, document and grade of each judgment.

        Columns are BEIR's three or TREC's four, or as a header names all of them, in quotes where
        CSV writes them so.
        """
        path, places, width = self.folder / "qrels" / f"{split}.tsv", None, 0
        for number, line in lines(path):
            if not line.strip():
                continue
            cells = line.rstrip().split("\t")
            cells = list(map(_unquoted, cells)) if len(cells) > 1 else line.split()
            if not width:
                width, header = len(cells), _places_in(cells)
                places = header or ((0, -2, -1) if width in (3, 4) else None)
                if header:
                    continue
            if not (places and len(cells) == width and GRADE.fullmatch(cells[places[2]])):
                raise UserError(f"{path}, line {number}: expected query, document and a grade of "
                                "up to six digits, or a first line of names: query-id, corpus-id, "
                                "score.")  # fmt: skip
            query, document, grade = (cells[place] for place in places)
            yield query, document, int(float(grade))


def _unquoted(cell: str) -> str:
    """A cell without the quotes that CSV has around it, as BEIR reads judgments."""
    return cell[1:-1].replace('""', '"') if re.fullmatch('".*"', cell, re.DOTALL) else cell


def _places_in(header: Sequence[str]) -> tuple[int, ...] | None:
    """Where query, document and grade stand, if a line names all three."""
    names = list(map(named, header))
    kinds = ((*QUERY_IDS, "query"), (*IDS, "document", "doc"), GRADES)
    found = [[names.index(name) for name in kind if name in names][:1] for kind in kinds]
    return tuple(chain.from_iterable(found)) if all(found) else None


def _file(folder: Path, name: str) -> Path:
    """A file of a collection, or where it is gzipped, that."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() and not (folder / name).exists() else folder / name


@functools.cache
def _checksum(path: Path, version: tuple[int, ...]) -> str:
    """The checksum of a file, computed once as long as it is of this version."""
    return checksum(path)


def check_name(name: str) -> None:
    """Raise `UserError` unless `name` is a data set or a directory, without downloading."""
    known = datasets()
    if name not in known and not is_present(name):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"no data set or directory is called {name!r}; {hint}The data sets are: "
            f"{', '.join(known)}."
        )


def is_present(name: str) -> bool:
    """Whether the collection is here, so that finding it downloads nothing."""
    return _installed(name) or (name not in datasets() and Path(name).is_dir())


def _installed(name: str) -> bool:
    """Whether a collection of this name is under `benchmarks/raw`."""
    is_path = name != Path(name).name or name in ("", ".", "..")
    return not is_path and (paths.COLLECTIONS / name).is_dir()


def find_collections(
    name: str, mirror: str | None = None, others: Iterable[str] = ()
) -> list[Collection]:
    """The collections behind a name or directory, downloaded on first use.

    Args:
        name: a data set of the catalog, or a directory in BEIR's layout.
        mirror: see `disret.data.download.fetch`.
        others: names beside it; a directory called as another is called with its parents' names.

    Returns:
        One collection; several for a data set made of parts (CQADupStack's twelve forums), each
        in a folder of its own.

    Raises:
        UserError: unknown name, failed download, or a directory in another layout.
    """
    check_name(name)
    folder = paths.COLLECTIONS / name
    if name in datasets():
        if Path(name).is_dir() and not folder.exists():
            say(f"{name} is BEIR's; the folder that is here is called ./{name}.")
        # BEIR's archives hold one folder of the data set's name.
        needed = ("corpus.jsonl", "queries.jsonl", f"{default_split(name)}.tsv")
        fetch_folder(datasets()[name].archive, folder, needed, mirror, inner=name)
    elif not _installed(name):
        folder, length = Path(name).resolve(), 1
        beside = [(each,) if each in datasets() else Path(each).resolve().parts for each in others]
        beside = [parts for parts in beside if parts != folder.parts]
        while any(parts[-length:] == folder.parts[-length:] for parts in beside):
            length += 1
        name = "-".join(folder.parts[-length:])
    if _file(folder, "corpus.jsonl").exists():
        return [Collection(name, folder)]
    parts = sorted({path.parent for path in folder.glob("*/corpus.jsonl*")})
    if not parts:
        raise UserError(f"{folder} has no corpus.jsonl; see BEIR for the layout of a collection.")
    return [Collection(f"{name}/{part.name}", part) for part in parts]


def judged_collection(name: str, split: str | None = None) -> tuple[Collection, Qrels]:
    """A data set of one part, and its judgments.

    Args:
        split: by default, the one that the paper scores.

    Raises:
        UserError: it has several parts, or no judgments of that split.
    """
    collection, *others = find_collections(name)
    if others:
        raise UserError(f"{name} has parts; name one, such as {collection.folder}.")
    split = split or default_split(name)
    collection.check_split(split)
    return collection, collection.qrels(split, collection.queries())


def default_split(name: str) -> str:
    """The split that the paper scores: `dev` for MS MARCO, else `test`."""
    return datasets()[name].default_split if name in datasets() else "test"


def _records(path: Path, offset: int = 0) -> Iterator[tuple[int, dict]]:
    """The objects of a JSON lines file, and at which byte each begins.

    Every object must have a `text`, which may be empty, and an `_id` of one line, unlike those
    before it; `title` may be missing. Of each only the hash of the id is held, 8 bytes; it is at
    the end of the file that a duplicate is found.
    """
    import numpy as np

    hashes = array("q")
    with unpacked(path) as file:
        end = file.seek(offset)
        for number, line in enumerate(file, start=1):
            start, end = end, end + len(line)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                others = {UnicodeDecodeError: "not UTF-8 text; save it as UTF-8"}
                what = others.get(type(error), "not JSON")
                raise UserError(f"{path}, line {number}: {what}.") from None
            identifier = record.get("_id") if isinstance(record, dict) else None
            if not is_text(identifier) or not re.fullmatch(r"[^\r\n]+", identifier):
                raise UserError(f"{path}, line {number}: no _id, or not a text of one line.")
            record["title"] = record.get("title") or ""
            for field in ("title", "text"):
                if not is_text(record.get(field)):
                    raise UserError(
                        f"{path}, line {number}: {field!r} is missing or no text; the keys "
                        f"are {', '.join(record)}."
                    )
            hashes.append(hash(identifier))
            yield start, record
    first = np.unique(hashes, return_index=True)[1]
    if len(first) < len(hashes):
        second = np.setdiff1d(np.arange(len(hashes)), first)[0]
        _, record = next(islice(_records(path, offset), second, None))
        raise UserError(f"{path}, record {second + 1}: a second {record['_id']!r}.")


def texts_by_id(name: str, is_index: bool = False) -> Iterator[tuple[str, str]]:
    """Ids and texts of documents: of a table FILE[#COLUMN] that has both, or of a collection.

    Args:
        is_index: it is an index, which need not have texts.

    Raises:
        UserError: it has no ids and texts, or as `find_collections`.
    """
    path, column = file_of(name)
    if suffix_of(path) not in KINDS:
        check_name(name)
        parts = chain.from_iterable(map(find_collections, [name]))  # once it is asked
        return ((one.id, one.text) for part in parts for one in part.documents())
    table = open_table(path, column)
    places = table.column(IDS), table.column(TEXTS, column)
    if None in places and not is_index:
        raise UserError(f"{path} needs a column of ids and one of texts; it has {table.listed()}.")
    rows = () if None in places else table.rows(*places)
    return ((str(id), text) for _, (id, text) in rows if text)
