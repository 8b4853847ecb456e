"""Tokenised texts, and batches made of them without work for each text."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from disret.command_line import UserError
from disret.encode.models import prompt_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

PIECE = 8192  # texts tokenised together, at most
LONGEST = 1_000_000  # tokens; transformers writes a number beyond for "no maximum"
PIECE_TOKENS = 1 << 20  # the same in tokens: 24 MB of ids, masks and types


class NotTokens(UserError):
    """A model takes something else than rows of tokens."""


@dataclass(frozen=True)
class Layout:
    """How a model wants its batches.

    Attributes:
        padding: by column, the value of a position beyond the text.
        on_the_left: pad before a text instead of behind it.
        packed: batches are one row of tokens with `offsets`, as static embeddings want them.
        constants: what else `preprocess` gives the model, the same for every text.
    """

    padding: dict[str, int]
    on_the_left: bool
    packed: bool
    constants: dict[str, Any]


def layout_of(model: "SentenceTransformer", task: str) -> Layout:
    """What the model's `preprocess` does with two texts of unequal length.

    Raises:
        NotTokens: the model takes something else than rows of tokens.
    """
    import torch

    features = model.preprocess(["a", "a a a a"], prompt=prompt_of(model, task), task=task)
    columns = {name: value for name, value in features.items() if torch.is_tensor(value)}
    constants = {name: value for name, value in features.items() if name not in columns}
    if "offsets" in columns:
        return Layout({}, False, True, constants)
    mask = columns.pop("attention_mask", None)
    if mask is None or mask.ndim != 2 or any(v.shape != mask.shape for v in columns.values()):
        raise NotTokens(f"{type(model[0]).__name__} does not take rows of tokens")
    first = mask[0].tolist()
    edge = 0 if first[0] < first[-1] else -1
    padding = {name: int(value[0, edge]) if 0 in first else 0 for name, value in columns.items()}
    return Layout(padding, edge == 0, False, constants)


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts.

    Attributes:
        columns: by name, such as `input_ids`: int32 [tokens of all texts].
        starts: int64 [n_texts], where each text begins in a column.
        lengths: int64 [n_texts], tokens of each text.
    """

    columns: dict[str, np.ndarray]
    starts: np.ndarray
    lengths: np.ndarray
    layout: Layout

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """What the model's `preprocess` gives for the texts of these rows.

        Returns:
            Columns and `attention_mask` as int64 [n, longest], or, packed, `input_ids` as int64
            [tokens] with `offsets`, int64 [n].
        """
        import torch

        rows = np.asarray(rows)
        starts, lengths = self.starts[rows], self.lengths[rows]
        longest = max(1, int(lengths.max(initial=0)))  # texts without a token still make a batch
        # Position p of a row holds token p, or is padding.
        positions = np.broadcast_to(np.arange(longest), (len(rows), longest))
        if self.layout.on_the_left:
            positions = positions - (longest - lengths)[:, None]
        real = (positions >= 0) & (positions < lengths[:, None])
        places = (starts[:, None] + positions)[real]
        if self.layout.packed:
            offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
            flat = {name: _int64(values[places]) for name, values in self.columns.items()}
            return {**flat, "offsets": offsets, **self.layout.constants}
        features = {}
        for name, values in self.columns.items():
            padded = np.full(real.shape, self.layout.padding[name], dtype=np.int64)
            padded[real] = values[places]
            features[name] = torch.from_numpy(padded)
        return {**features, "attention_mask": _int64(real), **self.layout.constants}


def tokenise(model: "SentenceTransformer", texts: Sequence[str], task: str) -> Tokens:
    """Tokenise texts as the model's own `preprocess` does.

    Args:
        task: `query` or `document`; decides the prompt, and the route of a Router.

    Raises:
        NotTokens: the model takes something else than rows of tokens.
    """
    layout = layout_of(model, task)
    encode = _flat_tokeniser(model, task, layout)
    if encode is None:
        return _by_preprocess(model, texts, task, layout)
    pieces = [encode(texts[start : start + PIECE]) for start in range(0, len(texts), PIECE)]
    lengths = np.concatenate([np.empty(0, dtype=np.int64), *(piece[1] for piece in pieces)])
    columns = {
        name: np.concatenate([np.empty(0, dtype=np.int32), *(piece[0][name] for piece in pieces)])
        for name in layout.padding
    }
    return Tokens(columns, np.cumsum(lengths) - lengths, lengths, layout)


