"""The tables and figures of a sweep, beside the paper's."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from disret.distil.student_folder import read_report
from disret.files import whole_file
from disret.retrieve.metrics import retention
from disret.retrieve.scores import newest_scores, read_scores
from disret.sweep.paper import paper_models, paper_retention, paper_speedup, paper_student
from disret.sweep.plots import plot_layers, plot_throughput, plot_tradeoff, timed_on
from disret.sweep.students import PAPER_DEPTH, subsets
from disret.tables import Row, markdown_table, read_rows, write_rows

METRIC = "NDCG@10"


class Scored(NamedTuple):
    """A student with what was measured of it.

    Attributes:
        layers: how many it has.
        choice: which of the teacher's, as `subsets` calls it; empty for another model's.
        scores: by data set, the metrics.
        retention: percent of the teacher's nDCG@10, averaged over the data sets.
        speeds: by batch size, queries per second of its size.
    """

    name: str
    layers: int
    choice: str
    scores: dict[str, dict[str, float]]
    retention: float
    speeds: dict[int, float]


def write_report(folder: Path, teacher: str, depth: int, students: Mapping[str, Path]) -> str:
    """Write `sweep.csv` from `scores.csv` and `speed.csv`, then what `draw` makes of it.

    Args:
        folder: of the sweep.
        students: the folder of each student, by its name such as `layers 0 5`.

    Returns:
        The tables.
    """
    timings = read_rows(folder / "speed.csv")
    rows = read_scores(folder / "scores.csv")
    newest = newest_scores(rows, itemgetter("query_weights"))  # names may be spelt otherwise
    choices = {" ".join(map(str, layers)): choice for layers, choice in subsets(depth).items()}
    timed = {row["encoder"] for row in timings}
    of_size = {row["parameters"]: row["encoder"] for row in timings}
    encoders = {"teacher": (rows[-1]["document_weights"], depth, teacher)}
    for name, path in students.items():
        report = read_report(path)
        size = report["size"]
        timed_as = str(path) if str(path) in timed else of_size[size["parameters"]]
        encoders[name] = report["student_sha256"][:16], size["layers"], timed_as
    reference = newest[encoders["teacher"][0]]
    sets = [name for name in reference if all(name in newest[w] for w, *_ in encoders.values())]
    tidy = [
        {
            "student": name,
            "layers": layers,
            "choice": choices.get(name.removeprefix("layers "), ""),
            "dataset": dataset,
            "metric": metric,
            "value": value,
            "retention": retention(value, reference[dataset][metric]),
            "queries_per_second": max(speeds_of(timings, timed_as).items())[1],
            "timed_as": timed_as,
        }
        for name, (weights, layers, timed_as) in encoders.items()
        for dataset in sets
        for metric, value in newest[weights][dataset].items()
        if "@" in metric and value is not None
    ]
    write_rows(folder / "sweep.csv", tidy)
    return draw(folder)


def draw(folder: Path) -> str:
    """Write `tables.md` and three figures from `sweep.csv` and `speed.csv`.

    Returns:
        The tables.
    """
    timings = read_rows(folder / "speed.csv")
    teacher, *found = read_sweep(folder)
    sets, largest = list(teacher.scores), max(teacher.speeds)
    tables = [
        students_table(found, teacher),
        models_table(sets),
        speed_table(found, teacher, timings[0]["dataset"]),
    ]
    text = "\n\n".join(map(markdown_table, tables))
    with whole_file(folder / "tables.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")

    ours = [
        {"layers": s.layers, "retention": s.retention, "name": s.name.removeprefix("layers ")}
        for s in found if s.choice
    ]  # fmt: skip
    papers = [
        {"layers": len(layers), "retention": paper_retention(paper_student(layers)),
         "name": " ".join(map(str, layers))}
        for layers in subsets(PAPER_DEPTH)
    ]  # fmt: skip
    where = " and ".join(sets) if len(sets) < 4 else f"{len(sets)} sets"
    name = Path(timings[0]["encoder"]).name
    plot_layers({f"{name}, {where}": ours, "the paper, 15 sets": papers}, folder / "layers.png")
    best = [max(group, key=lambda s: s.retention) for group in by_size(found)]
    points = [
        {"name": s.name, "speedup": s.speeds[largest] / teacher.speeds[largest],
         "retention": s.retention}
        for s in [teacher, *best]
    ]  # fmt: skip
    plot_tradeoff(
        points, folder / "tradeoff.png", f"{name}, retention on {where}; {timed_on(timings)}"
    )
    speeds = {s.name: s.speeds for s in [teacher, *best]}
    plot_throughput(speeds, folder / "throughput.png", timed_on(timings))
    return text


def read_sweep(folder: Path) -> list[Scored]:
    """The encoders of `sweep.csv` and `speed.csv`, the teacher first."""
    timings = read_rows(folder / "speed.csv")
    by_name: dict[str, list[Row]] = {}
    for row in read_rows(folder / "sweep.csv"):
        by_name.setdefault(row["student"], []).append(row)
    found = []
    for name, rows in by_name.items():
        scores: dict[str, dict[str, float]] = {}
        for row in rows:
            scores.setdefault(row["dataset"], {})[row["metric"]] = row["value"]
        share = mean(row["retention"] for row in rows if row["metric"] == METRIC)
        first = rows[0]
        speeds = speeds_of(timings, first["timed_as"])
        found.append(Scored(name, first["layers"], first["choice"] or "", scores, share, speeds))
    return found


def speeds_of(timings: Sequence[Mapping[str, Any]], encoder: str) -> dict[int, float]:
    """Queries per second of an encoder by batch size."""
    return {
        row["batch_size"]: row["queries_per_second"] for row in timings if row["encoder"] == encoder
    }


def students_table(found: Sequence[Scored], teacher: Scored) -> list[Row]:
    """Each student beside the paper's of the same choice; difference in points of retention."""
    papers = {choice: layers for layers, choice in subsets(PAPER_DEPTH).items()}
    largest = max(teacher.speeds)
    rows = []
    for student in found:
        layers = papers.get(student.choice)
        there, everywhere = (
            paper_retention(paper_student(layers), sets) if layers else None
            for sets in (list(teacher.scores), None)
        )
        speed = student.speeds[largest]
        rows.append({
            "student": student.name,
            "choice": student.choice,
            **{f"{d} nDCG@10": f"{values[METRIC]:.4f}" for d, values in student.scores.items()},
            "retention": percent(student.retention),
            f"queries/s, batch {largest}": f"{speed:.0f} ({speed / teacher.speeds[largest]:.1f}x)",
            "paper, layers of 12": " ".join(map(str, layers)) if layers else "",
            "paper, on these sets": percent(there),
            "difference": f"{student.retention - there:+.1f}" if there else "",
            "paper, on 15 sets": percent(everywhere),
        })  # fmt: skip
    return rows


