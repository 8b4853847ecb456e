"""Distilling around the mean of a teacher's vectors, where that is long.

The vectors of some teachers lie in a narrow cone: two random queries have a cosine of 0.77 to each
other in E5's space, of 0.02 in all-MiniLM-L6-v2's. A student that is unsure of a query stays near
the mean, and the mean's product with each document, which no query asked for, decides the ranking.
So the student learns directions from the mean, and the mean is added at the end. Layers of the
teacher's own are sure enough to do without.
"""

from typing import TYPE_CHECKING

import numpy as np

from disret.encode.embedding_cache import Rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

TEXTS = 20_000  # whose mean is taken
LONG = 0.4  # of a mean of vectors of length 1, from which it is worth it
STRETCH = 1.5  # of the step back from the mean, which as it is would leave the mean too much say


def around_long_mean(student: "SentenceTransformer", targets: Rows) -> Rows:
    """What a student of a teacher whose mean is long is trained on: directions from that mean.

    Args:
        student: before training; it starts with directions instead of its vectors.
        targets: the teacher's vectors, of length 1.

    Returns:
        Rows with a mean; the targets as they are, if their mean is short.
    """
    import torch
    from sentence_transformers.sentence_transformer import modules as st

    mean = _some(targets).mean(axis=0)
    if np.linalg.norm(mean) < LONG:
        return targets
    last = student[-2]  # before the normalisation
    shifted = None
    if isinstance(last, st.StaticEmbedding):
        shifted = last.embedding.weight
    elif isinstance(last, st.Dense) and isinstance(last.activation_function, torch.nn.Identity):
        shifted = last.linear.bias
    if shifted is None:
        student.extend([_shift(1.0, -mean).to(student.device), st.Normalize()])
    else:
        with torch.no_grad():
            shifted -= torch.from_numpy(mean).to(shifted)
    return targets.around(mean)


def put_mean_back(student: "SentenceTransformer", targets: Rows) -> None:
    """Let a student of directions give vectors in the teacher's space: a step from the mean.

    Args:
        targets: what it was trained on; where they have no mean, nothing has to be done.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    if targets.mean is None:
        return
    distance = np.linalg.norm(_some(targets.around(None)) - targets.mean, axis=1).mean()
    step = _shift(STRETCH * float(distance), targets.mean).to(student.device)
    student.extend([step, Normalize()])


def _some(vectors: Rows) -> np.ndarray:
    return vectors[:: -(-len(vectors) // TEXTS)]


def _shift(scale: float, bias: np.ndarray) -> "Dense":
    """A layer that gives its input times a number, and a vector more."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    size, added = len(bias), torch.from_numpy(bias)
    weight = scale * torch.eye(size)
    return Dense(size, size, activation_function=None, init_weight=weight, init_bias=added)
