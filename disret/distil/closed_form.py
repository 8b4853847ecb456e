"""A good start without training: least squares from a student's states to a teacher's vectors.

A linear map between the spaces of two encoders keeps most of what a search needs, and a few
thousand texts determine it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from disret.command_line import progress_bar
from disret.encode.batches import BatchEncoder
from disret.encode.embedding_cache import Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

TEXTS = 20_000  # that a layer is fitted to, at most
HELD_OUT = 10  # one text in so many chooses the strength of the ridge
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # times the mean variance of a state
STEPS = 60  # of conjugate gradients


def ridge(states: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The linear map from states to targets, by ridge regression.

    One text in ten chooses its strength, by the squared distance that the map leaves on it; the
    map is of all.

    Args:
        states: float32 [n, width].
        targets: float32 [n, dimension].

    Returns:
        weight, float32 [dimension, width], and bias, float32 [dimension].
    """
    held = np.arange(len(states)) % HELD_OUT == HELD_OUT - 1
    strength = STRENGTHS[0]
    if held.any():
        maps = _maps(states[~held], targets[~held])
        errors = [
            float(((states[held] @ weight.T + bias - targets[held]) ** 2).sum())
            for weight, bias in maps
        ]
        strength = STRENGTHS[int(np.argmin(errors))]
    return _maps(states, targets, (strength,))[0]


def align(
    dense: "Dense",
    body: "SentenceTransformer",
    texts: Sequence[str],
    targets: Rows | np.ndarray,
    device: str = "cpu",
) -> None:
    """Set a Dense layer to the least squares from pooled states to a teacher's vectors.

    Args:
        body: a transformer and its pooling.
        targets: float32 [n_texts, dimension]; of many texts, TEXTS are taken.
        device: where the states are computed; the body is on the CPU again after that.
    """
    import torch

    some = slice(0, len(texts), -(-len(texts) // TEXTS))
    states = BatchEncoder(body.eval().to(device)).encode_query(texts[some])
    body.to("cpu")
    weight, bias = ridge(states, np.asarray(targets[some]))
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(weight))
        dense.linear.bias.copy_(torch.from_numpy(bias))


def _maps(
    states: np.ndarray, targets: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The map for each strength."""
    middle, goal = (np.asarray(some, dtype=np.float64).mean(axis=0) for some in (states, targets))
    centred = np.asarray(states, dtype=np.float64) - middle
    values, vectors = np.linalg.eigh(centred.T @ centred)
    products = vectors.T @ (centred.T @ (np.asarray(targets, dtype=np.float64) - goal))
    found = []
    for strength in strengths:
        added = max(strength * values.mean(), np.finfo(np.float64).tiny)
        weight = (vectors @ (products / (np.maximum(values, 0) + added)[:, None])).T
        bias = goal - weight @ middle
        found.append((weight.astype(np.float32), bias.astype(np.float32)))
    return found


def token_table(shares: "csr_array", targets: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The embedding of each token whose mean over a text's tokens is nearest to its target.

    Ridge regression again, by conjugate gradients, as a vocabulary is too large to invert for. A
    token that no text has gets zeros, which change no direction.

    Args:
        shares: float32 [n_texts, vocabulary], of each text its tokens' shares.
        targets: float32 [n_texts, dimension].
        strength: of the ridge, in texts of one token.

    Returns:
        float32 [vocabulary, dimension].
    """
    targets = np.asarray(targets, dtype=np.float32)
    transposed = shares.T.tocsr()
    table = np.zeros((shares.shape[1], targets.shape[1]), dtype=np.float32)
    residual = transposed @ targets
    # Frequent tokens have large diagonals: dividing by these makes the steps of equal use to all.
    scale = 1 / (np.asarray(shares.multiply(shares).sum(axis=0)).ravel()[:, None] + strength)
    scaled = residual * scale
    direction = scaled.copy()
    before = (residual * scaled).sum(axis=0)
    for _ in progress_bar(range(STEPS), desc="token table", delay=2):
        product = transposed @ (shares @ direction) + strength * direction
        length = before / np.maximum((direction * product).sum(axis=0), 1e-30)
        table += length * direction
        residual -= length * product
        scaled = residual * scale
        now = (residual * scaled).sum(axis=0)
        direction = scaled + (now / np.maximum(before, 1e-30)) * direction
        before = now
    return table
