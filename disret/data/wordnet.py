"""Words, definitions and example sentences of WordNet, as texts to distil on beside queries.

    python -m disret.data.wordnet /usr/share/wordnet downloads/wordnet.txt
    python distill.py --queries downloads/msmarco/queries/queries.train.tsv downloads/wordnet.txt …

A query log knows the words that its users asked about. A dictionary knows the language, and a
student that has seen it follows its teacher further on queries of another field. WordNet's
database files come with Debian's and Ubuntu's package `wordnet-base`.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from disret.command_line import UserError, argument_parser, run
from disret.data.sentences import write_texts
from disret.files import check_writable, readable

KINDS = ("noun", "verb", "adj", "adv")
SHORTEST_EXAMPLE = 4  # words


def wordnet_texts(folder: Path) -> list[str]:
    """All texts once, shuffled: each word, `words: definition`, and each example sentence.

    Args:
        folder: holds WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv`.

    Raises:
        UserError: a file is missing or has another format.
    """
    texts: dict[str, None] = {}
    for kind in KINDS:
        path = folder / f"data.{kind}"
        lines = readable(path).read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if line.startswith("  "):  # the licence
                continue
            try:
                texts.update(dict.fromkeys(_texts(line)))
            except (ValueError, IndexError):
                raise UserError(f"{path}, line {number}: not of WordNet's format.") from None
    shuffled = list(texts)
    random.Random(0).shuffle(shuffled)
    return shuffled


def _texts(line: str) -> Iterator[str]:
    """The texts of a synset, in the format that wndb(5WN) documents."""
    fields, _, gloss = line.partition(" | ")
    _, _, _, count, *pairs = fields.split(" ")
    words = [
        re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in pairs[: 2 * int(count, 16) : 2]
    ]
    definition, *examples = re.split(r';\s*(?=")', gloss.strip())
    if not (words and definition):
        raise ValueError
    yield f"{', '.join(words)}: {definition}"
    yield from words
    for example in examples:
        text = example.strip('" ')
        if len(text.split()) >= SHORTEST_EXAMPLE:
            yield text


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.data.wordnet")
    parser.add_argument("folder", type=Path, help="where WordNet's data.* files lie")
    parser.add_argument("output", type=Path, help="text file to write, a text a line")
    args = parser.parse_args()
    check_writable(args.output)
    write_texts(args.output, wordnet_texts(args.folder))


if __name__ == "__main__":
    run(main)
