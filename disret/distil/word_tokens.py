"""Tokens of their own for words that a teacher's tokenizer splits, for students without layers.

A transformer puts the pieces of a word together again; a mean of their embeddings cannot.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from disret.command_line import progress_bar

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FEWEST = 3  # times that a word stands in the texts; a rarer one would keep the place it starts at


def takes_words(tokenizer: "Tokenizer") -> bool:
    """Whether words can be added: the tokenizer splits texts into words first, these into pieces.

    WordPiece and BPE do; the pieces of Unigram have probabilities, and a word would need one.
    """
    kind = type(tokenizer.model).__name__
    return kind in ("WordPiece", "BPE") and tokenizer.pre_tokenizer is not None


def frequent_words(tokenizer: "Tokenizer", texts: Iterable[str], count: int) -> list[str]:
    """The most frequent words of some texts that the tokenizer splits, as its vocabulary has words.

    Args:
        count: how many, at most.
    """
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    found = Counter(
        word
        for text in progress_bar(texts, desc="words", unit="text", delay=2)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalise(text))
    )
    split = (
        word
        for word, times in found.most_common()
        if times >= FEWEST
        and len(tokenizer.model.tokenize(word)) > 1
        and as_text(tokenizer, word).isalnum()
    )
    return list(islice(split, count))


def as_text(tokenizer: "Tokenizer", word: str) -> str:
    """A word of the vocabulary as people write it: byte-level ones have a letter for each byte."""
    return tokenizer.decoder.decode([word]).strip() if tokenizer.decoder else word


def with_words(tokenizer: "Tokenizer", words: Iterable[str]) -> "Tokenizer":
    """The same with a token for each word, numbered behind all others."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] |= {word: n for n, word in enumerate(words, start=tokenizer.get_vocab_size())}
    if model["type"] == "BPE":
        model["ignore_merges"] = True  # take what the vocabulary has as a whole
    return Tokenizer.from_str(json.dumps(content))
