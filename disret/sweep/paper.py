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
    names = dict.fromkeys(_scores().index.get_level_values(0))
    return [name for name in names if name != TEACHER and not name.startswith("basemodel")]


def paper_retention(student: str, datasets: Sequence[str] | None = None) -> float | None:
    """Percent of the teacher's nDCG@10 that a student keeps, averaged over data sets.

    Args:
        datasets: those to average over (default: all fifteen).

    Returns:
        None if the paper did not score it on all of them.
    """
    scores = _scores()
    wanted = list(datasets or scores.loc[TEACHER].index)
    if any((student, name) not in scores.index for name in wanted):
        return None
    return float(100 * (scores.loc[student][wanted] / scores.loc[TEACHER][wanted]).mean())


def paper_score(student: str, dataset: str) -> float:
    """nDCG@10 of a student, in its teacher's index."""
    return float(_scores()[student, dataset])


def paper_speedup(layers: int, batch_size: int) -> float | None:
    """Throughput of a student with so many layers, times the teacher's; None if not measured."""
    speeds = _table("paper_speed.csv", "encoder", "batch_size")["queries_per_second"]
    for name, size in speeds.index:
        if name.startswith(f"basemodel_{layers}layer") and size == batch_size:
            return float(speeds[name, size] / speeds[TEACHER, size])
    return None


def _scores() -> "pandas.Series":
    """nDCG@10 by query encoder and data set."""
    return _table("paper_retrieval.csv", "query_encoder", "dataset")["NDCG@10"]


@cache
def _table(name: str, *keys: str) -> "pandas.DataFrame":
    import pandas

    table = pandas.read_csv(Path(__file__).with_name(name))
    return table.groupby(list(keys)).mean(numeric_only=True)  # some rows stand twice
