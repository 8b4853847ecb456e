"""What a recipe decides, and how long a student trains."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from disret.command_line import UserError, not_negative, positive, positive_float, say
from disret.encode.encoders import is_vectors

PASSES, PRESENTATIONS = 5, 100_000  # whichever is more, where nothing else is asked for
WARMUP_STEPS, EVAL_STEPS = 100, 2000  # at most, and a tenth of all steps


class Setting(NamedTuple):
    """A setting: its type, or the texts it may be; the paper's value, and the best that is known.

    A value of None stands for what suits the number of texts; a type of None, for what cannot be
    given.
    """

    name: str
    kind: Callable[[str], Any] | tuple[str, ...] | None
    paper: Any
    best: Any
    help: str


RECIPE = (
    Setting("num_epochs", not_negative, 1, None, "passes over the texts; 0 trains nothing"),
    Setting("presentations", positive, None, None, "texts shown, instead of passes"),
    Setting("train_batch_size", positive, 128, 128, "texts a step, over all processes"),
    Setting("adamw_lr", positive_float, 1e-4, 1e-3, "learning rate"),
    Setting("adamw_eps", positive_float, 1e-6, 1e-9, "of AdamW"),
    Setting("lr_schedule", None, "linear", "cosine", "decay of the rate to 0"),
    Setting("warmup_steps", not_negative, 1000, None, "steps in which the rate rises"),
    Setting("eval_steps", positive, 2000, None, "steps between checkpoints"),
    Setting("dropout", None, True, False, "as the student's model has it"),
    Setting("mixed_precision", bool, False, True, "bfloat16, or float16 on GPUs without it"),
    Setting("projection", ("random", "relu", "ridge"), "random", "ridge",
            "layer behind another model: random, with ReLU as the authors', or least squares"),
    Setting("words", not_negative, 0, 30_000,
            "frequent words that the teacher splits have a token in a static student"),
    Setting("feed_forward", bool, False, True, "two layers behind a static student's mean"),
    Setting("centred", None, False, True, "around a long mean of a service's vectors"),
)  # fmt: skip
MODEL_LR = 3e-4  # the best's where a student starts from another model, which forgets


def settled(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, and which it is; what is given takes their place.

    The default is the paper's for MS MARCO's queries, and the best for one's own: of some thousand
    texts, the paper's pass over them is warm-up alone.
    """
    recipe, init_with = given["recipe"], given["init_with"]
    if not recipe:
        recipe = "best" if given["queries"] or is_vectors(given["teacher"][0]) else "paper"
    for name in ("words", "feed_forward"):
        if given[name] and init_with != "static":
            raise UserError(f"{name.replace('_', ' ')} are for a static student alone.")
    settings = {"recipe": recipe, **{one.name: getattr(one, recipe) for one in RECIPE}}
    if recipe == "best" and init_with not in ("subset", "static"):
        settings["adamw_lr"] = MODEL_LR
    if given.get("presentations"):
        settings["num_epochs"] = None
    return {
        name: value if given.get(name) is None else given[name] for name, value in settings.items()
    }


class Schedule(NamedTuple):
    """Passes over the texts (a part of one, perhaps), and steps."""

    num_epochs: float
    steps: int
    warmup_steps: int
    eval_steps: int


def schedule(
    texts: int,
    batch_size: int,
    presentations: int | None = None,
    num_epochs: int | None = None,
    warmup_steps: int | None = None,
    eval_steps: int | None = None,
) -> Schedule:
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
    if 0 < steps < 2 * warmup_steps:
        say(
            f"note: {min(warmup_steps, steps):,} of {steps:,} steps of training are warm-up, so "
            "the student will learn little; use the recipe best."
        )
    eval_steps = eval_steps or min(EVAL_STEPS, steps // 10 or 1)
    return Schedule(num_epochs, steps, warmup_steps, eval_steps)
