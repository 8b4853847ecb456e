"""Collections in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`.

The corpus is read as a stream and never held; ids, queries and judgments are.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from disret import paths
from disret.catalog import dataset as catalog_dataset
from disret.catalog import datasets
from disret.download import fetch
from disret.files import whole_folder
from disret.terminal import UserError, say
from disret.unpack import unpack

Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade


@dataclass(frozen=True)
class Collection:
    """A folder in BEIR's layout and the name to report it under."""

    name: str
    folder: Path

    def splits(self) -> list[str]:
        """Names of the splits that have judgments."""
        return sorted(path.stem for path in (self.folder / "qrels").glob("*.tsv"))

    def check_split(self, split: str) -> None:
        """Raise `UserError` if there are no judgments for `split`."""
        if split not in self.splits():
            raise UserError(
                f"{self.name} has no split {split!r}; it has: {', '.join(self.splits()) or 'none'}."
            )

    def fingerprint(self, split: str | None = None) -> str:
        """SHA-256 of the corpus file, or with `split` of the queries and judgments as well."""
        files = ["corpus.jsonl"]
        if split is not None:
            files += ["queries.jsonl", f"qrels/{split}.tsv"]
        digest = hashlib.sha256()
        for name in files:
            try:
                with (self.folder / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except FileNotFoundError:
                raise UserError(f"there is no file {self.folder / name}.") from None
        return digest.hexdigest()

    def document_ids(self) -> list[str]:
        """Read the corpus once, checking every line, and return its ids in order.

        Raises:
            UserError: the corpus is missing or empty, or has a broken line, a missing `_id` or a
                duplicate (the message gives the line number).
        """
        ids = [document["_id"] for document in _records(self.folder / "corpus.jsonl")]
        if not ids:
            raise UserError(f"{self.folder / 'corpus.jsonl'} has no documents.")
        return ids

    def texts(self) -> Iterator[str]:
        """Stream the documents as BEIR's encoders read them: title, a space, text."""
        for document in _records(self.folder / "corpus.jsonl"):
            title, text = document.get("title") or "", document.get("text") or ""
            yield f"{title} {text}".strip()

    def queries(self) -> dict[str, str]:
        """All queries, id to text, of every split."""
        return {
            query["_id"]: query.get("text") or ""
            for query in _records(self.folder / "queries.jsonl")
        }

    def split_queries(self, split: str) -> list[str]:
        """The texts of the queries that a split judges."""
        with (self.folder / "qrels" / f"{split}.tsv").open(encoding="utf-8") as file:
            next(file, None)  # the header
            judged = {line.partition("\t")[0] for line in file}
        texts = [text for query, text in self.queries().items() if query in judged]
        if not texts:
            raise UserError(f"{self.folder} has no queries in its split {split}.")
        return texts

    def qrels(self, split: str, queries: dict[str, str], document_ids: set[str]) -> Qrels:
        """Read the judgments of a split.

        Queries that `queries` does not have are left out; documents that the corpus does not
        have stay, as in BEIR, and count as not retrieved. Both are counted in a warning.

        Raises:
            UserError: a malformed line, or no judgment is left.
        """
        path = self.folder / "qrels" / f"{split}.tsv"
        qrels: Qrels = {}
        unknown_queries: set[str] = set()
        unknown_documents: set[str] = set()
        known = 0
        with path.open(encoding="utf-8", errors="replace") as file:
            next(file, None)  # the header
            for number, line in enumerate(file, start=2):
                if not line.strip():
                    continue
                try:
                    query, document, grade = line.rstrip("\r\n").split("\t")
                    score = int(grade)
                except ValueError:
                    raise UserError(
                        f"{path}, line {number}: expected query, document and grade."
                    ) from None
                if query not in queries:
                    unknown_queries.add(query)
                    continue
                if document in document_ids:
                    known += 1
                else:
                    unknown_documents.add(document)
                qrels.setdefault(query, {})[document] = score
        if unknown_queries or unknown_documents:
            say(
                f"{self.name}: the judgments name {len(unknown_queries)} queries and "
                f"{len(unknown_documents)} documents that the collection does not have."
            )
        if not known:
            raise UserError(f"{path} has no judgment of a known query and document.")
        return qrels


def check_name(name: str) -> None:
    """Raise `UserError` unless `name` is a data set or a directory, without downloading."""
    if not _installed(name) and not Path(name).is_dir():
        catalog_dataset(name)  # raises, naming the nearest


def is_present(name: str) -> bool:
    """Whether the collection is here, so that finding it downloads nothing."""
    return _installed(name) or (name not in datasets() and Path(name).is_dir())


def find_collections(name: str, mirror: str | None = None) -> list[Collection]:
    """The collections behind a name or directory, downloaded on first use.

    Args:
        name: a data set of the catalog, or a directory in BEIR's layout.
        mirror: see `disret.download.fetch`.

    Returns:
        One collection; several for a data set made of parts (CQADupStack's twelve forums), each
        in a folder of its own.

    Raises:
        UserError: unknown name, failed download, or a directory in another layout.
    """
    check_name(name)
    folder = paths.COLLECTIONS / name
    if name in datasets():
        if not folder.exists():
            _install(name, folder, mirror)
    elif not _installed(name):
        folder = Path(name).resolve()
        name = folder.name
    if (folder / "corpus.jsonl").exists():
        return [Collection(name, folder)]
    parts = sorted(path.parent for path in folder.glob("*/corpus.jsonl"))
    if not parts:
        raise UserError(f"{folder} has no corpus.jsonl; see BEIR for the layout of a collection.")
    return [Collection(f"{name}/{part.name}", part) for part in parts]


def default_split(name: str) -> str:
    """The split that the paper scores: `dev` for MS MARCO, else `test`."""
    return datasets()[name].default_split if name in datasets() else "test"


def _installed(name: str) -> bool:
    """Whether a collection of this name is under `benchmarks/raw`."""
    parts = Path(name).parts
    is_plain = bool(parts) and "/" not in parts and ".." not in parts
    return is_plain and (paths.COLLECTIONS / name).is_dir()


def _install(name: str, folder: Path, mirror: str | None) -> None:
    from filelock import FileLock

    archive = fetch(datasets()[name].archive, mirror)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if folder.exists():
            return
        with whole_folder(folder) as partial:
            unpack(archive, partial)
            inner = partial / name  # BEIR's archives hold one folder of the data set's name
            if not inner.is_dir():
                raise UserError(f"{archive} does not hold a folder {name}.")
            for path in list(inner.iterdir()):
                path.rename(partial / path.name)
            inner.rmdir()


def _records(path: Path) -> Iterator[dict]:
    """The objects of a JSON lines file, each with a unique `_id` of one line."""
    seen: set[str] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    raise UserError(f"{path}, line {number}: not JSON.") from None
                identifier = record.get("_id") if isinstance(record, dict) else None
                if not isinstance(identifier, str) or not re.fullmatch(r"[^\r\n]+", identifier):
                    raise UserError(f"{path}, line {number}: no _id, or not a text of one line.")
                if identifier in seen:
                    raise UserError(f"{path}, line {number}: a second {identifier!r}.")
                seen.add(identifier)
                yield record
    except FileNotFoundError:
        raise UserError(f"there is no file {path}.") from None