def models_table(sets: Sequence[str]) -> list[Row]:
    """The paper's students that started from other models."""
    return [
        {"the paper's other students, from": name,
         "retention on these sets": percent(paper_retention(name, sets)),
         "on 15 sets": percent(paper_retention(name))}
        for name in paper_models()
    ]  # fmt: skip


def speed_table(found: Sequence[Scored], teacher: Scored, queries: str) -> list[Row]:
    """Speed-up of each size by batch size, beside the paper's of as many layers on NQ's queries.

    Args:
        queries: the data set whose queries were encoded.
    """
    rows = []
    for student, *_ in by_size(found):
        what = f"{student.layers} of {teacher.layers} layers" if student.choice else student.name
        row = {f"speed-up on queries of {queries}": what}
        for size, speed in student.speeds.items():
            there = paper_speedup(student.layers, size) if student.choice else None
            beside = f" (paper, nq: {there:.1f}x)" if there else ""
            row[f"batch {size}"] = f"{speed / teacher.speeds[size]:.1f}x{beside}"
        rows.append(row)
    return rows


def by_size(found: Sequence[Scored]) -> list[list[Scored]]:
    """Students of the teacher's layers by their number; each other student by itself."""
    groups: dict[int | str, list[Scored]] = {}
    for student in found:
        key = student.layers if student.choice else student.name
        groups.setdefault(key, []).append(student)
    return list(groups.values())


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
