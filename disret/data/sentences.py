"""Sentences of a collection, as texts to distil on."""

import itertools
import random
import re
from collections.abc import Iterator

from disret.command_line import UserError
from disret.data.collection import find_collections

END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n+")
SHORTEST, LONGEST = 3, 64  # words; what is longer is no sentence, and unlike a query


def collection_sentences(name: str, limit: int, seed: int, mirror: str | None = None) -> list[str]:
    """Random sentences of a collection's documents, at most `limit`, each once.

    The corpus streams through: no more than `limit` sentences are held at a time. BEIR puts a
    document's title before its text, so a title comes with the first sentence.

    Args:
        name: a data set or directory, as `find_collections` takes it; so is `mirror`.

    Raises:
        UserError: there is no such collection, or no sentence in it.
    """
    collections = find_collections(name, mirror)
    chance = random.Random(seed)
    kept: list[str] = []
    texts = (document.text for collection in collections for document in collection.documents())
    for number, sentence in enumerate(itertools.chain.from_iterable(map(sentences_of, texts))):
        if len(kept) < limit:
            kept.append(sentence)
        elif (place := chance.randrange(number + 1)) < limit:
            kept[place] = sentence
    if not kept:
        raise UserError(f"the documents of {collections[0].folder} hold no sentences.")
    return list(dict.fromkeys(kept))


def sentences_of(text: str) -> Iterator[str]:
    """The sentences and lines of a text that are as long as a sentence."""
    for part in END.split(text):
        words = part.split()
        if SHORTEST <= len(words) <= LONGEST:
            yield " ".join(words)
