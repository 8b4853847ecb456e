#!/usr/bin/env python
"""Sentences of dictionaries, manuals and HTML, and WordNet's words, to distil on beside queries.

    python beyond/texts.py /usr/share/dictd /usr/share/doc/python3.11/html downloads/prose.txt
    python beyond/texts.py /usr/share/wordnet downloads/wordnet.txt
    python distill.py --queries downloads/msmarco/queries/queries.train.tsv downloads/wordnet.txt …

A query log knows the words that its users asked about. A dictionary knows the language, and a
student that has seen it follows its teacher further on queries of another field. What a Linux
distribution packages holds many kinds of text: WordNet (`wordnet-base`), DICT dictionaries, HTML
documentation, manual pages, descriptions of packages, and plain text.
"""

import gzip
import lzma
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from disret.command_line import UserError, argument_parser, progress_bar, run, tell
from disret.distil.training_data import sentences_of
from disret.files import check_writable, readable, whole_file

MANUAL = re.compile(r"\.[1-9][a-z]*$")
# Pronunciation, etymology and markup, of a length that keeps damaged files from taking hours.
ASIDE = re.compile(r"\\[^\\\n]{0,300}\\|\[[^\]]{0,300}\]|<[^>]{0,300}>|[{}]")
FEWEST_LETTERS = 0.8  # of the characters, spaces included: what has fewer is code or a table
UNSEEN = {"head", "nav", "pre", "script", "style", "footer"}
BLOCKS = {"p", "li", "dd", "dt", "td", "th", "div", "h1", "h2", "h3", "h4", "h5", "h6", "br"}
WORDNET = ("data.noun", "data.verb", "data.adj", "data.adv")
SHORTEST_EXAMPLE = 4  # words


def texts_of(paths: Sequence[Path]) -> list[str]:
    """The texts of all files that are known as text, each once, shuffled.

    Args:
        paths: files, and folders to look through: `.dict`, `.html`, `.txt`, manual pages (`.1`,
            `.3pm`) and Debian's `Translation-en`, each perhaps with `.gz`, `.dz` or `.xz` behind,
            for their sentences; and folders that hold WordNet's `data.noun`, for each word,
            `words: definition` and each example sentence.

    Raises:
        UserError: a path is missing, or none of them holds a text.
    """
    found: dict[str, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}.")
        is_wordnet = (path / WORDNET[0]).exists()
        found.update(dict.fromkeys(_of_wordnet(path) if is_wordnet else _sentences(path)))
    if not found:
        raise UserError(f"there are no sentences in {', '.join(map(str, paths))}.")
    shuffled = list(found)
    random.Random(0).shuffle(shuffled)
    return shuffled


def _sentences(path: Path) -> Iterator[str]:
    """The sentences of a file, or of all files of a folder that are known as text."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    known = [file for file in files if file.is_file() and _reader(file)]
    for file in progress_bar(known, desc=str(path), unit="file"):
        unpack = {".gz": gzip.open, ".dz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
        with unpack(file, "rt", encoding="utf-8", errors="replace") as stream:
            paragraphs = _reader(file)(stream.read())
        for paragraph in paragraphs:
            text = re.sub(r"(?<!\s)\s+([,.;:])", r"\1", ASIDE.sub(" ", paragraph))
            yield from filter(_is_prose, sentences_of(text))


# --- Kinds of files -------------------------------------------------------------------------------


def _reader(file: Path) -> Callable[[str], Iterable[str]] | None:
    """What takes paragraphs out of a file of this name."""
    name = re.sub(r"\.(gz|dz|xz)$", "", file.name)
    if name.endswith((".html", ".htm")):
        return _of_html
    if name.startswith("Translation-en"):
        return _of_descriptions
    if name.endswith((".dict", ".txt")):
        return _of_text
    return _of_manual if MANUAL.search(name) else None


def _of_text(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        yield " ".join(paragraph.split())


def _of_descriptions(text: str) -> Iterator[str]:
    """Of each package the line that says what it is, and the paragraphs below."""
    lines = re.sub(r"^(Package|Description-md5): .*$", "", text, flags=re.MULTILINE)
    lines = re.sub(r"^Description-en: (.*)$", r"\1\n", lines, flags=re.MULTILINE)
    return _of_text(re.sub(r"^ \.$", "", lines, flags=re.MULTILINE))


def _of_manual(text: str) -> Iterator[str]:
    """The running text of a manual page in man(7) or mdoc(7), without its requests."""
    text = re.sub(r"^[.']\s*(SH|SS|TP|PP|P|LP|IP|RS|RE|Pp|It|Sh|Ss)\b.*$", "", text, flags=re.M)
    text = re.sub(r"^[.'](B|I|BR|BI|IR|RB|RI|IB|Nm|Fl|Ar|Xr|Em|Dv|Va)\s+", "", text, flags=re.M)
    text = re.sub(r"^[.'].*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"\\f(\[\w*\]|\(\w\w|\w)|\\&|\\/|\\,", "", text)
    return _of_text(re.sub(r"\\\(\w\w|\\\[\w+\]", " ", text).replace(r"\-", "-").replace('"', ""))


def _of_html(text: str) -> list[str]:
    parser = _Blocks()
    parser.feed(text)
    parser.close()
    return [" ".join(block.split()) for block in "".join(parser.parts).split("\0")]


class _Blocks(HTMLParser):
    """The text of a page, with a NUL where a block begins or ends."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag: str, _attributes: list) -> None:
        self.unseen += tag in UNSEEN
        if tag in BLOCKS:
            self.parts.append("\0")

    def handle_endtag(self, tag: str) -> None:
        self.unseen = max(0, self.unseen - (tag in UNSEEN))
        if tag in BLOCKS:
            self.parts.append("\0")

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.parts.append(data)


def _is_prose(sentence: str) -> bool:
    letters = sum(char.isalpha() or char == " " for char in sentence)
    return letters >= FEWEST_LETTERS * len(sentence) and "�" not in sentence


# --- WordNet --------------------------------------------------------------------------------------


def _of_wordnet(folder: Path) -> Iterator[str]:
    for path in (folder / name for name in WORDNET):
        for line in readable(path).read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("  "):  # the licence
                yield from _of_synset(line)


def _of_synset(line: str) -> Iterator[str]:
    """The texts of a synset, in the format that wndb(5WN) documents."""
    fields, _, gloss = line.partition(" | ")
    _, _, _, count, *pairs = fields.split(" ")
    words = [
        re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in pairs[: 2 * int(count, 16) : 2]
    ]
    definition, *examples = re.split(r';\s*(?=")', gloss.strip())
    yield f"{', '.join(words)}: {definition}"
    yield from words
    for example in examples:
        text = example.strip('" ')
        if len(text.split()) >= SHORTEST_EXAMPLE:
            yield text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("paths", type=Path, nargs="+", help="files, or folders of files")
    parser.add_argument("output", type=Path, help="text file to write, a text a line")
    args = parser.parse_args()
    check_writable(args.output)
    texts = texts_of(args.paths)
    with whole_file(args.output) as partial:
        partial.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    tell(f"{args.output}: {len(texts)} texts")


if __name__ == "__main__":
    run(main)
