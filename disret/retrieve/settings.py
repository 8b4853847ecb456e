"""How far an approximate index is to look: values of FAISS's parameters, such as `efSearch`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from disret.command_line import UserError

if TYPE_CHECKING:
    import faiss

NOT_OF_SEARCH = ("efConstruction", "verbose")  # FAISS takes them, to no effect on what is found


class Setting(NamedTuple):
    """How an index is to search: the values of FAISS's parameters, and what they are called."""

    label: str
    parameters: dict[str, float]


DEFAULTS = Setting("the defaults", {})


def parse_settings(words: Sequence[str]) -> list[Setting]:
    """The settings that `efSearch=16,32 k_factor_rf=4` names: one parameter may vary.

    Returns:
        From the least value to the greatest; `DEFAULTS` alone if there are no words.

    Raises:
        UserError: a word is no such assignment, or two of them have several values.
    """
    named: dict[str, list[float]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if not name or name in named:
            raise UserError(f"{word!r} is not NAME=VALUE,VALUE… of another parameter each.")
        named[name] = sorted({_value(text, word) for text in values.split(",")})
    if sum(len(values) > 1 for values in named.values()) > 1:
        raise UserError("one parameter may have several values, the others one each.")
    settings = []
    for number in range(max(map(len, named.values()), default=0)):
        values = {name: several[min(number, len(several) - 1)] for name, several in named.items()}
        label = ", ".join(f"{name} {value:.12g}" for name, value in values.items())
        settings.append(Setting(label, values))
    return settings or [DEFAULTS]


def _value(text: str, word: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{text!r} in {word!r} is not a positive number.")
    return value


def set_parameters(index: "faiss.Index", values: Mapping[str, float], name: str) -> None:
    """Let an index search with these, by FAISS's names such as `efSearch` and `nprobe`.

    Args:
        name: of the index, for the error.

    Raises:
        UserError: this kind of index has no such parameter.
    """
    import faiss

    for parameter, value in values.items():
        try:
            if parameter in NOT_OF_SEARCH:
                raise RuntimeError
            faiss.ParameterSpace().set_index_parameter(index, parameter, value)
        except RuntimeError:
            kind = type(index).__name__
            raise UserError(
                f"{name} ({kind}) has no parameter {parameter} of its search."
            ) from None
