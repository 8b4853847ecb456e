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
from itertools import islice
from pathlib import Path

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
    docstrings = list(islice(_distinct(), DOCUMENTS + VALID_QUERIES + TRAIN_QUERIES))
    docstrings.sort(key=lambda docstring: _hash(docstring[0]))
    corpus = [one for one in docstrings if len(one[1].split()) >= MIN_DOCUMENT_WORDS][:DOCUMENTS]
    if len(corpus) < DOCUMENTS or len(docstrings) < DOCUMENTS + VALID_QUERIES:
        raise UserError(f"only {len(docstrings)} docstrings are installed: too few for pydocs.")
    test = [summary for summary, _ in corpus[:TEST_QUERIES]]
    taken = {_normalised(text) for docstring in corpus for text in docstring}
    free = [summary for summary, _ in docstrings if _normalised(summary) not in taken]
    valid, train = free[:VALID_QUERIES], free[VALID_QUERIES : VALID_QUERIES + TRAIN_QUERIES]

    with whole_folder(folder) as partial:
        _write_jsonl(partial / "corpus.jsonl", "d", [rest for _, rest in corpus])
        _write_jsonl(partial / "queries.jsonl", "q", test)
        (partial / "qrels").mkdir()
        qrels = "".join(f"q{row}\td{row}\t1\n" for row in range(len(test)))
        (partial / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
        for name, queries in (("train", train), ("valid", valid)):
            lines = "".join(f"{name}{row}\t{query}\n" for row, query in enumerate(queries))
            (partial / f"{name}-queries.tsv").write_text(lines, encoding="utf-8")
    say(
        f"pydocs: {len(corpus)} documents, {len(test)} test, {len(valid)} validation and "
        f"{len(train)} training queries from installed docstrings."
    )
    return folder


def _distinct() -> Iterator[tuple[str, str]]:
    """Docstrings whose first paragraph is fit for a query, no such one and no rest twice."""
    seen: set[str] = set()
    for summary, rest in _docstrings():
        texts = {_normalised(text) for text in (summary, rest)} - {""}
        fits = MIN_QUERY_WORDS <= len(summary.split()) <= MAX_QUERY_WORDS
        if fits and summary.isprintable() and not texts & seen:
            seen |= texts
            yield summary, rest


def _docstrings() -> Iterator[tuple[str, str]]:
    """First paragraph and rest of docstrings of the standard library and the installed packages.

    Files are in the order of their names' hashes, which mixes the packages.
    """
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = {file.relative_to(root): file for root in roots for file in root.rglob("*.py")}
    outside_tests = [name for name in files if not LEFT_OUT & set(name.parts)]
    for name in sorted(outside_tests, key=lambda name: _hash(name.as_posix())):
        try:
            with warnings.catch_warnings(action="ignore"):  # invalid escapes in others' sources
                pending: list[ast.AST] = [ast.parse(files[name].read_bytes())]
        except (SyntaxError, ValueError, RecursionError):
            continue  # templates and tests of parsers
        while pending:
            node = pending.pop()
            if text := ast.get_docstring(node):
                head, _, rest = text.strip().partition("\n\n")
                yield " ".join(head.split()), " ".join(rest.split())[:MAX_DOCUMENT_CHARACTERS]
            pending += [child for child in node.body if isinstance(child, DOCUMENTED)]


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
