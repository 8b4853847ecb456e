"""How long a student trains: passes, warm-up and checkpoints that fit the number of texts."""

import math
from typing import NamedTuple

PASSES, PRESENTATIONS = 5, 100_000  # whichever is more, where nothing else is asked for
WARMUP_STEPS, EVAL_STEPS = 100, 2000  # at most, and a tenth of all steps


class Dose(NamedTuple):
    """Passes over the texts (a part of one, perhaps), and steps."""

    num_epochs: float
    steps: int
    warmup_steps: int
    eval_steps: int


def dose(
    texts: int,
    batch_size: int,
    presentations: int | None = None,
    num_epochs: int | None = None,
    warmup_steps: int | None = None,
    eval_steps: int | None = None,
) -> Dose:
    """What is asked for, and where it is not, what suits the number of texts.

    Few texts are shown more often: a student needs some number of steps, whatever their texts.

    Args:
        presentations: how often a text is shown, all texts together.
        num_epochs: passes instead.
    """
    if num_epochs is None:
        num_epochs = (presentations or max(PASSES * texts, PRESENTATIONS)) / texts
    steps = math.ceil(num_epochs * math.ceil(texts / batch_size))
    if warmup_steps is None:
        warmup_steps = min(WARMUP_STEPS, steps // 10)
    return Dose(num_epochs, steps, warmup_steps, eval_steps or min(EVAL_STEPS, steps // 10 or 1))
