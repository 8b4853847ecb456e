"""The paper's own figures, from its authors' evaluation files (Wang and Lyu, SustaiNLP 2023).

`paper_retrieval.csv` has the scores of msmarco-bert-base-dot-v5, of twelve layers, and of its
students on BEIR's fifteen sets; `paper_speed.csv` their throughput on one GPU, on NQ's queries.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

TEACHER = "msmarco-bert-base-dot-v5"


def paper_student(layers: Sequence[int]) -> str:
    """The name in the paper's files of the student that keeps these layers of twelve."""
    return f"basemodel_{len(layers)}layer_{'_'.join(map(str, layers))}"


def paper_models() -> list[str]:
    """The models that the paper's other students started from."""
    names = dict.fromkeys(_retrieval().index.get_level_values(0))
    return [name for name in names if name != TEACHER and not name.startswith("basemodel")]


def paper_retention(student: str, datasets: Sequence[str] | None = None) -> float | None:
    """Percent of the teacher's nDCG@10 that a student keeps, averaged over data sets.

    Args:
        datasets: those to average over (default: all fifteen).

    Returns:
        None if the paper did not score it on all of them.
    """
    scores = _retrieval()
    wanted = list(datasets or scores.loc[TEACHER].index)
    if any((student, name) not in scores.index for name in wanted):
        return None
    ratios = scores.loc[student][wanted] / scores.loc[TEACHER][wanted]
    return float(100 * ratios.mean())


def paper_score(student: str, dataset: str) -> float:
    """nDCG@10 of a student, in its teacher's index."""
    return float(_retrieval()[student, dataset])


def paper_speedup(layers: int, batch_size: int) -> float | None:
    """Throughput of a student with so many layers, times the teacher's; None if not measured."""
    speeds = _speed()
    names = [name for name, _ in speeds.index if name.startswith(f"basemodel_{layers}layer")]
    if not names or (names[0], batch_size) not in speeds.index:
        return None
    return float(speeds[names[0], batch_size] / speeds[TEACHER, batch_size])


@cache
def _retrieval() -> "pandas.Series":
    """nDCG@10 by query encoder and data set."""
    scores = _read("paper_retrieval.csv")
    return scores.groupby(["query_encoder", "dataset"])["NDCG@10"].mean()  # some rows stand twice


@cache
def _speed() -> "pandas.Series":
    """Queries per second by encoder and batch size."""
    return _read("paper_speed.csv").set_index(["encoder", "batch_size"])["queries_per_second"]


def _read(name: str) -> "pandas.DataFrame":
    import pandas

    return pandas.read_csv(Path(__file__).with_name(name))
