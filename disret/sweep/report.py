"""The tables and figures of a sweep, beside the paper's."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from disret.files import read_json, whole_file
from disret.retrieve.metrics import retention
from disret.retrieve.score_file import newest_scores
from disret.sweep.paper_figures import (
    paper_models,
    paper_retention,
    paper_speedup,
    paper_student,
)
from disret.sweep.plots import plot_layers, plot_throughput, plot_tradeoff
from disret.sweep.subsets import PAPER_DEPTH, subsets
from disret.tables import markdown_table, read_rows, write_rows

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
    """Write `sweep.csv`, `tables.md` and three figures from `scores.csv` and `speed.csv`.

    Args:
        folder: of the sweep.
        students: the folder of each student, by its name such as `layers 0 5`.

    Returns:
        The tables.
    """
    timings = read_rows(folder / "speed.csv")
    # By weights, as names may be spelt otherwise.
    rows = read_rows(folder / "scores.csv")
    newest = newest_scores(rows, itemgetter("query_weights"))
    of_teacher = rows[-1]["document_weights"]
    reports = {name: read_json(path / "distillation.json") for name, path in students.items()}
    weights = {name: report["student_sha256"][:16] for name, report in reports.items()}
    sets = [name for name in newest[of_teacher] if all(name in newest[w] for w in weights.values())]

    def metrics(encoder: str) -> dict[str, dict[str, float]]:
        return {
            name: {k: v for k, v in newest[encoder][name].items() if "@" in k and v is not None}
            for name in sets
        }

    reference = metrics(of_teacher)
    parameters = {row["parameters"]: speeds_of(timings, row["encoder"]) for row in timings}
    baseline = Scored("teacher", depth, "", reference, 100.0, speeds_of(timings, teacher))
    choices = {" ".join(map(str, s.layers)): s.choice for s in subsets(depth)}
    found = []
    for name, report in reports.items():
        values = metrics(weights[name])
        share = mean(100 * values[d][METRIC] / reference[d][METRIC] for d in sets)
        choice = choices.get(name.removeprefix("layers "), "")
        speeds = speeds_of(timings, str(students[name])) or parameters[report["size"]["parameters"]]
        found.append(Scored(name, report["size"]["layers"], choice, values, share, speeds))
    write_rows(folder / "sweep.csv", tidy([baseline, *found], reference))
    tables = "\n\n".join(
        [
            students_table(found, baseline, sets),
            models_table(sets),
            speed_table(found, baseline, timings[0]["dataset"]),
        ]
    )
    with whole_file(folder / "tables.md") as partial:
        partial.write_text(tables + "\n", encoding="utf-8")

    ours = [
        {"layers": s.layers, "retention": s.retention, "name": s.name.removeprefix("layers ")}
        for s in found if s.choice
    ]  # fmt: skip
    papers = [
        {"layers": len(s.layers), "retention": paper_retention(paper_student(s.layers)),
         "name": " ".join(map(str, s.layers))}
        for s in subsets(PAPER_DEPTH)
    ]  # fmt: skip
    where = " and ".join(sets) if len(sets) < 4 else f"{len(sets)} sets"
    panels = {f"{Path(teacher).name}, {where}": ours, "the paper, 15 sets": papers}
    plot_layers(panels, folder / "layers.png")
    largest = max(baseline.speeds)
    best = [max(group, key=lambda s: s.retention) for group in by_size(found).values()]
    points = [
        {"name": s.name, "speedup": s.speeds[largest] / baseline.speeds[largest],
         "retention": s.retention}
        for s in best
    ]  # fmt: skip
    plot_tradeoff(points, folder / "tradeoff.png")
    lines = {s.name: s.speeds for s in [baseline, *best]}
    plot_throughput(lines, folder / "throughput.png")
    return tables


def speeds_of(timings: Sequence[Mapping[str, Any]], encoder: str) -> dict[int, float]:
    """Queries per second of an encoder by batch size."""
    return {
        row["batch_size"]: row["queries_per_second"] for row in timings if row["encoder"] == encoder
    }


def tidy(
    encoders: Sequence[Scored], reference: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """A row for each encoder, data set and metric; speeds are of the largest batch size."""
    return [
        {
            "student": encoder.name,
            "layers": encoder.layers,
            "choice": encoder.choice,
            "dataset": dataset,
            "metric": metric,
            "value": value,
            "retention": retention(value, reference[dataset][metric]),
            "queries_per_second": encoder.speeds[max(encoder.speeds)],
        }
        for encoder in encoders
        for dataset, metrics in encoder.scores.items()
        for metric, value in metrics.items()
    ]


def students_table(found: Sequence[Scored], teacher: Scored, sets: Sequence[str]) -> str:
    """Each student beside the paper's of the same choice; difference in points of retention."""
    papers = {s.choice: s.layers for s in subsets(PAPER_DEPTH)}
    largest = max(teacher.speeds)
    rows = []
    for student in found:
        kept = papers.get(student.choice)
        there = paper_retention(paper_student(kept), sets) if kept else None
        everywhere = paper_retention(paper_student(kept)) if kept else None
        rows.append({
            "student": student.name,
            "choice": student.choice,
            **{f"{name} nDCG@10": f"{student.scores[name][METRIC]:.4f}" for name in sets},
            "retention": percent(student.retention),
            f"queries/s, batch {largest}": f"{student.speeds[largest]:.0f} "
            f"({student.speeds[largest] / teacher.speeds[largest]:.1f}x)",
            "paper, layers of 12": " ".join(map(str, kept)) if kept else "",
            "paper, on these sets": percent(there),
            "difference": f"{student.retention - there:+.1f}" if there else "",
            "paper, on 15 sets": percent(everywhere),
        })  # fmt: skip
    return markdown_table(rows)


def models_table(sets: Sequence[str]) -> str:
    """The paper's students that started from other models."""
    return markdown_table([
        {"the paper's other students, from": name,
         "retention on these sets": percent(paper_retention(name, sets)),
         "on 15 sets": percent(paper_retention(name))}
        for name in paper_models()
    ])  # fmt: skip


def speed_table(found: Sequence[Scored], teacher: Scored, queries: str) -> str:
    """Speed-up of each size by batch size, beside the paper's of as many layers on NQ's queries.

    Args:
        queries: the data set whose queries were encoded.
    """
    rows = []
    for group in by_size(found).values():
        student = group[0]
        what = f"{student.layers} of {teacher.layers} layers" if student.choice else student.name
        row: dict[str, Any] = {f"speed-up on queries of {queries}": what}
        for size, speed in student.speeds.items():
            there = paper_speedup(student.layers, size) if student.choice else None
            beside = f" (paper, nq: {there:.1f}x)" if there else ""
            row[f"batch {size}"] = f"{speed / teacher.speeds[size]:.1f}x{beside}"
        rows.append(row)
    return markdown_table(rows)


def by_size(found: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Students of the teacher's layers by their number; each other student by itself."""
    groups: dict[str, list[Scored]] = {}
    for student in found:
        groups.setdefault(str(student.layers) if student.choice else student.name, []).append(
            student
        )
    return groups


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
