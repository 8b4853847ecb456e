"""The paper's own figures, from its authors' evaluation files (Wang and Lyu, SustaiNLP 2023).

`paper_retrieval.csv` has the scores of msmarco-bert-base-dot-v5, of twelve layers, and of its
students on BEIR's fifteen sets; `paper_speed.csv` their throughput on one GPU, on NQ's queries.
"""

import math
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
    return [name for name in paper_scores().index if name != TEACHER and "basemodel" not in name]


def paper_retention(student: str, datasets: Sequence[str] | None = None) -> float | None:
    """Percent of the teacher's nDCG@10 that a student keeps, averaged over data sets.

    Args:
        datasets: those to average over (default: all fifteen).

    Returns:
        None if the paper did not score it on all of them.
    """
    scores = paper_scores() if datasets is None else paper_scores().reindex(columns=datasets)
    share = 100 * (scores.loc[student] / scores.loc[TEACHER]).mean(skipna=False)
    return None if math.isnan(share) else float(share)


def paper_speedup(layers: int, batch_size: int) -> float | None:
    """Throughput of a student with so many layers, times the teacher's; None if not measured."""
    speeds = _table("paper_speed.csv", "encoder", "batch_size", "queries_per_second")
    measured = speeds.filter(like=f"_{layers}layer_", axis=0)
    if measured.empty or batch_size not in speeds:
        return None
    return float(measured[batch_size].iloc[0] / speeds.loc[TEACHER, batch_size])


def paper_scores() -> "pandas.DataFrame":
    """nDCG@10, a row for each query encoder, a column for each data set."""
    return _table("paper_retrieval.csv", "query_encoder", "dataset", "NDCG@10")


@cache
def _table(name: str, rows: str, columns: str, values: str) -> "pandas.DataFrame":
    import pandas

    table = pandas.read_csv(Path(__file__).with_name(name))
    return table.pivot_table(values, rows, columns)  # the mean of rows that stand twice
