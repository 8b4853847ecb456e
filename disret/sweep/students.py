"""The students of a comparison: the paper's subsets of layers, and those from other models."""

from pathlib import Path
from typing import NamedTuple

from disret.command_line import UserError
from disret.distil.layers import check_layers
from disret.encode.models import describe, load_encoder
from disret.paths import MODELS

PAPER_DEPTH = 12


def subsets(depth: int) -> dict[tuple[int, ...], str]:
    """The paper's thirteen subsets (its section 4), for a teacher of `depth` layers.

    First, second, last but one and last, alone and in pairs; and four layers: the two outermost at
    both ends, the middles of four equal parts, and four in a row at the bottom, in the middle and
    at the top. Of twelve layers these are the paper's own. What comes out twice, or would keep all
    layers, is left out.

    Returns:
        What each subset is called, by its layers.
    """
    last, middle = depth - 1, (depth - 4) // 2
    low, high = {"first": 0, "second": 1}, {"last but one": last - 1, "last": last}
    candidates = {choice: (layer,) for choice, layer in [*low.items(), *high.items()]}
    candidates |= {f"{one}, {other}": (low[one], high[other]) for one in low for other in high}
    candidates |= {
        "two at both ends": (0, 1, last - 1, last),
        "spread": tuple(round((part + 0.5) * depth / 4 - 0.5) for part in range(4)),
        "bottom": (0, 1, 2, 3),
        "middle": tuple(range(middle, middle + 4)),
        "top": tuple(range(last - 3, last + 1)),
    }
    found: dict[tuple[int, ...], str] = {}
    for choice, layers in candidates.items():
        distinct = tuple(sorted(set(layers)))
        if len(distinct) == len(layers) < depth and distinct[0] >= 0:
            found.setdefault(distinct, choice)
    return found


class Student(NamedTuple):
    """A student of the comparison.

    Attributes:
        name: how it starts, such as `layers 0 5`.
        layers: those that are kept; none for the whole of another model.
        choice: which of the teacher's these are, as `subsets` calls it.
        other: the model that it starts from, if not from the teacher.
    """

    name: str
    layers: list[str]
    choice: str = ""
    other: str = ""

    @property
    def flags(self) -> list[str]:
        """What tells distill.py so."""
        start = ["--init-with", self.other] if self.other else []
        return [*start, *(["--layers", *self.layers] if self.layers else [])]

    @property
    def size(self) -> str:
        """What students of equal speed have in common."""
        return self.name if self.other else f"{len(self.layers)} layers"

    def folder(self, sweep: Path) -> Path:
        """Where it is saved, from here if it lies below."""
        folder = MODELS / sweep.name / self.name.replace(" ", "-")
        here = Path.cwd()
        return folder.relative_to(here) if folder.is_relative_to(here) else folder


def plan(depth: int, others: list[str]) -> list[Student]:
    """The paper's subsets of a teacher's layers, and what starts from other models.

    Args:
        depth: the teacher's number of layers.
        others: `MODEL` or `MODEL:LAYERS`, such as `distilbert:0,5`.

    Raises:
        UserError: there is nothing to compare, two would have one name, or another model cannot
            be loaded or cut so.
    """
    students = []
    for chosen, choice in subsets(depth).items():
        layers = list(map(str, chosen))
        students.append(Student(" ".join(["layers", *layers]), layers, choice))
    for other in others:
        whole = Path(other).exists() or ":" not in other
        model, _, cut = (other, "", "") if whole else other.rpartition(":")
        layers = cut.split(",") if cut else []
        of_other = describe(load_encoder(model, "cpu", dtype="auto")).layers
        try:
            check_layers(list(map(int, layers)), of_other)
        except ValueError:
            raise UserError(f"{other}: expected layers such as 0,5.") from None
        name = " ".join(["from", Path(model).name, *(["layers", *layers] if layers else [])])
        students.append(Student(name, layers, other=model))
    if not students:
        raise UserError(
            "the teacher has no two layers to choose from, and no other model is named."
        )
    names = [student.name for student in students]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two students would be called {twice[0]!r}.")
    return students
