#!/usr/bin/env python
"""Queries and other kinds of text in one order, so that its first N are a mixture for every N.

    python evaluations/endpoint/mix.py queries.tsv wordnet.txt:125000 dictionaries.txt:110000 … \\
        --without benchmarks/raw/scifact … --output texts.txt

The first 13,000 are queries; behind them queries and other texts take turns, as long as there are
both. No query or document of the collections named is among them.
"""

import random
from itertools import chain, zip_longest
from pathlib import Path

from disret.command_line import argument_parser, run
from disret.data.collection import find_collections
from disret.data.queries import read_queries

QUERIES, LONGEST = 13_000, 400  # alone at first; letters


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("queries")
    parser.add_argument("others", nargs="+", metavar="FILE:N")
    parser.add_argument("--without", nargs="+", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    chance, held = random.Random(0), set()
    for collection in chain.from_iterable(map(find_collections, args.without)):
        held.update(plain(document.text) for document in collection.documents())
        held.update(map(plain, read_queries([collection.folder / "queries.jsonl"])))
    queries = [text for text in read_queries([args.queries]) if plain(text) not in held]
    queries = list(dict.fromkeys(queries))
    chance.shuffle(queries)
    others = []
    for name in args.others:
        path, _, count = name.rpartition(":")
        texts = [text for text in read_queries([path]) if plain(text) not in held]
        texts = [text for text in texts if len(text) < LONGEST]
        places = chance.sample(range(len(texts)), min(int(count), len(texts)))
        others += [texts[place] for place in sorted(places)]
    chance.shuffle(others)
    turns = chain.from_iterable(zip_longest(queries[: QUERIES - 1 : -1], reversed(others)))
    mixed = dict.fromkeys(text for text in (*queries[:QUERIES], *turns) if text)
    args.output.write_text("\n".join(mixed) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
