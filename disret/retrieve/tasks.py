"""What encoders are scored on: queries, the judgments of them, if any, and documents."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from disret import distributed
from disret.data.collection import Collection, Qrels, default_split, find_collections
from disret.files import text_sha256
from disret.retrieve.existing import ExistingIndex
from disret.retrieve.index import Index

Check = Callable[[Iterable[str]], None]  # of the documents' ids


class Target(NamedTuple):
    """What is searched and judged by: queries by id, judgments (none of a log), and an index.

    Attributes:
        collection: None for a log.
    """

    name: str
    queries: dict[str, str]
    qrels: Qrels
    index: Index | ExistingIndex
    collection: Collection | None

    def document_texts(self, ids: set[str]) -> dict[str, str]:
        """The texts of some documents by id, where the collection is there to read them from."""
        if self.collection is None:
            return {}
        documents = self.collection.documents()
        return {document.id: document.text for document in documents if document.id in ids}


class Task(NamedTuple):
    """Queries to score on: those that a split of a collection judges, or a log's.

    Attributes:
        content: SHA-256 of all that is read.
        collection: None for a log.
        log: queries by number, of a log.
    """

    name: str
    split: str
    content: str
    collection: Collection | None = None
    log: dict[str, str] | None = None

    def read(self) -> tuple[dict[str, str], Qrels, Check]:
        """Queries, judgments, and a check that some judged document is there."""
        if self.collection is None:
            return self.log, {}, lambda ids: None
        every = self.collection.queries()
        qrels = self.collection.qrels(self.split, every)
        judged = {document for grades in qrels.values() for document in grades}

        def check(ids: Iterable[str]) -> None:
            self.collection.check_judged(self.split, judged, judged.intersection(ids))

        return {query: every[query] for query in qrels}, qrels, check


def tasks_of(
    name: str, split: str | None, mirror: str | None, log: Iterable[str] | None = None
) -> list[Task]:
    """The tasks of a data set, or the one of a log that is called so; see the two below."""
    return find_tasks(name, split, mirror) if log is None else [log_task(name, log)]


def find_tasks(name: str, split: str | None, mirror: str | None) -> list[Task]:
    """The tasks behind a data set or directory; several for one in parts.

    Args:
        split: by default, the one that the paper scores.

    Raises:
        UserError: as `find_collections`, or there are no judgments.
    """
    split = split or default_split(name)
    tasks = []
    for collection in find_collections(name, mirror):
        collection.check_split(split)
        content = distributed.decided_by_first(partial(collection.fingerprint, split))
        tasks.append(Task(collection.name, split, content, collection))
    return tasks


def log_task(name: str, queries: Iterable[str]) -> Task:
    """Queries without judgments, each once."""
    texts = list(dict.fromkeys(queries))
    log = {str(number): text for number, text in enumerate(texts, start=1)}
    return Task(name, "log", text_sha256(texts), log=log)