# Texts that tokenizers treat each in its own way; one that is too long is added.
_PROBES = ("", " a  b ", "The word, A word.\nAnother\tline", "Größe 東京 naïve 😀 <s> [MASK]")
# What a model takes, by the attribute of an encoding that holds it.
_ATTRIBUTES = {"input_ids": "ids", "token_type_ids": "type_ids"}
Flat = tuple[dict[str, np.ndarray], np.ndarray]  # columns, int32 [tokens]; lengths, int64 [n_texts]


def _flat_tokeniser(
    model: "SentenceTransformer", task: str, layout: Layout
) -> Callable[[Sequence[str]], Flat] | None:
    """The tokenizers library's `encode_batch` into flat arrays, which needs no padded tensors.

    Returns:
        None if it gives something else than `preprocess` on a few texts, or the model has no such
        tokenizer.
    """
    from tokenizers import Tokenizer

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or layout.packed or layout.padding.keys() - _ATTRIBUTES:
        return None
    limit = getattr(model[0], f"{task}_length", None) or model.max_seq_length
    direction = model.tokenizer.truncation_side
    prompt = prompt_of(model, task) or ""

    def encode(texts: Sequence[str]) -> Flat:
        backend.no_padding()  # set anew by whatever else uses the tokenizer, at each call
        if limit and limit < LONGEST:
            backend.enable_truncation(limit, direction=direction)
        else:
            backend.no_truncation()
        encodings = backend.encode_batch([prompt + text for text in texts])
        lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
        columns = {}
        for name in layout.padding:
            rows = map(attrgetter(_ATTRIBUTES[name]), encodings)
            flat = itertools.chain.from_iterable(rows)
            columns[name] = np.fromiter(flat, dtype=np.int32, count=lengths.sum())
        return columns, lengths

    probes = [*_PROBES, "a long text " * min(limit or LONGEST, 1000)]
    expected = _by_preprocess(model, probes, task, layout)
    columns, lengths = encode(probes)
    for row, (start, end) in enumerate(itertools.pairwise([0, *np.cumsum(lengths)])):
        begin = expected.starts[row]
        for name, values in columns.items():
            wanted = expected.columns[name][begin : begin + expected.lengths[row]]
            if not np.array_equal(values[start:end], wanted):
                return None
    return encode


def _by_preprocess(
    model: "SentenceTransformer", texts: Sequence[str], task: str, layout: Layout
) -> Tokens:
    """Tokenise by `preprocess`, similar lengths together."""
    prompt = prompt_of(model, task)
    order = np.argsort([-len(text) for text in texts], kind="stable")
    parts: dict[str, list[np.ndarray]] = {}
    lengths = [np.empty(0, dtype=np.int64)]
    for rows in _pieces(texts, order, model.max_seq_length or np.inf, len(prompt or "")):
        features = model.preprocess([texts[row] for row in rows], prompt=prompt, task=task)
        if layout.packed:
            columns = {"input_ids": features["input_ids"]}
            lengths.append(np.diff(features["offsets"].numpy(), append=len(columns["input_ids"])))
        else:
            real = features["attention_mask"].bool()
            columns = {name: features[name][real] for name in layout.padding}
            lengths.append(real.sum(1).numpy())
        for name, value in columns.items():
            parts.setdefault(name, []).append(value.numpy().astype(np.int32))
    by_length = np.concatenate(lengths)
    of_texts = np.empty((2, len(texts)), dtype=np.int64)
    of_texts[:, order] = np.cumsum(by_length) - by_length, by_length
    flat = {name: np.concatenate(some) for name, some in parts.items()}
    return Tokens(flat, *of_texts, layout)


def _pieces(
    texts: Sequence[str], order: np.ndarray, limit: float, prompt: int
) -> Iterator[np.ndarray]:
    """Rows of texts of similar length, longest first."""
    done = 0
    while done < len(order):
        # A token has a character at least, but for a few; the first text is the longest.
        longest = len(texts[order[done]])
        count = min(PIECE, int(PIECE_TOKENS // min(limit, longest + prompt + 8)) + 1)
        rows = order[done : done + count]
        similar = sum(len(texts[row]) >= longest / 2 for row in rows)
        rows = rows[: max(similar, 32)]
        yield rows
        done += len(rows)


def _int64(values: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(values.astype(np.int64))
