"""The tables and figures of a sweep, beside the paper's."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

from disret.distil.student_folder import read_report
from disret.files import whole_file
from disret.retrieve.metrics import retention
from disret.retrieve.scores import newest_scores, read_scores
from disret.sweep.paper import paper_models, paper_retention, paper_speedup, paper_student
from disret.sweep.plots import plot_layers, plot_throughput, plot_tradeoff, timed_on
from disret.sweep.students import PAPER_DEPTH, Student, subsets
from disret.tables import Row, markdown_table, read_rows, write_rows

METRIC = "NDCG@10"


class Scored(NamedTuple):
    """An encoder with what was measured of it.

    Attributes:
        layers: how many it has.
        choice: which of the teacher's, as `subsets` calls it; empty for another model's.
        retention: percent of the teacher's nDCG@10, averaged over the data sets.
        scores: nDCG@10 by data set.
        speeds: by batch size, queries per second of its size.
        centred_cosine: to the teacher, of held-out queries; nan where a sweep lacks it.
    """

    name: str
    layers: int
    choice: str
    retention: float
    scores: dict[str, float]
    speeds: dict[int, float]
    centred_cosine: float


def write_report(
    folder: Path, teacher: str, depth: int, students: Sequence[Student], timed: Mapping[str, Path]
) -> str:
    """Write `sweep.csv` from `scores.csv` and `speed.csv`, then what `draw` makes of it.

    Args:
        depth: the teacher's number of layers.
        timed: the folder of the student that was timed, by `size`.
    """
    speeds = {row["encoder"]: row["queries_per_second"]  # of the last batch size, the largest
              for row in read_rows(folder / "speed.csv")}  # fmt: skip
    rows = read_scores(folder / "scores.csv")
    newest = newest_scores(rows, itemgetter("query_weights"))  # names may be spelt otherwise
    reference = newest[rows[-1]["document_weights"]]
    encoders = [("teacher", depth, "", teacher, 1.0, reference)]
    for student in students:
        report = read_report(student.folder(folder))
        scores = newest[report["student_sha256"][:16]]
        timed_as = str(timed[student.size])
        layers = report["size"]["layers"]
        near = report.get("centred_cosine")
        encoders.append((student.name, layers, student.choice, timed_as, near, scores))
    tidy = [
        {
            "student": name,
            "layers": layers,
            "choice": choice,
            "dataset": dataset,
            "metric": metric,
            "value": value,
            "retention": retention(value, row[metric]),
            "queries_per_second": speeds[timed_as],
            "timed_as": timed_as,
            "centred_cosine": near,
        }
        for name, layers, choice, timed_as, near, scores in encoders
        for dataset, row in reference.items()
        if all(dataset in scores for *_, scores in encoders)
        for metric, value in scores[dataset].items()
        if "@" in metric and value is not None
    ]
    write_rows(folder / "sweep.csv", tidy)
    return draw(folder)


def draw(folder: Path) -> str:
    """Write `tables.md` and three figures from `sweep.csv` and `speed.csv`; return the tables."""
    timings = read_rows(folder / "speed.csv")
    teacher, *found = read_sweep(folder)
    sets, largest = list(teacher.scores), max(teacher.speeds)
    others = [
        {"the paper's other students, from": name,
         "retention on these sets": percent(paper_retention(name, sets)),
         "on 15 sets": percent(paper_retention(name))}
        for name in paper_models()
    ]  # fmt: skip
    by_size = [
        list(students) for _, students in groupby(found, lambda s: s.layers if s.choice else s.name)
    ]
    speeds = speed_table([students[0] for students in by_size], teacher, timings[0]["dataset"])
    text = "\n\n".join(map(markdown_table, (students_table(found, teacher), others, speeds)))
    with whole_file(folder / "tables.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")

    ours = [(s.layers, s.retention, s.name.removeprefix("layers ")) for s in found if s.choice]
    papers = [
        (len(layers), paper_retention(paper_student(layers)), " ".join(map(str, layers)))
        for layers in subsets(PAPER_DEPTH)
    ]
    where = " and ".join(sets) if len(sets) < 4 else f"{len(sets)} sets"
    name = Path(timings[0]["encoder"]).name
    plot_layers({f"{name}, {where}": ours, "the paper, 15 sets": papers}, folder / "layers.png")
    shown = [teacher, *(max(students, key=attrgetter("retention")) for students in by_size)]
    points = [(s.name, s.speeds[largest] / teacher.speeds[largest], s.retention) for s in shown]
    source = f"{name}, retention on {where}; {timed_on(timings)}"
    plot_tradeoff(points, folder / "tradeoff.png", source)
    plot_throughput({s.name: s.speeds for s in shown}, folder / "throughput.png", timed_on(timings))
    return text


def read_sweep(folder: Path) -> list[Scored]:
    """The encoders of `sweep.csv` and `speed.csv`, the teacher first."""
    import pandas

    timings = pandas.read_csv(folder / "speed.csv").set_index("batch_size")
    rows = pandas.read_csv(folder / "sweep.csv", dtype={"choice": str}).fillna({"choice": ""})
    found = []
    for name, own in rows[rows["metric"] == METRIC].groupby("student", sort=False):
        layers, choice, timed_as = own.iloc[0][["layers", "choice", "timed_as"]]
        scores = own.set_index("dataset")["value"].to_dict()
        speeds = timings["queries_per_second"][timings["encoder"] == timed_as].to_dict()
        kept, near = own["retention"].mean(), float(own.iloc[0].get("centred_cosine", math.nan))
        found.append(Scored(name, layers, choice, kept, scores, speeds, near))
    return found


def students_table(found: Sequence[Scored], teacher: Scored) -> list[Row]:
    """Each student beside the paper's of the same choice; difference in points of retention."""
    papers = {choice: layers for layers, choice in subsets(PAPER_DEPTH).items()}
    largest = max(teacher.speeds)
    rows = []
    for student in found:
        layers = papers.get(student.choice, ())
        there, everywhere = (
            paper_retention(paper_student(layers), sets) if layers else None
            for sets in (list(teacher.scores), None)
        )
        speed = student.speeds[largest]
        rows.append({
            "student": student.name,
            "choice": student.choice,
            **{f"{dataset} nDCG@10": f"{value:.4f}" for dataset, value in student.scores.items()},
            "retention": percent(student.retention),
            **({} if math.isnan(near := student.centred_cosine) else
               {"centred cosine": f"{near:.3f}"}),
            f"queries/s, batch {largest}": f"{speed:.0f} ({speed / teacher.speeds[largest]:.1f}x)",
            "paper, layers of 12": " ".join(map(str, layers)),
            "paper, on these sets": percent(there),
            "difference": f"{student.retention - there:+.1f}" if there else "",
            "paper, on 15 sets": percent(everywhere),
        })  # fmt: skip
    return rows


def speed_table(of_sizes: Sequence[Scored], teacher: Scored, queries: str) -> list[Row]:
    """Speed-up of a student of each size by batch size, beside the paper's on NQ's queries."""
    rows = []
    for student in of_sizes:
        what = f"{student.layers} of {teacher.layers} layers" if student.choice else student.name
        row = {f"speed-up on queries of {queries}": what}
        for size, speed in student.speeds.items():
            there = paper_speedup(student.layers, size) if student.choice else None
            beside = f" (paper, nq: {there:.1f}x)" if there else ""
            row[f"batch {size}"] = f"{speed / teacher.speeds[size]:.1f}x{beside}"
        rows.append(row)
    return rows


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
