#!/usr/bin/env python
"""Texts of many kinds, to distil on beside queries: a mix made for it, or sentences of files.

    make texts                                              # the mix, into downloads/texts
    python beyond/texts.py general downloads/texts          # the same
    python beyond/texts.py /usr/share/doc/python3.11/html downloads/prose.txt
    python distill.py --queries log.csv downloads/texts/*.txt …

A query log knows the words that its users asked about. A dictionary knows the language, and a
student that has seen it follows its teacher further on queries of another field. `general` takes
what `texts.csv` lists from the hub and from Debian's archive, by HTTPS and checked, as far as they
are reached, and writes one file a kind, with their licences in `sources.csv`.
"""

import gzip
import lzma
import random
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from disret.command_line import UserError, argument_parser, progress_bar, run, say, tell
from disret.data.catalog import Archive
from disret.data.download import TIMEOUT, fetch
from disret.data.hub import HUB, hub_obstacle, look_up
from disret.data.queries import hub_texts
from disret.distil.training_data import sentences_of
from disret.files import check_writable, readable, whole_file
from disret.tables import read_rows, write_rows

GENERAL, TABLE = "general", Path(__file__).with_suffix(".csv")
DEBIAN, ARCHIVE, SUITE = "debian:", "https://deb.debian.org/debian", "bookworm"
PACKAGES, DESCRIPTIONS = "main/binary-all/Packages.xz", "main/i18n/Translation-en.xz"
MANUAL = re.compile(r"\.[1-9][a-z]*$")
# Pronunciation, etymology and markup, of a length that keeps damaged files from taking hours.
ASIDE = re.compile(r"\\[^\\\n]{0,300}\\|\[[^\]]{0,300}\]|<[^>]{0,300}>|[{}]")
FEWEST_LETTERS = 0.8  # of the characters, spaces included: what has fewer is code or a table
UNSEEN = {"head", "nav", "pre", "script", "style", "footer"}
BLOCKS = {"p", "li", "dd", "dt", "td", "th", "div", "h1", "h2", "h3", "h4", "h5", "h6", "br"}
UNPACK = {".gz": gzip.decompress, ".dz": gzip.decompress, ".xz": lzma.decompress}
WORDNET = ("data.noun", "data.verb", "data.adj", "data.adv")
SHORTEST_EXAMPLE = 4  # words


