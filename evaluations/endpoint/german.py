#!/usr/bin/env python
"""A second language: a collection of German package descriptions, and German texts to train on.

    python evaluations/endpoint/german.py Translation-de.bz2 manuals-de.txt words-de.txt \\
        --collection benchmarks/raw/debian-de --texts texts-de.txt

Debian describes a package in a line and in a paragraph. The line is the query, the paragraph the
document that answers it, by known item: 3,000 documents, 600 queries. The texts are lines and
sentences of the other packages, and what the further files hold, a text a line; no line and no
sentence of the collection is among them.
"""

import bz2
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from disret.command_line import argument_parser, run

DOCUMENTS, QUERIES = 3000, 600
SHORTEST, BEGINNING, LONGEST = 200, 120, 400  # letters: of a paragraph, of its start, of a text
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")


def descriptions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Name, line and paragraph of each package."""
    for block in bz2.decompress(path.read_bytes()).decode().split("\n\n"):
        name = re.search(r"^Package: (.*)$", block, re.MULTILINE)
        about = re.search(r"^Description-de: (.*)\n((?: .*\n?)*)", block, re.MULTILINE)
        if name and about:
            lines = [line.strip() for line in about[2].split("\n") if line.strip() != "."]
            short = re.sub(r"\s*\([^)]*\)$", "", about[1]).strip()
            yield name[1], short, " ".join(" ".join(lines).split())


def distinct(path: Path) -> list[tuple[str, tuple[str, str]]]:
    """Line, name and paragraph of packages that are told apart by both, shuffled."""
    by_line: dict[str, tuple[str, str]] = {}
    for name, short, long in descriptions(path):
        if len(long) > SHORTEST and len(short.split()) >= 3:
            by_line.setdefault(short, (name, long))
    by_start: dict[str, str] = {}
    for short, (_, long) in by_line.items():
        by_start.setdefault(long[:BEGINNING], short)
    found = sorted((short, by_line[short]) for short in by_start.values())
    random.Random(0).shuffle(found)
    return found


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("translation", type=Path)
    parser.add_argument("others", nargs="+", type=Path)
    parser.add_argument("--collection", type=Path, required=True, metavar="DIR")
    parser.add_argument("--texts", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    found = distinct(args.translation)
    documents, rest = found[:DOCUMENTS], found[DOCUMENTS:]
    (args.collection / "qrels").mkdir(parents=True, exist_ok=True)
    files = {
        "corpus.jsonl": [{"_id": name, "title": "", "text": long} for _, (name, long) in documents],
        "queries.jsonl": [
            {"_id": f"q-{name}", "text": short} for short, (name, _) in documents[:QUERIES]
        ],
    }
    for name, records in files.items():
        lines = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in records)
        (args.collection / name).write_text(lines, encoding="utf-8")
    judged = "".join(f"q-{name}\t{name}\t1\n" for _, (name, _) in documents[:QUERIES])
    (args.collection / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")

    whole = {
        " ".join(text.lower().split()) for short, (_, long) in documents for text in (short, long)
    }
    paragraphs = " ".join(long for _, (_, long) in documents)
    sentences = {text.strip() for text in re.split(r"(?<=[.!?])\s+", paragraphs)}
    texts = dict.fromkeys(short for short, _ in rest)
    for _, (_, long) in rest:
        own = (text for text in SENTENCE.split(long) if 3 <= len(text.split()) <= 64)
        texts.update(dict.fromkeys(text for text in own if text not in sentences))
    for path in args.others:
        texts.update(dict.fromkeys(line.strip() for line in path.open(encoding="utf-8")))
    kept = [text for text in texts if text and text.lower() not in whole and len(text) < LONGEST]
    random.Random(1).shuffle(kept)
    args.texts.write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
