"""What a student trains on: queries tokenised once, with the teacher's embeddings of them."""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from disret import paths
from disret.command_line import UserError, say
from disret.data.collection import find_collections
from disret.data.queries import Source, apart_from, training_queries
from disret.encode.embedding_cache import Rows
from disret.encode.encoders import Encoder
from disret.encode.models import prompt_of, tokenizer_settings
from disret.encode.tokens import Tokens, layout_of, tokenise
from disret.files import kept, text_sha256

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

FORMAT = 2  # of the files
FEW = 50_000  # texts; fewer are worth a word, see the table of doses in the README
END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n+")
SHORTEST, LONGEST = 3, 64  # words; what is longer is no sentence, and unlike a query


class Texts(NamedTuple):
    """Queries and sentences to train on, queries to validate on, and where they come from.

    Attributes:
        weights: how often a pass shows each text to train on; once, if None.
        sources: of the queries to train and to validate on.
        log_sha256: of the queries as they were read.
    """

    queries: list[str]
    sentences: list[str]
    valid: list[str]
    weights: np.ndarray | None
    sources: dict[str, list[Source]]
    log_sha256: str

    @property
    def training(self) -> list[str]:
        """All texts to train on."""
        return self.queries + self.sentences

    def without(self, texts: set[str]) -> "Texts":
        """All but some texts, which are counted; `UserError` if too few are left."""
        if not texts:
            return self
        say(f"{len(texts):,} texts are left out, as the teacher gives no vector of them.")
        kept = np.array([text not in texts for text in self.training])
        parts = ([text for text in part if text not in texts]
                 for part in (self.queries, self.sentences, self.valid))  # fmt: skip
        weights = None if self.weights is None else self.weights[kept]
        left = Texts(*parts, weights, self.sources, self.log_sha256)
        for use, some in (("train", left.training), ("validate", left.valid)):
            if not some:
                raise UserError(f"the teacher gives no vector of any text to {use} on.")
        return left


def read_texts(
    teacher: Encoder,
    queries: Sequence[tuple[Path | str, float]],
    valid_queries: Sequence[Path | str],
    max_queries: int | None,
    adapt: str | None,
    seed: int,
    mirror: str | None,
) -> Texts:
    """Read what a student is trained and validated on; no judgments.

    Args:
        queries: names with weights, as `training_queries` takes them.
        adapt: a collection, sentences of which are trained on as well.

    Raises:
        UserError: as `training_queries`; or the teacher has vectors of its own texts alone.
    """
    if teacher.texts:
        if queries or valid_queries or adapt:
            raise UserError(f"{teacher.name} has the texts to train on: name no others beside it.")
        train, valid = teacher.texts
        first = train[:max_queries]
        return Texts(first, [], valid, None, {}, text_sha256(first))
    train, valid, sources = training_queries(queries, valid_queries, max_queries, mirror)
    sentences: list[str] = []
    if adapt:
        sentences = apart_from(valid, collection_sentences(adapt, len(train), seed, mirror))
    if len(train) + len(sentences) < FEW:
        say(f"note: a student of {len(train) + len(sentences):,} texts learns little beyond them; "
            "`make texts` writes several hundred thousand more to name beside them.")  # fmt: skip
    times = [source.weight for source in sources["training"]]
    counts = [source.count for source in sources["training"]]
    shown = np.repeat([*times, 1.0], [*counts, len(sentences)])
    weights = None if set(times) == {1.0} else shown
    return Texts(train, sentences, valid, weights, sources, text_sha256(train))


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


@dataclass(frozen=True)
class TrainingData:
    """Queries, tokenised for the student, with the teacher's embeddings of them.

    Attributes:
        embeddings: float32 [n_queries, dimension].
        weights: how often a pass shows each query, float [n_queries]; once if not given. Of a
            fraction, as many queries are shown once more, always the same.
    """

    tokens: Tokens
    embeddings: Rows | np.ndarray
    weights: np.ndarray | None = None

    @cached_property
    def rows(self) -> np.ndarray:
        """The numbers of the queries, as often as a pass shows them, int64 [n_shown]."""
        if self.weights is None:
            return np.arange(len(self.embeddings))
        whole = np.floor(self.weights)
        chance = np.random.default_rng(0).random(len(whole))
        times = whole + (chance < self.weights - whole)
        return np.repeat(np.arange(len(times)), times.astype(np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64 [n_shown]."""
        return self.tokens.lengths[self.rows]

    def dataset(self) -> "Dataset":
        """The rows, of which `collate` makes batches."""
        from datasets import Dataset

        return Dataset.from_dict({"row": self.rows})

    def collate(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """A batch as sentence-transformers' losses take it, with the embeddings as `label`."""
        import torch

        numbers = np.array([row["row"] for row in rows])
        features = self.tokens.batch(numbers)
        label = torch.from_numpy(np.asarray(self.embeddings[numbers], dtype=np.float32))
        return {**{f"query_{name}": value for name, value in features.items()}, "label": label}


def tokenised_queries(student: "SentenceTransformer", queries: Sequence[str]) -> Tokens:
    """Tokenise queries as `encode_query` does, once: a later call reads the file.

    The file lies under `downloads/tokens`, named by the tokenizer, the prompt, the maximum length
    and the queries.

    Raises:
        UserError: the student takes something else than rows of tokens.
    """
    layout = layout_of(student, "query")
    cut = getattr(student.tokenizer, "truncation", None)  # of a static model, without a length
    settings = [
        FORMAT, type(student[0]).__name__, tokenizer_settings(student),
        prompt_of(student, "query"), student.max_seq_length, cut, student[0].get_config_dict(),
    ]  # fmt: skip
    key = text_sha256(queries, json.dumps(settings, sort_keys=True, default=str))

    def make(path: Path) -> None:
        tokens = tokenise(student, queries, "query")
        with path.open("wb") as file:
            np.savez(file, starts=tokens.starts, lengths=tokens.lengths, **tokens.columns)

    with np.load(kept(paths.DOWNLOADS / "tokens" / f"{key[:32]}.npz", make)) as stored:
        columns = {name: stored[name] for name in stored.files}
    return Tokens(
        starts=columns.pop("starts"), lengths=columns.pop("lengths"), columns=columns, layout=layout
    )
