"""Texts tokenised once and kept on disk, and batches made of them without work for each text."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from disret import paths
from disret.command_line import UserError
from disret.encode.models import prompt_of, tokenizer_settings
from disret.files import whole_file

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

BLOCK = 8192  # texts tokenised together


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts.

    Attributes:
        columns: by name, such as `input_ids`: int32 [tokens of all texts], one after the other.
        starts: int64 [n_texts + 1], where each text begins in a column.
        padding: by column, the value of a position beyond the text.
        on_the_left: pad before a text instead of behind it.
        packed: batches are one row of tokens with `offsets`, as static embeddings want them.
        constants: what else `preprocess` gives the model, the same for every text.
    """

    columns: dict[str, np.ndarray]
    starts: np.ndarray
    padding: dict[str, int]
    on_the_left: bool
    packed: bool
    constants: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 [n_texts]."""
        return np.diff(self.starts)

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the model's `preprocess` gives for the texts of these rows.

        Returns:
            Columns and `attention_mask` as int64 [n, longest], or, packed, `input_ids` as int64
            [tokens] with `offsets`, int64 [n].
        """
        import torch

        rows = np.asarray(rows)
        starts = self.starts[rows]
        lengths = self.starts[rows + 1] - starts
        longest = int(lengths.max(initial=0))
        # Position p of a row holds token p, or is padding.
        positions = np.broadcast_to(np.arange(longest), (len(rows), longest))
        if self.on_the_left:
            positions = positions - (longest - lengths)[:, None]
        real = (positions >= 0) & (positions < lengths[:, None])
        places = (starts[:, None] + positions)[real]
        if self.packed:
            offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
            flat = {name: _int64(values[places]) for name, values in self.columns.items()}
            return {**flat, "offsets": offsets, **self.constants}
        features = {}
        for name, values in self.columns.items():
            padded = np.full(real.shape, self.padding[name], dtype=np.int64)
            padded[real] = values[places]
            features[name] = torch.from_numpy(padded)
        return {**features, "attention_mask": _int64(real), **self.constants}


def tokenised_queries(model: "SentenceTransformer", queries: Sequence[str]) -> Tokens:
    """Tokenise queries as `encode_query` does, once: a later call reads the file.

    The file lies under `downloads/tokens`, named by the tokenizer, the prompt, the maximum length
    and the queries.

    Raises:
        UserError: the model does not take tokens.
    """
    from filelock import FileLock

    prompt = prompt_of(model, "query")
    module = type(model[0]).__name__
    cut = getattr(model.tokenizer, "truncation", None)  # of a static model, which has no length
    key = [module, tokenizer_settings(model), prompt, model.max_seq_length, cut,
           model[0].get_config_dict()]  # fmt: skip
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    for query in queries:
        digest.update(query.encode() + b"\0")
    path = paths.DOWNLOADS / "tokens" / f"{digest.hexdigest()[:32]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)

    def preprocess(texts: Sequence[str]) -> dict[str, Any]:
        return model.preprocess(list(texts), prompt=prompt, task="query")

    sample = preprocess(queries[:2])
    with FileLock(f"{path}.lock"):
        if not path.exists():
            columns, starts = _tokenise(preprocess, queries)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.savez(file, starts=starts, **columns)
        with np.load(path) as stored:
            columns = {name: stored[name] for name in stored.files}
    starts = columns.pop("starts")
    tokenizer = model.tokenizer
    padding = {name: getattr(tokenizer, _PADDING.get(name, ""), 0) for name in columns}
    return Tokens(
        columns,
        starts,
        padding,
        on_the_left=getattr(tokenizer, "padding_side", "right") == "left",
        packed="offsets" in sample,
        constants={key: value for key, value in sample.items() if not _is_array(value)},
    )


_PADDING = {"input_ids": "pad_token_id", "token_type_ids": "pad_token_type_id"}


def _tokenise(
    preprocess: Callable[[Sequence[str]], dict[str, Any]], queries: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every column, as `Tokens` holds it, and where each text begins."""
    columns: dict[str, list[np.ndarray]] = {}
    lengths = []
    for start in range(0, len(queries), BLOCK):
        features = preprocess(queries[start : start + BLOCK])
        if "offsets" in features:
            parts = {"input_ids": features["input_ids"]}
            ends = [*features["offsets"].tolist()[1:], len(features["input_ids"])]
            lengths.append(np.diff(ends, prepend=0))
        elif "attention_mask" in features and features["attention_mask"].ndim == 2:
            real = features["attention_mask"].bool()
            parts = {
                name: value[real]
                for name, value in features.items()
                if name != "attention_mask" and _is_array(value) and value.shape == real.shape
            }
            lengths.append(real.sum(1).numpy())
        else:
            raise UserError("the student does not take tokens, so it cannot be trained here.")
        for name, value in parts.items():
            columns.setdefault(name, []).append(value.numpy().astype(np.int32))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return {name: np.concatenate(parts) for name, parts in columns.items()}, starts


def _is_array(value: Any) -> bool:
    import torch

    return torch.is_tensor(value)


def _int64(values: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(values.astype(np.int64))
