"""The students of a comparison: how each starts, and what it is called."""

from pathlib import Path
from typing import NamedTuple

from disret.command_line import UserError, about
from disret.distil.layers import check_layers
from disret.encode.models import describe, load_encoder
from disret.paths import MODELS
from disret.sweep.subsets import subsets


class Student(NamedTuple):
    """A student of the comparison.

    Attributes:
        name: how it starts, such as `layers 0 5`.
        layers: those that are kept; none for the whole of another model.
        other: the model that it starts from, if not from the teacher.
    """

    name: str
    layers: list[str]
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
    for subset in subsets(depth):
        layers = [str(layer) for layer in subset.layers]
        students.append(Student(" ".join(["layers", *layers]), layers))
    students += [_from_other(*other.partition(":")[::2]) for other in others]
    if not students:
        raise UserError(
            "the teacher has no two layers to choose from, and no other model is named."
        )
    names = [student.name for student in students]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two students would be called {name!r}.")
    return students


def _from_other(model: str, cut: str) -> Student:
    """A student that starts from another model, whole or with some of its layers."""
    layers = cut.split(",") if cut else []
    depth = describe(load_encoder(model, "cpu", dtype="auto")).layers
    with about(f"{model}:{cut}"):
        try:
            check_layers([int(layer) for layer in layers], depth)
        except ValueError:
            raise UserError("expected layers such as 0,5.") from None
    name = " ".join(["from", Path(model).name, *(["layers", *layers] if layers else [])])
    return Student(name, layers, model)
