"""The embedded example: a retrieval collection made of the docstrings of installed packages.

    python -m disret.example.pydocs

A query is a docstring's summary line; its relevant document is the rest of the same docstring.
Sources are read with `ast` and never imported. The collection lies under `benchmarks/raw/pydocs`
in BEIR's layout, with `train-queries.tsv` and `valid-queries.tsv` beside it.
"""

import ast
import hashlib
import json
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from disret import paths
from disret.command_line import UserError, argument_parser, run, say
from disret.files import whole_folder

DOCUMENTS = 2500
TEST_QUERIES = 500
VALID_QUERIES = 1000
TRAIN_QUERIES = 20_000
MIN_QUERY_WORDS, MAX_QUERY_WORDS = 4, 24
LEFT_OUT = {"site-packages", "dist-packages", "tests", "test"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MIN_DOCUMENT_WORDS, MAX_DOCUMENT_CHARACTERS = 20, 1200


class Docstring(NamedTuple):
    """The first paragraph as one line, and what follows it."""

    summary: str
    rest: str


def build(folder: Path | None = None) -> Path:
    """Write the collection, unless it is there, and return its folder.

    What is drawn depends on the texts alone (their hashes order them), so the same packages give
    the same collection. A summary is in one of the three query sets at most, and no training or
    validation query equals a test query's or a document's text.

    Raises:
        UserError: the installed packages have too few docstrings.
    """
    folder = folder or paths.COLLECTIONS / "pydocs"
    if folder.exists():
        return folder
    docstrings = _distinct(_docstrings(), DOCUMENTS + VALID_QUERIES + TRAIN_QUERIES)
    with_document = [d for d in docstrings if len(d.rest.split()) >= MIN_DOCUMENT_WORDS]
    if len(with_document) < DOCUMENTS or len(docstrings) < DOCUMENTS + VALID_QUERIES:
        raise UserError(f"only {len(docstrings)} docstrings are installed: too few for pydocs.")
    in_corpus = with_document[:DOCUMENTS]
    test = in_corpus[:TEST_QUERIES]
    corpus_texts = {_normalised(text) for d in in_corpus for text in d}
    free = [d.summary for d in docstrings if _normalised(d.summary) not in corpus_texts]
    valid, train = free[:VALID_QUERIES], free[VALID_QUERIES : VALID_QUERIES + TRAIN_QUERIES]

    with whole_folder(folder) as partial:
        _write_jsonl(partial / "corpus.jsonl", "d", [d.rest for d in in_corpus])
        _write_jsonl(partial / "queries.jsonl", "q", [d.summary for d in test])
        (partial / "qrels").mkdir()
        qrels = "".join(f"q{row}\td{row}\t1\n" for row in range(len(test)))
        (partial / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
        for name, queries in (("train", train), ("valid", valid)):
            lines = "".join(f"{name}{row}\t{query}\n" for row, query in enumerate(queries))
            (partial / f"{name}-queries.tsv").write_text(lines, encoding="utf-8")
    say(
        f"pydocs: {len(in_corpus)} documents, {len(test)} test, {len(valid)} validation and "
        f"{len(train)} training queries from installed docstrings."
    )
    return folder


def _docstrings() -> Iterator[Docstring]:
    """Docstrings of the standard library and the installed packages.

    Files are in the order of their names' hashes, which mixes the packages.
    """
    stdlib, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    files = {file.relative_to(root): file for root in (stdlib, packages)
             for file in root.rglob("*.py")}  # fmt: skip
    outside_tests = [name for name in files if not LEFT_OUT & set(name.parts)]
    for name in sorted(outside_tests, key=lambda name: _hash(name.as_posix())):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's sources
                pending: list[ast.AST] = [ast.parse(files[name].read_bytes())]
        except (SyntaxError, ValueError, RecursionError):
            continue  # templates and tests of parsers
        while pending:
            node = pending.pop()
            if text := ast.get_docstring(node):
                head, _, rest = text.strip().partition("\n\n")
                rest = " ".join(rest.split())[:MAX_DOCUMENT_CHARACTERS]
                yield Docstring(" ".join(head.split()), rest)
            pending += [child for child in node.body if isinstance(child, DOCUMENTED)]


def _distinct(docstrings: Iterator[Docstring], count: int) -> list[Docstring]:
    """The first `count` docstrings fit for a query, no summary and no rest twice, by hash."""
    distinct: list[Docstring] = []
    seen: set[str] = set()
    for docstring in docstrings:
        texts = {_normalised(text) for text in docstring} - {""}
        words = len(docstring.summary.split())
        is_query = MIN_QUERY_WORDS <= words <= MAX_QUERY_WORDS and docstring.summary.isprintable()
        if is_query and not texts & seen:
            seen |= texts
            distinct.append(docstring)
        if len(distinct) == count:
            break
    return sorted(distinct, key=lambda docstring: _hash(docstring.summary))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _normalised(text: str) -> str:
    """Lower-case words only, so that texts that differ in punctuation are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _write_jsonl(path: Path, prefix: str, texts: list[str]) -> None:
    records = ({"_id": f"{prefix}{row}", "title": "", "text": t} for row, t in enumerate(texts))
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(lines, encoding="utf-8", errors="replace")


def main() -> None:
    argument_parser(__doc__, "python -m disret.example.pydocs").parse_args()
    print(build())


if __name__ == "__main__":
    run(main)
