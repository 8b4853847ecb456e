"""Which of a teacher's layers to try: the paper's subsets, for teachers of any depth."""

from typing import NamedTuple

PAPER_DEPTH = 12


class Subset(NamedTuple):
    """Layers of a teacher, by what is chosen: both ends, the top, and so on."""

    choice: str
    layers: tuple[int, ...]


def subsets(depth: int) -> list[Subset]:
    """The paper's thirteen subsets (its section 4), for a teacher of `depth` layers.

    First, second, last but one and last, alone and in pairs; and four layers: the two outermost at
    both ends, the middles of four equal parts, and four in a row at the bottom, in the middle and
    at the top. Of twelve layers these are the paper's own. What comes out twice, or would keep all
    layers, is left out.
    """
    last, middle = depth - 1, (depth - 4) // 2
    candidates = [
        Subset("first", (0,)),
        Subset("second", (1,)),
        Subset("last but one", (last - 1,)),
        Subset("last", (last,)),
        Subset("first, last but one", (0, last - 1)),
        Subset("first, last", (0, last)),
        Subset("second, last but one", (1, last - 1)),
        Subset("second, last", (1, last)),
        Subset("two at both ends", (0, 1, last - 1, last)),
        Subset("spread", tuple(round((part + 0.5) * depth / 4 - 0.5) for part in range(4))),
        Subset("bottom", (0, 1, 2, 3)),
        Subset("middle", tuple(range(middle, middle + 4))),
        Subset("top", tuple(range(last - 3, last + 1))),
    ]
    found: dict[tuple[int, ...], Subset] = {}
    for subset in candidates:
        distinct = len(set(subset.layers)) == len(subset.layers) < depth
        if distinct and min(subset.layers) >= 0:
            found.setdefault(tuple(sorted(subset.layers)), subset)
    return list(found.values())
