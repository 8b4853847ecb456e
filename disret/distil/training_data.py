"""What a student trains on: queries tokenised once, with the teacher's embeddings of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from disret import paths
from disret.command_line import say
from disret.encode.models import prompt_of, tokenizer_settings
from disret.encode.tokens import Tokens, layout_of, tokenise
from disret.files import is_as_noted, lock, note_checksum, text_sha256, whole_file

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from disret.encode.cached import Rows

FORMAT = 2  # of the files


@dataclass(frozen=True)
class TrainingData:
    """Queries, tokenised for the student, with the teacher's embeddings of them.

    Attributes:
        embeddings: float32 [n_queries, dimension].
        weights: how often a pass shows each query, float [n_queries]; once if not given. Of a
            fraction, as many queries are shown once more, always the same.
    """

    tokens: Tokens
    embeddings: "Rows | np.ndarray"
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


def weights_of(counts: Sequence[int], weights: Sequence[float]) -> np.ndarray | None:
    """The weight of each query, of so many with each weight; None if all are shown once."""
    if all(weight == 1 for weight in weights):
        return None
    return np.repeat(np.asarray(weights, dtype=float), counts)


def tokenised_queries(student: "SentenceTransformer", queries: Sequence[str]) -> Tokens:
    """Tokenise queries as `encode_query` does, once: a later call reads the file.

    The file lies under `downloads/tokens`, named by the tokenizer, the prompt, the maximum length
    and the queries.

    Raises:
        NotTokens: the student takes something else than rows of tokens.
    """
    layout = layout_of(student, "query")
    cut = getattr(student.tokenizer, "truncation", None)  # of a static model, without a length
    settings = [
        FORMAT, type(student[0]).__name__, tokenizer_settings(student),
        prompt_of(student, "query"), student.max_seq_length, cut, student[0].get_config_dict(),
    ]  # fmt: skip
    key = text_sha256(queries, json.dumps(settings, sort_keys=True, default=str))
    path = paths.DOWNLOADS / "tokens" / f"{key[:32]}.npz"
    with lock(path):
        if not is_as_noted(path):
            if path.exists():
                say(f"{path} is not as its checksum says; making it anew.")
            tokens = tokenise(student, queries, "query")
            with whole_file(path) as partial, partial.open("wb") as file:
                np.savez(file, starts=tokens.starts, lengths=tokens.lengths, **tokens.columns)
            note_checksum(path)
        with np.load(path) as stored:
            columns = {name: stored[name] for name in stored.files}
    return Tokens(
        starts=columns.pop("starts"), lengths=columns.pop("lengths"), columns=columns, layout=layout
    )
