"""Tokenised texts, and batches made of them without work for each text."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from disret.command_line import UserError
from disret.encode.models import prompt_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PIECE = 1024  # texts tokenised together
LONGEST = 1_000_000  # tokens; transformers writes a number beyond for "no maximum"
# Texts that tokenizers treat each in its own way; one that is too long is added.
_PROBES = ("", " a  b ", "The word, A word.\nAnother\tline", "Größe 東京 naïve 😀 <s> [MASK]")
# What a model takes, by the attribute of an encoding that holds it.
_ATTRIBUTES = {"input_ids": "ids", "token_type_ids": "type_ids"}
# Texts to their lengths, int64 [n_texts], and their columns, each int32 [tokens of all texts].
Tokenise = Callable[[Sequence[str]], list[np.ndarray]]


class Layout(NamedTuple):
    """How a model wants its batches."""

    padding: dict[str, int]  # by column, the value of a position beyond the text
    on_the_left: bool  # pad before a text instead of behind it
    packed: bool  # one row of tokens with `offsets`, as static embeddings want them
    constants: dict[str, Any]  # what else `preprocess` gives the model, the same for every text


def layout_of(model: "SentenceTransformer", task: str) -> Layout:
    """What the model's `preprocess` does with two texts of unequal length.

    Raises:
        UserError: the model takes something else than rows of tokens.
    """
    import torch

    features = model.preprocess(["a", "a a a a"], prompt=prompt_of(model, task), task=task)
    columns = {name: value for name, value in features.items() if torch.is_tensor(value)}
    constants = {name: value for name, value in features.items() if name not in columns}
    if "offsets" in columns:
        return Layout({"input_ids": 0}, False, True, constants)
    mask = columns.pop("attention_mask", None)
    if mask is None or mask.ndim != 2 or any(v.shape != mask.shape for v in columns.values()):
        raise UserError(f"{type(model[0]).__name__} does not take rows of tokens.")
    first = mask[0].tolist()
    edge = 0 if first[0] < first[-1] else -1
    padding = {name: int(value[0, edge]) if 0 in first else 0 for name, value in columns.items()}
    return Layout(padding, edge == 0, False, constants)


class Tokens(NamedTuple):
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
            arrays = {name: values[places] for name, values in self.columns.items()}
            arrays["offsets"] = np.cumsum(lengths) - lengths
        else:
            arrays = {"attention_mask": real}
            for name, values in self.columns.items():
                arrays[name] = np.full(real.shape, self.layout.padding[name])
                arrays[name][real] = values[places]
        features = {name: torch.from_numpy(a.astype(np.int64)) for name, a in arrays.items()}
        return {**features, **self.layout.constants}


def tokenise(model: "SentenceTransformer", texts: Sequence[str], task: str) -> Tokens:
    """Tokenise texts as the model's own `preprocess` does.

    Args:
        task: `query` or `document`; decides the prompt, and the route of a Router.

    Raises:
        UserError: the model takes something else than rows of tokens.
    """
    layout = layout_of(model, task)
    encode = _tokenise_flat(model, task, layout) or partial(_preprocess, model, task, layout)
    pieces = [[np.empty(0, np.int64), *(np.empty(0, np.int32) for _ in layout.padding)]]
    pieces += (encode(texts[start : start + PIECE]) for start in range(0, len(texts), PIECE))
    lengths, *columns = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    named = dict(zip(layout.padding, columns, strict=True))
    return Tokens(named, np.cumsum(lengths) - lengths, lengths, layout)


def _tokenise_flat(model: "SentenceTransformer", task: str, layout: Layout) -> Tokenise | None:
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

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        backend.no_padding()  # set anew by whatever else uses the tokenizer, at each call
        if limit and limit < LONGEST:
            backend.enable_truncation(limit, direction=direction)
        else:
            backend.no_truncation()
        encodings = backend.encode_batch([prompt + text for text in texts])
        arrays = [np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))]
        for name in layout.padding:
            rows = map(attrgetter(_ATTRIBUTES[name]), encodings)
            flat = itertools.chain.from_iterable(rows)
            arrays.append(np.fromiter(flat, dtype=np.int32, count=arrays[0].sum()))
        return arrays

    probes = [*_PROBES, "a long text " * min(limit or LONGEST, 1000)]
    pairs = zip(encode(probes), _preprocess(model, task, layout, probes), strict=True)
    return encode if all(np.array_equal(ours, theirs) for ours, theirs in pairs) else None


def _preprocess(
    model: "SentenceTransformer", task: str, layout: Layout, texts: Sequence[str]
) -> list[np.ndarray]:
    """Texts by the model's own `preprocess`, as `Tokenise` gives them."""
    features = model.preprocess(list(texts), prompt=prompt_of(model, task), task=task)
    columns = [features[name] for name in layout.padding]
    if layout.packed:
        lengths = np.diff(features["offsets"].numpy(), append=len(features["input_ids"]))
    else:
        real = features["attention_mask"].bool()
        columns = [column[real] for column in columns]
        lengths = real.sum(1).numpy()
    return [lengths, *(column.numpy().astype(np.int32) for column in columns)]