def texts_of(paths: Sequence[Path]) -> list[str]:
    """The texts of all files that are known as text, each once, shuffled.

    Args:
        paths: files, and folders and Debian packages (`.deb`) to look through: `.dict`, `.html`,
            `.txt`, manual pages (`.1`, `.3pm`) and Debian's `Translation-en`, each perhaps with
            `.gz`, `.dz` or `.xz` behind, for their sentences; WordNet's `data.noun` and others,
            for each word, `words: definition` and each example sentence; and `GO.sqlite`, for the
            Gene Ontology's terms and definitions.

    Raises:
        UserError: a path is missing, or none of them holds a text.
    """
    found: dict[str, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no {path}.")
        for name in WORDNET if (path / WORDNET[0]).exists() else ():
            readable(path / name)
        for name, read in progress_bar(_files(path), desc=str(path), unit="file"):
            if reader := _reader(re.sub(r"\.(gz|dz|xz)$", "", name)):
                content = UNPACK.get(Path(name).suffix, bytes)(read())
                found.update(dict.fromkeys(reader(content)))
    if not found:
        raise UserError(f"there are no sentences in {', '.join(map(str, paths))}.")
    shuffled = list(found)
    random.Random(0).shuffle(shuffled)
    return shuffled


def _files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Of a file, or of each in a folder or package: its name, and what reads it."""
    if path.suffix == ".deb":
        yield from _members(path)
    else:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield file.name, file.read_bytes


def _members(package: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The files of a Debian package, a tar archive in an `ar` archive, see deb(5)."""
    with package.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise UserError(f"{package} is no Debian package.")
        while len(header := file.read(60)) == 60:
            if header.startswith(b"data.tar"):
                try:
                    with tarfile.open(fileobj=file, mode="r|*") as tar:
                        for member in filter(tarfile.TarInfo.isfile, tar):
                            yield Path(member.name).name, tar.extractfile(member).read
                except tarfile.TarError as error:
                    raise UserError(f"{package} cannot be read: {error}.") from None
                return
            size = int(header[48:58])
            file.seek(size + size % 2, 1)


# --- The mix --------------------------------------------------------------------------------------


def general(folder: Path, archive: str = ARCHIVE) -> None:
    """Write the mix: for each kind of `texts.csv` whose source is reached, a file.

    Args:
        archive: address of Debian's archive, or of a mirror of it.

    Raises:
        UserError: no source is reached.
    """
    packages, obstacles = {}, {HUB: hub_obstacle(), DEBIAN: ""}
    try:
        packages = _packages(archive)
    except UserError as error:
        obstacles[DEBIAN] = str(error).rstrip(".")
    for place, obstacle in obstacles.items():
        if obstacle:
            say(f"no texts from {place.rstrip(':')}: {obstacle}.")
    got = []
    for row in read_rows(TABLE):
        place, colon, names = row["source"].partition(":")
        (folder / f"{row['kind']}.txt").unlink(missing_ok=True)  # of another time
        if obstacles[place + colon]:
            continue
        most = int(row["most"])
        try:
            if place + colon == HUB:
                texts = _of_hub(row["source"], most)
            else:
                if lacking := [name for name in names.split() if name not in packages]:
                    raise UserError(f"{archive} has no package {', '.join(lacking)}.")
                texts = texts_of([fetch(packages[name]) for name in names.split()])[:most]
        except UserError as error:
            say(f"no {row['kind']}: {error}")
            continue
        _write(folder / f"{row['kind']}.txt", texts)
        got.append({**row, "texts": len(texts)})
        tell(f"{row['kind']}: {len(texts):,} texts of {row['source']} ({row['licence']})")
    if not got:
        raise UserError("neither the hub nor Debian's archive is reached, so there are no texts.")
    write_rows(folder / "sources.csv", got)
    tell(f"{folder}: {sum(row['texts'] for row in got):,} texts")


def _of_hub(name: str, most: int) -> list[str]:
    """The first texts of a column of a data set; no more of it is read."""
    texts = hub_texts(name, look_up(name)[0])
    found: dict[str, None] = {}
    with progress_bar(total=most, desc=name, unit="text") as bar:
        for text in filter(None, texts):
            if text not in found:
                found[text] = None
                bar.update()
            if len(found) == most:
                break
    return list(found)


def _packages(archive: str) -> dict[str, Archive]:
    """Where the packages for every architecture are, and the descriptions of all, by name."""
    import requests

    base = f"{archive.rstrip('/')}/dists/{SUITE}"
    try:
        answer = requests.get(f"{base}/InRelease", timeout=TIMEOUT)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise UserError(f"cannot reach {base} ({type(error).__name__}).") from None
    lines = re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", answer.text, re.MULTILINE)
    at = {path: digest for digest, path in lines}
    if not {PACKAGES, DESCRIPTIONS} <= at.keys():
        raise UserError(f"{base}/InRelease does not list {PACKAGES} and {DESCRIPTIONS}.")

    def of(path: str, url: str, digest: str) -> Archive:
        return Archive(f"debian/{digest[:8]}-{Path(path).name}", url, digest)

    listed = fetch(of(PACKAGES, f"{base}/{PACKAGES}", at[PACKAGES]))
    found = {"descriptions": of(DESCRIPTIONS, f"{base}/{DESCRIPTIONS}", at[DESCRIPTIONS])}
    for entry in lzma.decompress(listed.read_bytes()).decode().split("\n\n"):
        fields = dict(re.findall(r"^(Package|Filename|SHA256): (\S+)$", entry, re.MULTILINE))
        if len(fields) == 3:
            path = fields["Filename"]
            url = f"{archive.rstrip('/')}/{path}"
            found[fields["Package"]] = of(path, url, fields["SHA256"])
    return found


def _write(path: Path, texts: Iterable[str]) -> None:
    with whole_file(path) as partial:
        partial.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


# --- Kinds of files -------------------------------------------------------------------------------


def _reader(name: str) -> Callable[[bytes], Iterable[str]] | None:
    """What takes the texts out of a file of this name, if it is known as text."""
    if name.endswith((".html", ".htm")):
        return _prose(_of_html)
    if "Translation-en" in name:
        return _prose(_of_descriptions)
    if name.endswith((".dict", ".txt")):
        return _prose(_of_text)
    if name in WORDNET:
        return _of_wordnet
    if name == "GO.sqlite":
        return _of_gene_ontology
    return _prose(_of_manual) if MANUAL.search(name) else None


def _prose(paragraphs: Callable[[str], Iterable[str]]) -> Callable[[bytes], Iterator[str]]:
    """What takes the sentences out of the paragraphs of a file."""

    def read(content: bytes) -> Iterator[str]:
        for paragraph in paragraphs(content.decode("utf-8", errors="replace")):
            text = re.sub(r"(?<!\s)\s+([,.;:])", r"\1", ASIDE.sub(" ", paragraph))
            yield from filter(_is_prose, sentences_of(text))

    return read


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


# --- Words and terms ------------------------------------------------------------------------------


def _of_gene_ontology(content: bytes) -> Iterator[str]:
    with sqlite3.connect(":memory:") as base:
        base.deserialize(content)
        for term, definition in base.execute("select term, definition from go_term"):
            yield from (term, f"{term}: {definition}")


def _of_wordnet(content: bytes) -> Iterator[str]:
    """The texts of each synset, in the format that wndb(5WN) documents."""
    for line in content.decode("utf-8", errors="replace").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        _, _, _, count, *pairs = fields.split(" ")
        named = pairs[: 2 * int(count, 16) : 2]
        words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in named]
        definition, *examples = re.split(r';\s*(?=")', gloss.strip())
        yield f"{', '.join(words)}: {definition}"
        yield from words
        texts = (example.strip('" ') for example in examples)
        yield from (text for text in texts if len(text.split()) >= SHORTEST_EXAMPLE)


def main() -> None:
    parser = argument_parser(__doc__)
    what = f"files, folders of files, Debian packages; or `{GENERAL}`"
    parser.add_argument("paths", type=Path, nargs="+", help=what)
    where = f"text file to write, a text a line; of `{GENERAL}` a folder"
    parser.add_argument("output", type=Path, help=where)
    at = "address of Debian's archive, or of a mirror of it"
    parser.add_argument("--debian", default=ARCHIVE, metavar="URL", help=at)
    args = parser.parse_args()
    if args.paths == [Path(GENERAL)]:
        check_writable(args.output / "sources.csv")
        general(args.output, args.debian)
    else:
        check_writable(args.output)
        texts = texts_of(args.paths)
        _write(args.output, texts)
        tell(f"{args.output}: {len(texts)} texts")


if __name__ == "__main__":
    run(main)
